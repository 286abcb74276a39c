"""Drills: is a backup one that would be restored? One is, far from everything that is alive."""
