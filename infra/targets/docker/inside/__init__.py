"""Scripts that run inside of containers: standard library only."""
