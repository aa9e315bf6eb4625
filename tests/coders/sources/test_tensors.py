"""Sources of activations that are there already, and whatever else may stand for a source."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import torch
from activation_rows import read_all, same_rows, through_json

from interp.coders.batch import CoderBatch
from interp.coders.sources import (
    ActivationSource,
    SourceLayout,
    as_source,
    cache_activations,
    tensor_activations,
)
from interp.errors import CoderError, DataFileError

X = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
SITES = torch.randn(23, 3, 5, generator=torch.Generator().manual_seed(1))


def _chunks() -> list[torch.Tensor]:
    return list(X.split(7))


class TestTensor:
    def test_rows_in_order(self):
        source = tensor_activations(X, chunk_rows=7)
        chunks = [source.next_chunk() for _ in range(5)]
        assert [None if chunk is None else len(chunk) for chunk in chunks] == [7, 7, 7, 2, None]
        assert torch.equal(torch.cat([chunk.x for chunk in chunks[:4]]), X)
        assert chunks[0].is_reconstruction
        assert source.layout == SourceLayout(5, 5)

    def test_target_gradient_and_numbers(self):
        token = torch.arange(23)
        source = tensor_activations(
            SITES, X, SITES * 2, token=token, prompt=token // 2, sites=["a", "b", "c"], target_sites=["d"]
        )
        found = read_all(source)
        assert torch.equal(found.target, X)
        assert torch.equal(found.grad, SITES * 2)
        assert torch.equal(found.prompt, token // 2)
        assert found.position is None
        assert source.layout == SourceLayout(5, 5, 3, 0, ("a", "b", "c"), ("d",), has_grad=True)

    def test_graphs_are_not_kept(self):
        assert not tensor_activations(X.clone().requires_grad_()).next_chunk().x.requires_grad

    def test_resume(self):
        source = tensor_activations(X, chunk_rows=7)
        source.next_chunk()
        state = through_json(source.state())
        again = tensor_activations(X.clone(), chunk_rows=7)
        again.restore(state)
        assert same_rows(read_all(again), read_all(source))
        for other in (X[1:], X + 1):
            with pytest.raises(CoderError, match="belongs to other activations"):
                tensor_activations(other).restore(state)

    def test_refusals(self):
        for x, message in [
            (torch.zeros(2, 3, 4, 5), r"Flatten batch and position"),
            (torch.zeros(3), r"must be floating-point \[row, d\]"),
            (torch.zeros(3, 2, dtype=torch.long), "int64"),
            (torch.zeros(0, 2), "x has no rows"),
            (3, "got int"),
            ({"x": X}, "got dict"),
            ([], "gave no chunk"),
            (["a"], "got str"),
            ([X, X[:, :4]], r"the first was \[row, 5\], chunk 1 is \[row, 4\]"),
        ]:
            with pytest.raises(CoderError, match=message):
                read_all(tensor_activations(x))
        with pytest.raises(CoderError, match="fields of a batch must have one length"):
            tensor_activations(X, token=torch.arange(3))
        with pytest.raises(CoderError, match="target belong to a tensor x"):
            tensor_activations([X], target=X)
        with pytest.raises(CoderError, match="2 sites"):
            tensor_activations(X, sites=["a", "b"])
        with pytest.raises(CoderError, match="chunk_rows must be at least 1"):
            tensor_activations(X, chunk_rows=0)


CHUNKED = {
    "list": _chunks,
    "iterator": lambda: iter(_chunks()),
    "generator": lambda: (CoderBatch(x=part, target=part) for part in _chunks()),
    "factory": lambda: _factory,
    "with empty chunks": lambda: [X[:0], *_chunks(), X[:0]],
}


def _factory() -> Any:
    yield from _chunks()


class TestChunks:
    @pytest.mark.parametrize("kind", CHUNKED)
    def test_rows_in_order(self, kind: str):
        source = tensor_activations(CHUNKED[kind](), sites=["mlp_out[1]"])
        assert source.layout == SourceLayout(5, 5, 0, 0, ("mlp_out[1]",), ("mlp_out[1]",))
        assert torch.equal(read_all(source).x, X)
        assert source.next_chunk() is None

    @pytest.mark.parametrize("kind", CHUNKED)
    def test_resume_at_every_point(self, kind: str):
        source, states = tensor_activations(CHUNKED[kind]()), []
        chunks = []
        for _ in range(5):
            states.append(through_json(source.state()))
            chunks.append(source.next_chunk())
        for done, state in enumerate(states):
            again = tensor_activations(CHUNKED[kind]())
            again.restore(state)
            for expected in chunks[done:]:
                found = again.next_chunk()
                assert found is expected is None or same_rows(found, expected)

    @pytest.mark.parametrize("kind", CHUNKED)
    def test_a_second_epoch(self, kind: str):
        source = tensor_activations(CHUNKED[kind]())
        source.restart()
        first = read_all(source)
        if kind in ("iterator", "generator"):
            with pytest.raises(CoderError, match="which gives its items once"):
                source.restart()
        else:
            source.restart()
            assert same_rows(read_all(source), first)

    def test_a_state_of_other_chunks(self):
        source = tensor_activations(_chunks())
        read_all(source)
        with pytest.raises(CoderError, match="only 2 chunks"):
            tensor_activations(_chunks()[:2]).restore(source.state())
        with pytest.raises(CoderError, match="other activations"):
            tensor_activations([part + 1 for part in _chunks()]).restore(source.state())


class TestAsSource:
    def test_whatever_stands_for_activations(self, tmp_path):
        cached = cache_activations(tensor_activations(X), tmp_path / "cache", dtype="fp32", progress=False)
        batch = CoderBatch(x=X, target=X)
        for given in (X, batch, _chunks(), _factory, tmp_path / "cache", str(tmp_path / "cache")):
            source = as_source(given)
            assert isinstance(source, ActivationSource)
            assert torch.equal(read_all(source).x, X)
        assert as_source(cached) is cached

    def test_what_does_not(self, tmp_path):
        with pytest.raises(CoderError, match="stream_activations"):
            as_source(datasets.Dataset.from_dict({"text": ["a"]}))
        with pytest.raises(DataFileError, match="holds no cache"):
            as_source(tmp_path)
        with pytest.raises(CoderError, match="got NoneType"):
            as_source(None)


class TestLayout:
    def test_round_trip(self):
        layout = SourceLayout(5, 6, 2, 0, ("a", "b"), ("c",), True, "tiny", {"context": 8})
        assert SourceLayout.from_dict(layout.to_dict()) == layout
        assert layout.describe() == "a, b [row, 2, 5] -> c [row, 6] with gradients"

    def test_refusals(self):
        with pytest.raises(CoderError, match="must be positive"):
            SourceLayout(0, 5)
        with pytest.raises(CoderError, match="unknown fields"):
            SourceLayout.from_dict({**SourceLayout(1, 1).to_dict(), "colour": 1})
        with pytest.raises(CoderError, match="incomplete"):
            SourceLayout.from_dict({"d_in": 1, "sites": [], "target_sites": []})
