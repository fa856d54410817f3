"""Tests of the plan before the work."""
