"""Where backups are kept: one Protocol, and a folder, S3 and memory behind it."""
