"""Pulumi components, one a file: what a stack is made of."""
