"""SQL over the tables of a run, confined: it reads these tables and nothing else, and writes nothing."""
