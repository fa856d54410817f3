"""How sure a graph is: intervals of log ratios, stability of chosen words."""
