"""A dictionary larger than one device holds: its words sliced over actors, which meet in small reductions.

Each slice holds (K_own, D) of the K words and sees every column. Per tile of columns the slices reduce the best score
and the sum of exponentials, (n,) numbers each; posteriors, statistics, gradients and moments stay with their words.
"""
