"""Reaching a Postgres: connections, the administrator's way, TLS, and what it says of itself."""
