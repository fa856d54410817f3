"""Which channels matter for a decision, by resampling the input, and which patches of the image they see."""
