"""Putting a backup in the place of what is there: planned, made beside, proven, switched, undone."""
