"""What a run will take, from a trial of itself; told before it starts, and held against what it took."""
