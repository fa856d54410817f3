"""Dictionaries trained to carry the network's decision (IG Eq. 8): word histograms, a linear layer, cross entropy."""
