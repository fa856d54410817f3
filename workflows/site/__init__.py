"""The report site of a run: one page that opens from disk, its data in chunks; from tables and saved pictures only."""
