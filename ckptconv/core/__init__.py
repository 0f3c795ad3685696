"""Plain data: dtypes, tensors that have not been read, metadata trees, findings. No file is touched here."""
