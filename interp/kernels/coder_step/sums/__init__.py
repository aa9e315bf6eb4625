"""Sums over entries: of each row (decoder, gradient of the input), of each latent (gradients of both weights).

Sums by latent go through entries sorted by latent, each output row written once, zeros too. A latent that fires in
very many rows would hold one program up: whole pieces of the sorted list that lie within one latent are summed by
programs of their own, and added in order. No float is added atomically: equal inputs give equal bits, sums of rows
within one process (in the next, tuning may choose tiles that add in another order).
"""
