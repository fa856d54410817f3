"""Figures and terminal tables, made from tables and saved pictures only."""
