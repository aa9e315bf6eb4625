"""Shapes at which kernels are checked and timed, one file an operation."""
