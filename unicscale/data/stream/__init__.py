"""Which image comes when, and the threads that decode it in time."""
