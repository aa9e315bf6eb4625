"""The entries above a limit of their column, row by row.

One pass over the matrix writes a bit for every entry and counts them; the host waits once, for their number; the
second pass reads bits, and of the matrix only what is kept.
"""
