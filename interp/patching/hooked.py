"""The ``hooked`` backend: patches through hooks, many rows to a forward. Works for any model.

Every cell of a sweep is a copy of the base batch whose forward gets one activation replaced. It is
the reference that faster backends are held to: it skips nothing and assumes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.models.capture import head_results, split_heads
from interp.models.hooks import Edit, HookEdit, installed_edits
from interp.models.intervene import attn_out_for
from interp.models.model import Model
from interp.models.sites import Tap, tap
from interp.patching.budget import halve_on_out_of_memory
from interp.patching.cells import Cell
from interp.patching.readout import Readout
from interp.patching.replacement import Replacement, within_subspace
from interp.tasks.base import PromptPairs
from interp.types import PATTERN_COMPONENTS


def run_hooked(
    model: Model,
    task: PromptPairs,
    groups: Sequence[Sequence[Cell]],
    replacement: Replacement,
    readout: Readout,
    direction: str,
    rows_per_forward: int,
    progress: bool = True,
) -> Float[Tensor, "cell prompt"]:
    """The metric of every prompt, for each group of cells patched together.

    A group is usually one cell. ``rows_per_forward`` counts (group, prompt) rows; at least one
    group goes into each forward.
    """
    base = task.corrupted if direction == "denoise" else task.clean
    found: list[Tensor] = []
    with tqdm(total=len(groups), desc="patch", unit="site", disable=not progress) as bar, torch.no_grad():
        chunks = halve_on_out_of_memory(groups, max(1, rows_per_forward // len(task)))
        for chunk in chunks:
            scores = chunks.attempt(partial(_run_chunk, model, task, base, chunk, replacement, readout))
            if scores is not None:
                found.append(scores.cpu())
                bar.update(len(chunk))
    return torch.cat(found)


def _run_chunk(
    model: Model,
    task: PromptPairs,
    base: Tensor,
    chunk: Sequence[Sequence[Cell]],
    replacement: Replacement,
    readout: Readout,
) -> Tensor:
    n = len(chunk)
    tokens = base.repeat(n, 1)
    mask = None if task.attention_mask is None else task.attention_mask.repeat(n, 1)
    with installed_edits(model, list(cell_edits(model, chunk, replacement.value))):
        logits = model(tokens, mask, keep_columns=readout.columns)
    prompts = torch.arange(len(task), device=logits.device).repeat(n)
    return readout.score(logits, prompts).view(n, len(task))


def cell_edits(
    model: Model, chunk: Sequence[Sequence[Cell]], value: Callable[[str, int], Tensor]
) -> Iterator[HookEdit]:
    """Edits that write ``value`` of each cell's component and layer into the block of its group."""
    places: dict[tuple[str, int], list[tuple[int, Cell]]] = defaultdict(list)
    for block, group in enumerate(chunk):
        for cell in group:
            places[cell.component, cell.layer].append((block, cell))
    for (component, layer), here in places.items():
        found = tap(model.family, model.traits, component, layer)
        yield from _edits_at(model, found, here, value(component, layer), len(chunk))


def _edits_at(
    model: Model, tap: Tap, here: Sequence[tuple[int, Cell]], source: Tensor, n_blocks: int
) -> Iterator[HookEdit]:
    read: dict[str, Tensor] = {}

    def remember(name: str) -> Edit:
        def edit(value: Tensor) -> None:
            read[name] = value

        return edit

    def write(value: Tensor) -> Tensor:
        blocks = value.view(n_blocks, -1, *value.shape[1:]).clone()
        for block, cell in here:
            write_cell(blocks[block], source, cell)
        return blocks.view_as(value)

    def direct(value: Tensor) -> Tensor:
        return write(split_heads(value, tap)).reshape(value.shape)

    def through_attn_out(value: Tensor) -> Tensor:
        base = read.pop("base")
        return attn_out_for(write(base + value), base, value)

    def through_o(value: Tensor) -> Tensor:
        result = head_results(model, split_heads(read.pop("z"), tap), tap.layer)
        return value + (write(result) - result).sum(dim=2)

    if tap.how == "through_attn_out":
        assert tap.base is not None
        yield HookEdit(tap.base, remember("base"), stage=2)
        yield HookEdit(tap.write, through_attn_out, tap.stage)
    elif tap.how == "through_o":
        yield HookEdit(tap.read, remember("z"), stage=2)
        yield HookEdit(tap.write, through_o, tap.stage)
    else:
        yield HookEdit(tap.write, direct, tap.stage)


def write_cell(value: Float[Tensor, "batch ..."], source: Float[Tensor, "batch ..."], cell: Cell) -> None:
    """Write a cell's part of ``source`` into ``value`` in place; both hold all heads and columns."""
    is_pattern = cell.component in PATTERN_COMPONENTS
    if cell.head is not None:
        axis = 1 if is_pattern else 2
        value, source = value.select(axis, cell.head), source.select(axis, cell.head)
    where = cell.where.to(value.device)
    if is_pattern and cell.head is None:
        where = where[:, None]
    neurons = slice(None) if cell.neurons is None else list(cell.neurons)
    old, new = value[..., neurons], source[..., neurons]
    if cell.subspace is not None:
        new = within_subspace(old, new, cell.subspace)
    value[..., neurons] = torch.where(where.view(*where.shape, *[1] * (old.ndim - where.ndim)), new, old)
