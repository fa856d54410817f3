"""How far do runs agree: words matched, columns that graphs cover, nodes that other runs have too."""
