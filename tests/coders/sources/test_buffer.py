"""The shuffle buffer: every row exactly once, bounded arrays, uniform draws, and resuming to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from activation_rows import same_rows, through_json
from hypothesis import given, settings
from hypothesis import strategies as st
from model_zoo import specimen

from interp.coders.batch import CoderBatch
from interp.coders.sources import ShuffleBuffer, stream_activations, tensor_activations
from interp.coders.sources.buffer import BufferCount, draw_distinct
from interp.errors import CoderError

PROMPTS = torch.randint(0, 53, (8, 7), generator=torch.Generator().manual_seed(5))


def make_batch(n: int, first: int = 0) -> CoderBatch:
    """Rows whose every field says which row it is."""
    at = torch.arange(first, first + n)
    x = at[:, None] * torch.tensor([1.0, -2.0])
    return CoderBatch(x=x, target=x * 3, grad=x + 0.5, token=at, position=at + 7, prompt=at // 4)


def draw_all(buffer: ShuffleBuffer[CoderBatch]) -> list[CoderBatch]:
    batches = []
    while (batch := buffer.next_batch()) is not None:
        batches.append(batch)
    return batches


def check_fields(batch: CoderBatch) -> None:
    """Rows stay whole: all fields of a row speak of the same one."""
    assert batch.token is not None
    at = batch.token.float()
    assert torch.equal(batch.x, at[:, None] * torch.tensor([1.0, -2.0]))
    assert torch.equal(batch.target, batch.x * 3)
    assert torch.equal(batch.grad, batch.x + 0.5)
    assert torch.equal(batch.position, batch.token + 7)
    assert torch.equal(batch.prompt, batch.token // 4)


class TestExactlyOnce:
    @settings(max_examples=60)
    @given(
        n=st.integers(1, 90),
        chunk=st.integers(1, 40),
        batch_size=st.integers(1, 20),
        spare=st.integers(0, 60),
        epochs=st.integers(1, 3),
        seed=st.integers(0, 5),
    )
    def test_every_row_of_every_epoch(
        self, n: int, chunk: int, batch_size: int, spare: int, epochs: int, seed: int
    ):
        rows = batch_size + spare
        source = tensor_activations(make_batch(n), chunk_rows=chunk)
        buffer = ShuffleBuffer(source, rows, batch_size, seed, epochs)
        given_out: list[int] = []
        while (batch := buffer.next_batch()) is not None:
            check_fields(batch)
            given_out += batch.token.tolist()
            count = buffer.count
            assert count.read == count.given + count.held
            assert count.given == len(given_out)
            assert count.held <= rows
            left = epochs * n - len(given_out)
            assert len(batch) == batch_size or left == 0
        assert len(given_out) == epochs * n
        for epoch in range(epochs):
            assert sorted(given_out[epoch * n : (epoch + 1) * n]) == list(range(n))
        assert buffer.count == BufferCount(
            epochs * n, epochs * n, 0, -(-epochs * n // batch_size), epochs - 1
        )
        assert buffer.next_batch() is None

    def test_no_row_is_held_back_beyond_the_buffer(self):
        """A row can come out once it was read, never before: those of the first batch lie in the first rows."""
        buffer = ShuffleBuffer(tensor_activations(make_batch(500)), 60, 20, seed=3)
        for number, batch in enumerate(draw_all(buffer)):
            assert int(batch.token.max()) < 60 + 20 * number

    def test_without_an_end(self):
        buffer = ShuffleBuffer(tensor_activations(make_batch(10)), 8, 4, epochs=None)
        found = torch.cat([buffer.next_batch().token for _ in range(25)])
        assert len(found) == 100
        assert torch.equal(found.bincount(), torch.full((10,), 10))
        assert buffer.count.epoch == 9


class TestDraws:
    def test_every_subset_and_order_is_equally_likely(self):
        """5 * 4 ordered pairs of 5 and, by rejection, 10 * 9 of 10; 4 standard deviations of the counts."""
        for n, trials in ((5, 8_000), (10, 18_000)):
            generator = torch.Generator().manual_seed(0)
            counts = torch.zeros(n, n)
            for _ in range(trials):
                first, second = draw_distinct(n, 2, generator).tolist()
                counts[first, second] += 1
            assert counts.diagonal().sum() == 0
            mean = trials / (n * (n - 1))
            off = counts[~torch.eye(n, dtype=torch.bool)]
            assert float((off - mean).abs().max()) < 4 * mean**0.5

    def test_one_epoch_that_fits_is_a_uniform_permutation(self):
        """Where a row comes out does not depend on where it came in: rank correlation within 4 / sqrt(n)."""
        n = 4000
        buffer = ShuffleBuffer(tensor_activations(make_batch(n), chunk_rows=333), n, 100, seed=1)
        order = torch.cat([batch.token for batch in draw_all(buffer)]).double()
        found = torch.corrcoef(torch.stack([order, torch.arange(n).double()]))[0, 1]
        assert abs(float(found)) < 4 / n**0.5

    def test_the_seed_decides(self):
        orders = [
            torch.cat(
                [b.token for b in draw_all(ShuffleBuffer(tensor_activations(make_batch(50)), 20, 5, seed))]
            )
            for seed in (0, 0, 1)
        ]
        assert torch.equal(orders[0], orders[1])
        assert not torch.equal(orders[0], orders[2])

    def test_the_callers_random_numbers_are_left_alone(self):
        before = torch.get_rng_state()
        draw_all(ShuffleBuffer(tensor_activations(make_batch(50)), 20, 5))
        assert torch.equal(torch.get_rng_state(), before)


class TestMemory:
    def test_arrays_are_made_once(self):
        buffer = ShuffleBuffer(tensor_activations(make_batch(300), chunk_rows=11), 40, 10, epochs=2)
        buffer.next_batch()
        before = {name: array.data_ptr() for name, array in buffer.state()["held"].items()}
        assert buffer.nbytes() == 40 * (3 * 2 * 4 + 3 * 8)
        for _ in range(58):
            buffer.next_batch()
        assert buffer.count == BufferCount(600, 590, 10, 59, 1)
        assert {name: array.data_ptr() for name, array in buffer.state()["held"].items()} == before

    def test_a_target_that_is_the_input_is_held_once(self):
        x = torch.randn(30, 3)
        buffer = ShuffleBuffer(tensor_activations(x), 10, 5)
        batch = buffer.next_batch()
        assert batch.is_reconstruction
        assert buffer.nbytes() == 10 * 3 * 4

    def test_default_size_holds_the_default_batch(self):
        buffer = ShuffleBuffer(tensor_activations(torch.randn(3, 2)))
        assert buffer.rows == 32 * buffer.batch_size
        assert len(buffer.next_batch()) == 3


def _stream(**options: Any) -> Any:
    return stream_activations(specimen("gpt2").model, PROMPTS, "mlp_out[0]", batch_size=4, **options)


SOURCES = {
    "tensor": lambda: tensor_activations(make_batch(61), chunk_rows=9),
    "factory": lambda: tensor_activations(
        lambda: iter([make_batch(20), make_batch(30, 20), make_batch(11, 50)])
    ),
    "stream": lambda: _stream(gradients=True),
}


class TestResume:
    @pytest.mark.parametrize("kind", SOURCES)
    def test_at_every_point_is_equal_to_the_bit(self, kind: str):
        make = lambda: ShuffleBuffer(SOURCES[kind](), 16, 5, seed=2, epochs=2)  # noqa: E731
        buffer, states, batches = make(), [], []
        states.append(through_json(buffer.state()))
        while (batch := buffer.next_batch()) is not None:
            batches.append(batch)
            states.append(through_json(buffer.state()))
        for done, state in enumerate(states):
            again = make()
            again.restore(state)
            for expected in batches[done:]:
                assert same_rows(again.next_batch(), expected)
            assert again.next_batch() is None
            assert again.count == buffer.count

    def test_back_into_a_buffer_that_has_gone_on(self):
        buffer = ShuffleBuffer(SOURCES["tensor"](), 16, 5, seed=2, epochs=2)
        for _ in range(4):
            buffer.next_batch()
        state = through_json(buffer.state())
        rest = draw_all(buffer)
        buffer.restore(state)
        assert all(same_rows(a, b) for a, b in zip(draw_all(buffer), rest, strict=True))

    def test_a_source_that_fails_loses_no_row(self):
        """What an interrupt of the source leaves behind can be saved, and goes on."""
        fails = [False]

        def chunks() -> Any:
            for start in range(0, 60, 6):
                if start == 30 and fails[0]:
                    raise KeyboardInterrupt
                yield make_batch(6, start)

        buffer = ShuffleBuffer(tensor_activations(chunks), 20, 4, seed=1)
        expected = [
            batch.token.tolist() for batch in draw_all(ShuffleBuffer(tensor_activations(chunks), 20, 4, 1))
        ]
        fails[0] = True
        found: list[list[int]] = []
        with pytest.raises(KeyboardInterrupt):
            while True:
                found.append(buffer.next_batch().token.tolist())
        fails[0] = False
        again = ShuffleBuffer(tensor_activations(chunks), 20, 4, seed=1)
        again.restore(through_json(buffer.state()))
        assert found + [batch.token.tolist() for batch in draw_all(again)] == expected

    def test_of_another_buffer_is_refused(self):
        state = ShuffleBuffer(SOURCES["tensor"](), 16, 5).state()
        with pytest.raises(CoderError, match="rows: 16 there, 17 here"):
            ShuffleBuffer(SOURCES["tensor"](), 17, 5).restore(state)
        with pytest.raises(CoderError, match="61 rows there, 60 here"):
            ShuffleBuffer(tensor_activations(make_batch(60)), 16, 5).restore(state)


class TestJoint:
    def test_coders_get_the_same_tokens_in_the_same_order(self):
        sites: dict[str, Any] = {"a": "mlp_out[0]", "b": "z[1]", "c": "mlp_out[0]"}
        source = stream_activations(
            specimen("gpt2").model, PROMPTS, sites, target={"b": "resid_post[1]"}, batch_size=4
        )
        buffer = ShuffleBuffer(source, 20, 6, seed=4)
        alone = ShuffleBuffer(_stream(), 20, 6, seed=4)
        while (batch := buffer.next_batch()) is not None:
            assert same_rows(batch["a"], alone.next_batch())
            assert batch["c"].x is batch["a"].x
            assert batch["b"].prompt is batch["a"].prompt
            assert (batch["b"].x.shape[1], batch["b"].target.shape[1]) == (36, 36)
        assert alone.next_batch() is None
        # two sites and a target of 36, and three numbers: shared ones are held once
        assert buffer.nbytes() == 20 * (3 * 36 * 4 + 3 * 8)


class TestRefusals:
    def test_sizes(self):
        source = tensor_activations(make_batch(10))
        with pytest.raises(CoderError, match="rows=7 and batch_size=8"):
            ShuffleBuffer(source, 7, 8)
        with pytest.raises(CoderError, match="batch_size=0"):
            ShuffleBuffer(source, 7, 0)
        with pytest.raises(CoderError, match="epochs is at least 1"):
            ShuffleBuffer(source, 8, 8, epochs=0)

    def test_a_second_epoch_of_an_iterator(self):
        buffer = ShuffleBuffer(tensor_activations(iter([make_batch(10)])), 6, 3, epochs=2)
        with pytest.raises(CoderError, match="for a second epoch"):
            draw_all(buffer)

    def test_chunks_that_differ(self):
        class Changing:
            def __init__(self, *chunks: CoderBatch) -> None:
                self.chunks = list(chunks)

            def next_chunk(self) -> CoderBatch | None:
                return self.chunks.pop(0) if self.chunks else None

        x = torch.randn(3, 2)
        plain = CoderBatch(x=x, target=x)
        for other, message in [
            (CoderBatch(x=x, target=x.clone()), "of which others are one tensor"),
            (make_batch(3), "the first had"),
            (CoderBatch(x=x.double(), target=x.double()), "have the same fields|one tensor"),
            (plain.to(dtype=torch.float64), "float64"),
        ]:
            with pytest.raises(CoderError, match=message):
                ShuffleBuffer(Changing(plain, other), 4, 2).next_batch()
        with pytest.raises(CoderError, match="no rows to train on"):
            ShuffleBuffer(Changing(), 4, 2).next_batch()
