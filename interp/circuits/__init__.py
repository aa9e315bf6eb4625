"""Circuits: finding the edges of a model that a behaviour runs through, and proving that they do."""

from interp.circuits.discrete import find_discrete_circuit as find_discrete_circuit
