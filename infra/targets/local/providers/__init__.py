"""The dynamic providers of the target local."""
