"""Mixing: counted by hand, against the theory of a buffer, and no trace left on the source."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from activation_rows import read_all, same_rows
from scipy.stats import spearmanr

from interp.coders.sources import ShuffleBuffer, measure_mixing, tensor_activations
from interp.errors import CoderError
from interp.results.mixing import Mixing

N, PROMPT = 20_000, 50


def make_source(n: int = N, prompt: int | None = PROMPT):
    at = torch.arange(n)
    numbers = None if prompt is None else at // prompt
    return tensor_activations(at[:, None].float(), token=at, prompt=numbers, chunk_rows=777)


def measure(source, **options) -> Mixing:
    return measure_mixing(source, progress=False, **options)


def test_counted_by_hand():
    """The very batches that a buffer of activations gives, row by row and pair by pair."""
    found = measure(make_source(1000, 30), rows=90, batch_size=32, seed=5)
    buffer = ShuffleBuffer(make_source(1000, 30), 90, 32, seed=5)
    order, partners, expected = [], 0, 0.0
    pairs = sum(30 * 29 for _ in range(33)) + 10 * 9
    while (batch := buffer.next_batch()) is not None:
        prompts = batch.prompt.tolist()
        partners += sum(prompts.count(prompt) - 1 for prompt in prompts)
        expected += len(batch) * (len(batch) - 1) * pairs / (1000 * 999)
        order += batch.token.tolist()
    assert found.partners == pytest.approx(partners / 1000)
    assert found.partners_expected == pytest.approx(expected / 1000)
    assert found.order_correlation == pytest.approx(spearmanr(range(1000), order).statistic)
    moved = sorted(abs(out - into) / 90 for out, into in enumerate(order))
    assert found.distance[1] == pytest.approx((moved[499] + moved[500]) / 2)
    assert (found.n_rows, found.n_prompts, found.buffer_rows) == (1000, 34, 90)
    assert found.clumping == pytest.approx(partners / expected)


@pytest.mark.parametrize("rows", [400, 800, 1600])
def test_a_buffer_mixes_as_theory_says(rows: int):
    """Each row held leaves with chance p = batch / rows a time, so two that came together leave together with
    chance p / (2 - p): a row meets (prompt - 1) p / (2 - p) of its own. It waits for rows / N of the data in the
    mean, with that as its deviation too, which costs 6 (rows / N) ** 2 of the correlation."""
    found = measure(make_source(), rows=rows, batch_size=100)
    p = 100 / rows
    assert found.partners == pytest.approx((PROMPT - 1) * p / (2 - p), rel=0.05)
    assert found.order_correlation == pytest.approx(1 - 6 * (rows / N) ** 2, abs=0.006)


def test_no_shuffle_and_a_perfect_one():
    none = measure(make_source(), rows=100, batch_size=100)
    assert none.partners == pytest.approx(PROMPT - 1)
    assert none.order_correlation > 0.9999
    perfect = measure(make_source(), rows=N, batch_size=100)
    assert perfect.clumping == pytest.approx(1, abs=0.1)
    assert abs(perfect.order_correlation) < 4 / N**0.5
    assert perfect.distance == pytest.approx(perfect.distance_expected, abs=0.02)


def test_a_buffer_is_measured_as_it_is():
    buffer = ShuffleBuffer(make_source(), 800, 50, seed=3, epochs=4)
    batch = buffer.next_batch()
    found = measure(buffer)
    assert (found.buffer_rows, found.batch_size, found.seed) == (800, 50, 3)
    assert found.partners == measure(make_source(), rows=800, batch_size=50, seed=3).partners
    alone = ShuffleBuffer(make_source(), 800, 50, seed=3, epochs=4)
    assert same_rows(batch, alone.next_batch())
    assert all(same_rows(buffer.next_batch(), alone.next_batch()) for _ in range(50))


def test_the_source_stands_where_it_stood():
    source = make_source()
    source.next_chunk()
    measure(source, rows=500, batch_size=100, max_rows=2000)
    assert read_all(source).token.tolist() == list(range(777, N))


def test_a_part_of_the_rows():
    found = measure(make_source(), rows=200, batch_size=100, max_rows=1999)
    assert found.n_rows == 1999
    assert found.partners == measure(make_source(1999), rows=200, batch_size=100).partners


def test_without_prompts():
    found = measure(make_source(prompt=None), rows=200, batch_size=100)
    assert (found.n_prompts, found.partners, found.clumping) == (None, None, None)
    assert "prompt" not in found.summary()


def test_what_it_says(tmp_path):
    found = measure(make_source(), rows=400, batch_size=100)
    lines = found.summary().splitlines()
    assert lines[0] == "20,000 rows in batches of 100 from a buffer of 400 (0.02 of the data)"
    assert lines[1].startswith(f"a row meets {found.partners:.3g} others of its own prompt in its batch; ")
    assert f"{found.clumping:.3g} times as many" in lines[1]
    again = Mixing.load(found.save(tmp_path / "mixing.safetensors"))
    assert again.summary() == found.summary()
    assert (again.distance, again.partners, again.seed) == (found.distance, found.partners, found.seed)


def test_refusals():
    with pytest.raises(CoderError, match="holds at least one batch"):
        measure(make_source(), rows=10, batch_size=100)
    with pytest.raises(CoderError, match="max_rows must be at least 1"):
        measure(make_source(), max_rows=0)
    chunks = list(torch.randn(40, 2).split(10))
    taken = []
    source = (taken.append(1) or chunk for chunk in chunks)
    with pytest.raises(CoderError, match="which gives its items once"):
        measure(source, rows=20, batch_size=10)
    assert len(taken) == 1


def test_pairs_are_of_batches_of_unequal_size():
    """The last batch is short: it has fewer pairs, found and expected."""
    found = measure(make_source(130, 130), rows=130, batch_size=100)
    sizes = [stop - start for start, stop in pairwise((0, 100, 130))]
    assert found.partners == found.partners_expected == sum(n * (n - 1) for n in sizes) / 130
