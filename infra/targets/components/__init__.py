"""Pulumi components that every target has."""
