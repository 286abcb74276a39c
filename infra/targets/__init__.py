"""Targets, one a file: which components a stack is made of where it runs."""
