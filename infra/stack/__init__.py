"""What only describes a stack: its settings, profile, secrets, names and paths."""
