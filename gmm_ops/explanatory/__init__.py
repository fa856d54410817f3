"""The explanatory graph of part patterns hidden in units, and the And-Or graph that finds parts by them (EG)."""
