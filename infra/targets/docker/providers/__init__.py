"""The dynamic providers of the target docker."""
