"""What a local stack is made of, one component a file."""
