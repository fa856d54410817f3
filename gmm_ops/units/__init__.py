"""What units and words detect: activation histograms, thresholds, overlaps with concepts, unions."""
