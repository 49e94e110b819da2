"""Which single weights an edit may touch."""
