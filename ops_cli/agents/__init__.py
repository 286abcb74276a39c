"""Agents and agent files: what the command line does with them."""
