"""How Pulumi's state names our providers. This folder never moves: what it names, may."""
