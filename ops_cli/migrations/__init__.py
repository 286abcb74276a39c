"""Bringing a server to another release: planned, rehearsed, applied, rolled back."""
