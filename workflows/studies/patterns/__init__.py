"""The study patterns: which parts of an object units show, and how they move together (EG)."""
