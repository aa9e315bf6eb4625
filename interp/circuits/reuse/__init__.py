"""Circuits across tasks: what they share, what they do to each other's tasks, and repair by another's attention."""
