"""Figures for the README: one module a figure, each a ratio against what a user would run otherwise."""
