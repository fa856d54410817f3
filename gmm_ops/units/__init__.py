"""Units (channels) of a layer and words: what they detect, which of them matter, what breaks without them."""
