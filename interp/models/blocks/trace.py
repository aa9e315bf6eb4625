"""One run of a batch of prompts through the blocks, with what later runs build on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.models.blocks.flight import Wave, attend, run_mlp
from interp.models.blocks.geometry import Geometry
from interp.models.blocks.stack import Stack

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
    """Keeps what was asked for, and keys and values always."""

    def __init__(self, wanted: Iterable[tuple[str, int]], keep_keys: bool) -> None:
        self.wanted = set(wanted)
        self.always = ("keys", "values") if keep_keys else ()
        self.kept: dict[tuple[str, int], Tensor] = {}

    def wants(self, component: str, layer: int) -> bool:
        return component in self.always or (component, layer) in self.wanted

    def see(self, component: str, layer: int, wave: Wave, value: Tensor) -> Tensor:
        # scores are masked and summed in place further on, and rows are views of larger matrices
        self.kept[component, layer] = value.clone()
        return value

    def see_result(self, layer: int, wave: Wave, z: Tensor, o: Tensor) -> Tensor:
        raise AssertionError("results of heads are made from z where they are needed")


def run_trace(
    stack: Stack,
    tokens: Int[Tensor, "prompt pos"],
    mask: Bool[Tensor, "prompt pos"] | None = None,
    wanted: Iterable[tuple[str, int]] = (),
    *,
    base: Trace | None = None,
    start: int = 0,
    keep_stream: bool = True,
) -> Trace:
    """Run prompts and keep ``wanted`` activations, (component, layer).

    Where the first ``start`` tokens of every prompt are those of ``base``, only the columns after
    them are computed, and the rest is taken from there to the bit; such a run keeps no keys and
    values. ``keep_stream=False`` keeps the final residual stream only.
    """
    wanted = set(wanted) - {("result", layer) for layer in range(len(stack.blocks))}
    geometry = stack.geometry(tokens, mask) if base is None else base.geometry
    watcher = _Recorder(wanted, keep_stream and base is None)
    embedded, resid = stack.embed(tokens, geometry, start)
    prompts = torch.arange(len(tokens), device=tokens.device)
    wave = Wave(0, start, tokens.shape[1], prompts, resid)
    kv = base if base is not None else Trace(tokens, geometry, [], [], [])
    stream = [] if not keep_stream else [resid]
    kept = {("embed", 0): embedded} if ("embed", 0) in wanted else {}
    for layer in range(len(stack.blocks)):
        attend(stack, layer, [wave], kv, watcher)
        run_mlp(stack, layer, [wave], watcher)
        if keep_stream or layer == len(stack.blocks) - 1:
            stream.append(wave.resid)
    kept |= watcher.kept
    if base is not None and start:
        stream = [
            torch.cat([old[:, :start], new], dim=1)
            for old, new in zip(base.stream[-len(stream) :], stream, strict=True)
        ]
        kept = {key: _after(base[key], value, key[0], start) for key, value in kept.items()}
    keys, values = (
        [kept.pop((name, layer)) for layer in range(len(stack.blocks)) if (name, layer) in kept]
        for name in ("keys", "values")
    )
    return Trace(tokens, geometry, keys, values, stream, kept)


def _after(old: Tensor, new: Tensor, component: str, start: int) -> Tensor:
    """The base run's columns before ``start``, then the new ones."""
    axis = 2 if component in _BY_HEAD else 1
    return torch.cat([old.narrow(axis, 0, start), new], dim=axis)
