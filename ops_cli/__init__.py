"""The command line, and the jobs that only it does."""
