"""Long-running jobs, one file each."""
