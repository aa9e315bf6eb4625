"""Circuits: finding the edges of a model that a behaviour runs through, and proving that they do."""
