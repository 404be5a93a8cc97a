"""Measures of what a model made: likeness of faces."""
