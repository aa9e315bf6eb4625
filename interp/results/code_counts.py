"""Counting codes: how many a head shows on positive prompts and on no negative one.

Codes unique to positives are all different codes less the different ones among the negatives, which a
sort answers for every head at once; written out in sets this is the same (tests do).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int


def count_different(codes: Int[np.ndarray, "prompt *rest"]) -> Int[np.ndarray, "*rest"]:
    """How many different codes there are along the first axis."""
    ordered = np.sort(codes, axis=0)
    found: np.ndarray = 1 + (ordered[1:] != ordered[:-1]).sum(axis=0)
    return found


def count_unique(
    codes: Int[np.ndarray, "prompt *rest"], positive: Bool[np.ndarray, " prompt"]
) -> tuple[Int[np.ndarray, "*rest"], Int[np.ndarray, "*rest"]]:
    """Different codes seen on positive prompts only, and different codes seen on any prompt."""
    union = count_different(codes)
    return union - count_different(codes[~positive]), union


def count_unique_pairs(
    codes: Int[np.ndarray, "prompt layer head"], positive: Bool[np.ndarray, " prompt"]
) -> tuple[Int[np.ndarray, "sender receiver"], Int[np.ndarray, "sender receiver"]]:
    """The same for pairs of codes that a head and a head of a later layer show on one prompt.

    Senders and receivers are all heads, layer by layer; 0 where the receiver is in no later layer.
    """
    n_prompts, n_layers, n_heads = codes.shape
    n = n_layers * n_heads
    flat = codes.reshape(n_prompts, n).astype(np.int64)
    width = int(flat.max()) + 1
    unique, union = np.zeros((n, n), dtype=np.int64), np.zeros((n, n), dtype=np.int64)
    for sender in range(n - n_heads):
        later = (sender // n_heads + 1) * n_heads
        pairs = flat[:, sender, None] * width + flat[:, later:]
        unique[sender, later:], union[sender, later:] = count_unique(pairs, positive)
    return unique, union
