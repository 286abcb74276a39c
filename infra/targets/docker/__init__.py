"""The target docker: hardened containers of our own images."""
