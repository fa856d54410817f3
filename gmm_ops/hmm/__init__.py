"""Chains of dense layers: hidden Markov models whose states are the words of each layer (IG Sec. 3.1)."""
