"""The families of the paper, registered as any third party would register its own."""
