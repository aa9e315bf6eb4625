"""The n largest entries of a whole matrix, without waiting for the host.

The maxima of groups of neighbours are written in one pass over the matrix; n groups are chosen by their maxima, and n
entries among their members. Both choices count digits of keys, eight bits a pass, until the n-th largest is
known; then every tile counts what it keeps, and writes it where the counts before it end. Integers are added
atomically, which gives the same sums in any order; ties go to the lowest place.
"""
