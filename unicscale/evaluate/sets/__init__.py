"""The data sets that the tasks read, and how each lies on disk."""
