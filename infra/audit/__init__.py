"""Who did what to a deployment."""
