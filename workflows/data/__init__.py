"""From pictures on disk to the network's input: index, read, decode, prepare."""
