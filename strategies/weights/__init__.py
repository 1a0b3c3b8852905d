"""Whose update counts how much."""
