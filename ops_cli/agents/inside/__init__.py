"""What runs in a Letta release's own interpreter, without our packages."""
