"""`letta-ops registry`: which agent is whose."""
