"""The study locate: where a part is on every object, from three annotated ones (the And-Or graph)."""
