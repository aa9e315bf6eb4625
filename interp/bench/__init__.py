"""Benchmarks: commands that measure this package against its peers, on speed and on agreement."""
