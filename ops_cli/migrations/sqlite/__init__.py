"""What a server of Letta 0.11 keeps in SQLite, brought into Postgres."""
