"""Procedural portraits: who a person is, where they are, what they do, and the words for it."""
