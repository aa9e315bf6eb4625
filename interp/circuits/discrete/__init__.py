"""Circuits from a discrete coder: heads whose outputs have codes of their own on positive prompts."""

from interp.circuits.discrete.find import find_discrete_circuit as find_discrete_circuit
