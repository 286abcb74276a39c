"""What runs where the memory lies, as the account that owns it: standard library only."""
