"""Which units matter to a class: conductance of every unit of every convolution."""
