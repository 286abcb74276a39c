"""Making, keeping and restoring copies of a deployment."""
