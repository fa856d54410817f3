"""Dictionaries: diagonal Gaussian mixtures, their E-step, M-step and online EM (IG section 3)."""
