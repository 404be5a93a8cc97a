"""Augmenters: a reference in another light, in front of another background, with another expression."""
