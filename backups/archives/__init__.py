"""Agent archives: every row that belongs to an agent, out of a database and back into one."""
