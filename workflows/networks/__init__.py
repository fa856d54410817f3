"""Frozen networks: loading, taps at modelled layers, and the windows R(p) traced from the network's graph."""
