"""A Postgres that is there already, for every target: what must hold of it, and how it is marked."""
