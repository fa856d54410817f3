"""Is a graph what the network does: columns changed word by word, what that costs a class, and how sure it is."""
