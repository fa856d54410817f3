"""Word maps to inference graphs: windows R(p), exact co-occurrence, Algorithm 1, exemplars."""
