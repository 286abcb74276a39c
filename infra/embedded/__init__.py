"""Dynamic providers of the local target: each makes, reads, compares, changes and removes one thing."""
