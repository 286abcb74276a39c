"""Dynamic providers of every target: each makes, reads, compares, changes and removes one thing."""
