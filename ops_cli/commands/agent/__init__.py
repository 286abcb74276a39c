"""`letta-ops agent`: what is done with agents, one by one or many."""
