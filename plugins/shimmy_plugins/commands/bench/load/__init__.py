"""``shimmy bench-load``: a server and its peers under many clients at once."""
