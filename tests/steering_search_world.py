"""Small models and candidates for tests of searches and detectors."""

from __future__ import annotations

from functools import cache

import torch
from tiny_models import make_hf_model

import interp
from interp.steering.contrast import ContrastRows
from interp.steering.search.candidates import Candidate, Candidates
from interp.types import Site

D_VOCAB = 53


@cache
def tiny(family="gpt2", n_layers=3):
    """A random model, loaded once a family."""
    return interp.load_model(make_hf_model(family, n_layers=n_layers, seed=1))


def planted_model(kinds, size):
    """A random model in which the tokens of each side of a kind share a direction of their embeddings.

    A kind gives the range of tokens of its two sides, ``{True: (start, stop), False: (start, stop)}``.
    """
    hf = make_hf_model("gpt2", n_layers=3, seed=1)
    draw = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(36, len(kinds), generator=draw))[0].T
    with torch.no_grad():
        for kind, direction in zip(kinds, directions, strict=True):
            for side, (start, stop) in kind.items():
                hf.transformer.wte.weight[start:stop] += (size if side else -size) * direction
    return interp.load_model(hf)


def prompts(n, low, high, seed=0, shortest=5, longest=8):
    """Rows of tokens from a part of the vocabulary, of several lengths."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (n,), generator=draw).tolist()
    return [torch.randint(low, high, (k,), generator=draw) for k in lengths]


def candidates_of(layers: list[ContrastRows]) -> Candidates:
    """Candidates at ``resid_post`` of each layer, from rows of activations."""
    every = []
    for layer, rows in enumerate(layers):
        site = Site("resid_post", layer)
        every.append(Candidate(site, "all", site, rows, rows.mean_difference))
    return Candidates(tuple(every), tuple(str(one.place) for one in every), ("all",), "made", "")
