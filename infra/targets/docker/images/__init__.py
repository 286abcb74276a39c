"""Our images, and how they are built."""
