"""Sources of columns, checkpoints and histories: what a rank of an actor group adds to a fit."""
