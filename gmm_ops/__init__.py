"""The method for arrays: torch tensors in, tensors out; no files, no cluster, no settings."""
