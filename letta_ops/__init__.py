"""What applications import of letta-ops: small, without Pulumi and without the command line."""
