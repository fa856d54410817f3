"""What a run will do: layers, shapes, windows, scopes, requests."""
