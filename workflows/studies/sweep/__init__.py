"""How many words, by which loss."""
