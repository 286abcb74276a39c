"""Docker's engine: a client, commands in containers, jobs, tunnels."""
