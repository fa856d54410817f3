"""How sure a graph is: intervals of its log ratios, stability of its words."""
