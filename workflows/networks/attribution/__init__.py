"""What of a network's answer belongs to which unit: gradients along a path, deconvolution."""
