"""Gradients of prefix attention."""
