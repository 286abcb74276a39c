"""The way out: agents of a V1 server, as the successor (letta-code's local backend) keeps them."""
