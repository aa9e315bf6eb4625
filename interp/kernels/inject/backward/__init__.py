"""Gradients of injection: through the norm, back into tables, and along directions."""
