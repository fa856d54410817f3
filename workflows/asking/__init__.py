"""What every study has: a finished run, a request, shards over actors, parts that add up, a summary."""
