"""The deployment: what it is, how to reach it, how to build it."""
