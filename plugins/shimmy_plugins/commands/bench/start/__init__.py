"""``shimmy bench-start``: from starting a server to the first token."""
