"""What a docker stack is made of, one component a file."""
