"""Batches of a training: where they begin."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.coders.sources import tensor_activations
from interp.errors import CoderError

CONFIG = interp.CoderConfig("topk", d_sae=12, k=2)
OPTIONS = {"batch_size": 16, "buffer_rows": 32, "start_rows": 16, "progress": False}


def test_a_source_that_was_read_begins_anew() -> None:
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    source = tensor_activations(x)
    first, second = (interp.train_coder(CONFIG, source, **OPTIONS) for _ in range(2))
    assert torch.equal(first.W_enc, second.W_enc)


def test_an_iterator_goes_on_where_it_stands() -> None:
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    chunks = iter(x.split(20))
    source = tensor_activations(chunks)
    source.next_chunk()
    found = interp.train_coder(CONFIG, source, **OPTIONS)
    assert torch.equal(found.W_enc, interp.train_coder(CONFIG, iter(x[20:].split(20)), **OPTIONS).W_enc)
    with pytest.raises(CoderError, match="no rows"):
        interp.train_coder(CONFIG, source, **OPTIONS)
