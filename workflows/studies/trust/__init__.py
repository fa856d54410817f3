"""Is a graph what the network does: its words taken out beside controls, curves, edges, completeness of layers."""
