"""The excess 0-1 risk within the distance to p*, with the constants that cannot be lowered."""
