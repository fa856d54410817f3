"""What to run (presets) and where (cluster)."""
