"""Driving Pulumi: its CLI, its projects and its state, its events."""
