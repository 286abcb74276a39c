"""`letta-ops migrate`: going to another release."""
