"""Columns and word maps read back; dictionaries in use: assigning, judging, summarising, paths."""
