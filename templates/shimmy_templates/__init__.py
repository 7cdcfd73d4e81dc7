"""Chat templates of model families (data package)."""
