"""JumpReLU with its straight-through gradients.

Rajamanoharan et al. 2024, "Jumping Ahead", arXiv 2407.14435, equations 11 and 12: neither the jump nor the count of
latents above their threshold has a gradient towards the threshold, so a window of width ``bandwidth`` around it gives
one. One kernel forward; one backward, which goes through entries sorted by latent and adds each threshold's
gradient up in order.
"""
