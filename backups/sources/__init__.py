"""What a backup is made of: the database, git memory, the deployment's configuration."""
