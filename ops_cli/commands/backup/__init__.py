"""`letta-ops backup`: one module a verb, or a few that belong together; `app.py` has them all."""
