"""One run of a batch of prompts through the blocks, with what later runs build on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models.blocks.flight import attend, run_mlp
from interp.models.blocks.geometry import Geometry
from interp.models.blocks.stack import Stack
from interp.models.blocks.waves import Wave

_BY_HEAD = frozenset({"queries", "keys", "values", "attn_scores", "pattern"})
"""Kept as [prompt, head, pos, ...]; all others have the position second."""


@dataclass(frozen=True)
class Trace:
    """A run: its keys and values, its residual stream before every layer and at the end, and more
    activations where they were asked for."""

    tokens: Int[Tensor, "prompt pos"]
    geometry: Geometry
    keys: list[Float[Tensor, "prompt kv_head pos d_head"]]
    values: list[Float[Tensor, "prompt kv_head pos d_head"]]
    stream: list[Float[Tensor, "prompt pos d_model"]]
    """resid_pre of every layer, then the final residual stream."""
    kept: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """Activations by (component, layer), all heads and columns."""

    def __getitem__(self, key: tuple[str, int]) -> Tensor:
        component, layer = key
        if component == "resid_pre":
            return self.stream[layer]
        if component == "resid_post":
            return self.stream[layer + 1]
        return self.kept[key]


class _Recorder:
    """Keeps what was asked for of one wave, and keys and values where later rows will read them."""

    def __init__(self, wanted: Iterable[tuple[str, int]], keep_keys: bool) -> None:
        # the residual stream is kept anyway
        self.wanted = {place for place in wanted if place[0] not in ("resid_pre", "resid_post")}
        self.always = ("keys", "values") if keep_keys else ()
        self.kept: dict[tuple[str, int], Tensor] = {}
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.stream: list[Tensor] = []

    def wants(self, component: str, layer: int) -> bool:
        return component in self.always or (component, layer) in self.wanted

    def keep(self, component: str, layer: int, value: Tensor) -> None:
        if component in self.always:
            (self.keys if component == "keys" else self.values).append(value.contiguous())
        elif self.wants(component, layer):
            # scores are masked and sums made in place further on, and rows are views of larger matrices
            self.kept[component, layer] = value.clone()


class _Recorders:
    """A watcher with one recorder a wave."""

    def __init__(self, each: Sequence[_Recorder]) -> None:
        self.each = each

    def wants(self, component: str, layer: int) -> bool:
        return any(recorder.wants(component, layer) for recorder in self.each)

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        self.each[wave.index].keep(component, layer, value)
        return value

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        raise AssertionError("results of heads are made from z where they are needed")


def run_trace(
    stack: Stack,
    tokens: Int[Tensor, "prompt pos"],
    mask: Bool[Tensor, "prompt pos"] | None = None,
    wanted: Iterable[tuple[str, int]] = (),
) -> Trace:
    """Run prompts and keep ``wanted`` activations, (component, layer)."""
    geometry = stack.geometry(tokens, mask)
    recorder = _Recorder(wanted, keep_keys=True)
    trace = Trace(tokens, geometry, recorder.keys, recorder.values, recorder.stream, recorder.kept)
    _run(stack, trace, [(tokens, 0, recorder)])
    return trace


def run_traces(
    stack: Stack,
    tokens: Int[Tensor, "prompt pos"],
    others: Int[Tensor, "prompt pos"],
    start: int,
    mask: Bool[Tensor, "prompt pos"] | None = None,
    wanted: Iterable[tuple[str, int]] = (),
    wanted_of_others: Iterable[tuple[str, int]] = (),
) -> tuple[Trace, Trace]:
    """Two runs at once, of prompts and of others that have the same first ``start`` tokens row by row.

    Of the others only the columns from ``start`` on are computed; what comes before is taken from
    the first run to the bit. They keep no keys and values.
    """
    geometry = stack.geometry(tokens, mask)
    shared = set(wanted_of_others)
    first, second = _Recorder({*wanted, *shared}, keep_keys=True), _Recorder(shared, keep_keys=False)
    base = Trace(tokens, geometry, first.keys, first.values, first.stream, first.kept)
    _run(stack, base, [(tokens, 0, first), (others, start, second)])
    stream = [
        torch.cat([old[:, :start], new], dim=1) for old, new in zip(base.stream, second.stream, strict=True)
    ]
    kept = {key: _after(base[key], value, key[0], start) for key, value in second.kept.items()}
    return base, Trace(others, geometry, [], [], stream, kept)


def _run(stack: Stack, base: Trace, runs: Sequence[tuple[Tensor, int, _Recorder]]) -> None:
    """Run the first of ``runs`` (tokens, first column, recorder), and the rest on its keys and values."""
    recorders = [recorder for _, _, recorder in runs]
    watcher, waves = _Recorders(recorders), []
    for index, (tokens, start, recorder) in enumerate(runs):
        embedded, resid = stack.embed(tokens, base.geometry, start)
        recorder.keep("embed", 0, embedded)
        recorder.stream.append(resid)
        prompts = torch.arange(len(tokens), device=tokens.device)
        waves.append(Wave(index, start, tokens.shape[1], prompts, resid))
    for layer in range(len(stack.blocks)):
        attend(stack, layer, waves, base, watcher)
        run_mlp(stack, layer, waves, watcher)
        for wave, recorder in zip(waves, recorders, strict=True):
            recorder.stream.append(wave.resid)


def _after(old: Tensor, new: Tensor, component: str, start: int) -> Tensor:
    """The base run's columns before ``start``, then the new ones."""
    axis = 2 if component in _BY_HEAD else 1
    return torch.cat([old.narrow(axis, 0, start), new], dim=axis)
