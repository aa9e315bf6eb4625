"""Caches of activations: what is written is what is read, whole or refused, killed or not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from activation_rows import read_all, same_rows, through_json
from model_zoo import specimen

from interp.coders.batch import CoderBatch
from interp.coders.sources import (
    CachedJointActivations,
    ShuffleBuffer,
    SourceLayout,
    cache_activations,
    open_activations,
    stream_activations,
    tensor_activations,
    write,
)
from interp.errors import CoderError, DataFileError

PROMPTS = torch.randint(0, 53, (14, 6), generator=torch.Generator().manual_seed(5))
PRECISION = {"fp32": (0.0, 0.0), "fp16": (2**-11, 2**-24), "bf16": (2**-8, 0.0)}
"""Relative and absolute error of rounding to each type."""


def stream(**options: Any) -> Any:
    options = {"target": "z[1]", "gradients": True, "batch_size": 3, **options}
    return stream_activations(specimen("llama").model, PROMPTS, ["mlp_out[0]", "attn_out[1]"], **options)


def save(source: Any, folder: Path, **options: Any) -> Any:
    return cache_activations(source, folder, progress=False, **{"shard_rows": 16, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", PRECISION)
    def test_rows_within_the_rounding_of_their_type(self, tmp_path: Path, dtype: Any):
        cached = save(stream(), tmp_path / "cache", dtype=dtype)
        assert cached.layout == stream().layout
        assert cached.n_rows == 14 * 5
        found, expected = read_all(cached), read_all(stream())
        for name in ("x", "target", "grad"):
            relative, absolute = PRECISION["bf16" if (name, dtype) == ("grad", "fp16") else dtype]
            torch.testing.assert_close(
                found.present()[name], expected.present()[name], rtol=relative, atol=absolute
            )
        for name in ("token", "position", "prompt"):
            assert torch.equal(found.present()[name], expected.present()[name])
            assert found.present()[name].dtype == torch.int64

    def test_files_are_plain_arrays(self, tmp_path: Path):
        """Read without this package: little-endian, row-major, bf16 as the upper half of a float."""
        save(stream(), tmp_path / "cache", dtype="bf16")
        expected = read_all(stream())
        index = json.loads((tmp_path / "cache" / "index.json").read_text())
        assert [shard["rows"] for shard in index["shards"]] == [16, 16, 16, 16, 6]
        halves = torch.frombuffer(
            bytearray((tmp_path / "cache" / "x-00004.bin").read_bytes()), dtype=torch.int16
        )
        floats = (halves.int() << 16).view(torch.float32).view(6, 2, 36)
        assert torch.equal(floats, expected.x[64:].bfloat16().float())
        tokens = torch.frombuffer(
            bytearray((tmp_path / "cache" / "token-00001.bin").read_bytes()), dtype=torch.int32
        )
        assert tokens.tolist() == expected.token[16:32].tolist()

    def test_chunks_may_be_of_any_size(self, tmp_path: Path):
        whole = read_all(save(stream(), tmp_path / "cache", dtype="fp32"))
        for rows in (1, 7, 100):
            source = open_activations(tmp_path / "cache", chunk_rows=rows)
            assert same_rows(read_all(source), whole)

    def test_rows_as_they_are_stored(self, tmp_path: Path):
        save(stream(), tmp_path / "cache", dtype="fp16")
        chunk = open_activations(tmp_path / "cache", dtype=None).next_chunk()
        assert (chunk.x.dtype, chunk.grad.dtype) == (torch.float16, torch.bfloat16)
        assert open_activations(tmp_path / "cache", dtype=torch.float64).next_chunk().x.dtype == torch.float64

    def test_a_read_only_cache_can_be_read(self, tmp_path: Path):
        save(stream(), tmp_path / "cache")
        for path in (tmp_path / "cache").iterdir():
            path.chmod(0o444)
        before = contents(tmp_path / "cache")
        found = read_all(open_activations(tmp_path / "cache"))
        found.x.zero_()
        assert contents(tmp_path / "cache") == before

    def test_resume_at_every_point(self, tmp_path: Path):
        save(stream(), tmp_path / "cache")
        source = open_activations(tmp_path / "cache", chunk_rows=7)
        states, chunks = [], []
        while True:
            states.append(through_json(source.state()))
            if (chunk := source.next_chunk()) is None:
                break
            chunks.append(chunk)
        for done, state in enumerate(states):
            again = open_activations(tmp_path / "cache", chunk_rows=7)
            again.restore(state)
            assert all(same_rows(again.next_chunk(), expected) for expected in chunks[done:])
        source.restart()
        assert same_rows(read_all(source), CoderBatch.cat(chunks))
        other = save(tensor_activations(torch.randn(70, 3)), tmp_path / "other")
        with pytest.raises(CoderError, match="another cache"):
            other.restore(states[1])

    def test_a_buffer_over_it_resumes(self, tmp_path: Path):
        save(stream(), tmp_path / "cache")
        make = lambda: ShuffleBuffer(open_activations(tmp_path / "cache"), 20, 8, epochs=2)  # noqa: E731
        buffer, again = make(), make()
        for _ in range(5):
            buffer.next_batch()
        again.restore(through_json(buffer.state()))
        while (batch := buffer.next_batch()) is not None:
            assert same_rows(again.next_batch(), batch)


class TestSites:
    @pytest.fixture
    def whole(self, tmp_path: Path) -> CoderBatch:
        return read_all(save(stream(), tmp_path / "cache", dtype="fp32"))

    def test_one_of_several(self, tmp_path: Path, whole: CoderBatch):
        source = open_activations(tmp_path / "cache", sites="attn_out[1]")
        found = read_all(source)
        assert found.is_reconstruction
        assert torch.equal(found.x, whole.x[:, 1])
        assert torch.equal(found.grad, whole.grad[:, 1])
        assert torch.equal(found.token, whole.token)
        site = ("attn_out[1]",)
        expected = SourceLayout(36, 36, 0, 0, site, site, True, source.layout.model, source.layout.provenance)
        assert source.layout == expected

    def test_others_and_in_another_order(self, tmp_path: Path, whole: CoderBatch):
        found = read_all(
            open_activations(tmp_path / "cache", sites=["attn_out[1]", "mlp_out[0]"], target="z[1]")
        )
        assert torch.equal(found.x, whole.x.flip(1))
        assert torch.equal(found.grad, whole.grad.flip(1))
        assert torch.equal(found.target, whole.target)

    def test_a_target_as_the_input(self, tmp_path: Path, whole: CoderBatch):
        """No gradient is stored with respect to a target."""
        source = open_activations(tmp_path / "cache", sites="z[1]", target=["mlp_out[0]", "attn_out[1]"])
        found = read_all(source)
        assert torch.equal(found.x, whole.target)
        assert torch.equal(found.target, whole.x)
        assert found.grad is None
        assert (source.layout.d_in, source.layout.n_outputs, source.layout.has_grad) == (40, 2, False)

    def test_what_is_not_there(self, tmp_path: Path, whole: CoderBatch):
        with pytest.raises(CoderError, match=r"unknown site of this cache 'mlp_out\[1\]'; did you mean"):
            open_activations(tmp_path / "cache", sites="mlp_out[1]")
        with pytest.raises(CoderError, match="must have one width"):
            open_activations(tmp_path / "cache", sites=["mlp_out[0]", "z[1]"])
        with pytest.raises(CoderError, match="floating-point type"):
            open_activations(tmp_path / "cache", dtype=torch.int8)

    def test_several_coders(self, tmp_path: Path):
        make = lambda: stream_activations(  # noqa: E731
            specimen("llama").model,
            PROMPTS,
            {"a": "mlp_out[0]", "b": "z[1]", "c": "mlp_out[0]"},
            batch_size=14,
        )
        cached = save(make(), tmp_path / "cache", dtype="fp32", shard_rows=1000)
        assert isinstance(cached, CachedJointActivations)
        found, expected = cached.next_chunk(), make().next_chunk()
        assert all(same_rows(found[name], expected[name]) for name in "abc")
        assert found["a"].x is found["c"].x
        assert len(list((tmp_path / "cache").glob("*.x-*"))) == 2
        for name in "abc":
            alone = open_activations(tmp_path / "cache", name=name)
            assert same_rows(read_all(alone), expected[name])
            assert alone.layout == make().layouts[name]
        with pytest.raises(CoderError, match="choose one with name="):
            open_activations(tmp_path / "cache")
        with pytest.raises(CoderError, match="unknown coder of this cache 'd'"):
            open_activations(tmp_path / "cache", name="d")


class TestDamage:
    @pytest.fixture
    def shard(self, tmp_path: Path) -> Path:
        save(stream(), tmp_path / "cache")
        return tmp_path / "cache" / "grad-00002.bin"

    def test_a_shard_that_is_cut_short(self, tmp_path: Path, shard: Path):
        shard.write_bytes(shard.read_bytes()[:-2])
        with pytest.raises(DataFileError, match=r"grad-00002\.bin' has 2302 bytes; it must have 2304"):
            open_activations(tmp_path / "cache")

    def test_a_shard_that_is_gone(self, tmp_path: Path, shard: Path):
        source = open_activations(tmp_path / "cache")
        shard.unlink()
        with pytest.raises(DataFileError, match=r"grad-00002\.bin' is missing"):
            open_activations(tmp_path / "cache")
        with pytest.raises(DataFileError, match=r"grad-00002\.bin' cannot be read"):
            read_all(source)

    def test_one_changed_bit(self, tmp_path: Path, shard: Path):
        open_activations(tmp_path / "cache", verify=True, progress=False)
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(bytes(data))
        open_activations(tmp_path / "cache")
        with pytest.raises(DataFileError, match=r"grad-00002\.bin' is corrupt"):
            open_activations(tmp_path / "cache", verify=True, progress=False)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "is damaged"),
            ("[]", "is no index"),
            ('{"format": "else"}', "is no index"),
            (None, "holds no cache"),
        ],
    )
    def test_an_index_that_is_none(self, tmp_path: Path, shard: Path, text: str | None, message: str):
        index = tmp_path / "cache" / "index.json"
        index.unlink() if text is None else index.write_text(text)
        with pytest.raises(DataFileError, match=message):
            open_activations(tmp_path / "cache")


SOURCES: dict[str, Callable[[], Any]] = {
    "stream": stream,
    "tensor": lambda: tensor_activations(torch.arange(140.0).view(70, 2), chunk_rows=9),
    "generator": lambda: tensor_activations(iter(torch.arange(140.0).view(70, 2).split(9))),
}


class Stopping:
    """A source that is interrupted before one of its chunks."""

    def __init__(self, source: Any, chunks: int) -> None:
        self.source, self.left = source, chunks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def next_chunk(self) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.source.next_chunk()


class TestInterrupted:
    @pytest.mark.parametrize("kind", SOURCES)
    def test_goes_on_and_ends_with_the_same_bytes(self, tmp_path: Path, kind: str):
        save(SOURCES[kind](), tmp_path / "whole")
        expected = contents(tmp_path / "whole")
        for chunks in range(5 if kind == "stream" else 8):
            folder = tmp_path / str(chunks)
            with pytest.raises(KeyboardInterrupt):
                save(Stopping(SOURCES[kind](), chunks), folder)
            assert not list(folder.glob("*.part"))
            if (folder / "index.json").exists():
                with pytest.raises(DataFileError, match="is not complete"):
                    open_activations(folder)
            # a second time in the middle of what was left
            try:
                save(Stopping(SOURCES[kind](), 2), folder)
            except KeyboardInterrupt:
                save(SOURCES[kind](), folder)
            assert contents(folder) == expected, chunks

    def test_only_what_is_missing_is_computed_again(self, tmp_path: Path):
        with pytest.raises(KeyboardInterrupt):
            save(Stopping(stream(), 4), tmp_path / "cache")
        forwards = []
        model = specimen("llama").model
        handle = model.module.register_forward_pre_hook(lambda *_: forwards.append(1))
        save(stream(), tmp_path / "cache")
        save(stream(), tmp_path / "cache")
        handle.remove()
        # 48 of 70 rows, three shards, lie in the chunks of 15 rows; the fourth chunk was begun
        assert len(forwards) == 2

    def test_whole_shards_of_a_part(self, tmp_path: Path):
        with pytest.raises(KeyboardInterrupt):
            save(Stopping(stream(), 3), tmp_path / "cache", dtype="fp32")
        source = open_activations(tmp_path / "cache", partial=True)
        assert source.n_rows == 32
        whole = read_all(stream())
        assert same_rows(read_all(source), whole.select(slice(0, 32)))

    @pytest.mark.parametrize("shard", range(1, 6))
    def test_between_the_files_and_the_index(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int
    ):
        save(stream(), tmp_path / "whole")
        right, calls = write.write_index, []

        def stop(folder: Path, index: Any) -> None:
            calls.append(index)
            if len(calls) == shard:
                (folder / ".index.json.0a1b").write_text("{")
                raise KeyboardInterrupt
            right(folder, index)

        monkeypatch.setattr(write, "write_index", stop)
        with pytest.raises(KeyboardInterrupt):
            save(stream(), tmp_path / "cache")
        if shard > 1:
            assert open_activations(tmp_path / "cache", partial=True).n_rows == 16 * (shard - 1)
        save(stream(), tmp_path / "cache")
        assert contents(tmp_path / "cache") == contents(tmp_path / "whole")

    @pytest.mark.parametrize("rows", [500, 3900])
    def test_killed(self, tmp_path: Path, rows: int):
        """SIGKILL in the middle of a shard: files that are half written stay, and are never taken for whole."""
        command = [sys.executable, "-c", KILLED, str(tmp_path / "cache"), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert list((tmp_path / "cache").glob("*.part"))
        chunks = torch.arange(5000.0)[:, None].expand(-1, 3).split(100)
        save(tensor_activations(chunks), tmp_path / "cache", shard_rows=1000)
        save(tensor_activations(chunks), tmp_path / "whole", shard_rows=1000)
        assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


KILLED = """
import os, signal, sys
import torch
from interp.coders.sources import cache_activations, tensor_activations

def number_rows():
    for start in range(0, 5000, 100):
        if start == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield torch.arange(start, start + 100.0)[:, None].expand(-1, 3)

cache_activations(tensor_activations(number_rows), sys.argv[1], shard_rows=1000, progress=False)
"""


class TestAnotherQuestion:
    def test_is_refused_with_what_differs(self, tmp_path: Path):
        save(stream(), tmp_path / "cache")
        before = contents(tmp_path / "cache")
        for source, options, message in [
            (stream(), {"dtype": "bf16"}, "dtype: 'fp16' there, 'bf16' here"),
            (stream(), {"shard_rows": 17}, "shard_rows: 16 there, 17 here"),
            (stream(gradients=False), {}, r"has_grad: True there, False here"),
            (stream(skip_first=False), {}, r"skip_first: True there, False here"),
            (stream(target="z[0]"), {}, r"z\[1\]'\] there, \['z\[0\]'\] here"),
        ]:
            with pytest.raises(CoderError, match=message):
                save(source, tmp_path / "cache", **options)
        assert contents(tmp_path / "cache") == before

    def test_rows_of_another_form(self, tmp_path: Path):
        at = torch.arange(40)
        with pytest.raises(KeyboardInterrupt):
            save(
                Stopping(tensor_activations(torch.zeros(40, 2), token=at, chunk_rows=10), 3),
                tmp_path / "cache",
            )
        with pytest.raises(CoderError, match="rows of another form"):
            save(tensor_activations(torch.zeros(40, 2), chunk_rows=10), tmp_path / "cache")

    def test_a_folder_of_something_else(self, tmp_path: Path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(CoderError, match="is not empty"):
            save(stream(), tmp_path)
        assert (tmp_path / "notes.txt").read_text() == "mine"


class TestRefusals:
    def test_values_beyond_the_type(self, tmp_path: Path):
        x = torch.tensor([[1.0, 7e4], [0.0, float("inf")]])
        with pytest.raises(
            CoderError, match=r"values of up to inf, beyond the range of fp16; give dtype='bf16'"
        ):
            save(tensor_activations(x), tmp_path / "half")
        assert not list((tmp_path / "half").iterdir())
        assert torch.equal(read_all(save(tensor_activations(x), tmp_path / "brain", dtype="fp32")).x, x)

    def test_numbers_beyond_the_type(self, tmp_path: Path):
        source = tensor_activations(torch.zeros(2, 1), token=torch.tensor([1, 2**31]))
        with pytest.raises(CoderError, match="token has numbers above 2147483647"):
            save(source, tmp_path / "cache")

    def test_options(self, tmp_path: Path):
        with pytest.raises(CoderError, match="unknown type of a cache 'fp8'"):
            save(stream(), tmp_path / "cache", dtype="fp8")
        with pytest.raises(CoderError, match="shard_rows must be at least 1"):
            save(stream(), tmp_path / "cache", shard_rows=0)
        with pytest.raises(CoderError, match="no rows to cache"):
            save(stream_activations(specimen("llama").model, [[1], [2]], "z[0]"), tmp_path / "cache")
        assert not (tmp_path / "cache" / "index.json").exists()
