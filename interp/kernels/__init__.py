"""Kernels: each operation beside its plain reference. Nothing here needs more than torch and Triton."""
