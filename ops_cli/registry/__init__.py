"""What `letta-ops registry` does beyond what applications do themselves."""
