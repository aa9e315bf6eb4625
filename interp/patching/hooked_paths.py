"""Path patching through hooks, one sender at a time: the reference, and for any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.models.cache import ActivationCache
from interp.models.capture import capture
from interp.models.hooks import HookEdit, installed_edits
from interp.models.intervene import intervene
from interp.models.interventions import Intervention
from interp.models.interventions import replace as replace_activation
from interp.models.model import Model
from interp.patching.cells import Cell
from interp.patching.hooked import cell_edits
from interp.patching.readout import Readout
from interp.patching.replacement import Replacement
from interp.patching.wavefront.cells import ATTENTION, MLP, entry_of
from interp.patching.wavefront.paths import Paths, read_point
from interp.tasks.base import PromptPairs
from interp.types import Site


@torch.no_grad()
def run_paths_hooked(
    model: Model,
    task: PromptPairs,
    senders: Sequence[Cell],
    paths: Paths,
    replacement: Replacement,
    readout: Readout,
    direction: str,
    progress: bool = True,
) -> Float[Tensor, "sender prompt"]:
    """The metric of every prompt with each sender patched along its paths to the receivers only."""
    tokens = task.corrupted if direction == "denoise" else task.clean
    places = dict.fromkeys((cell.component, cell.layer) for cell in paths.receivers)
    sublayers = [Site(name) for name in ("attn_out", "mlp_out") if name in model.components]
    base = capture(model, tokens, [*sublayers, *_sites(places)], attention_mask=task.attention_mask)
    prompts = torch.arange(len(task), device=model.device)
    found = []
    for sender in tqdm(senders, desc="paths", unit="sender", disable=not progress):
        frozen = list(_frozen(model, sender, paths, base))
        reached = [
            cell
            for cell in paths.receivers
            if read_point(cell, model.traits) >= entry_of(sender.component, sender.layer, model.traits)
        ]
        received = _receive(model, task, tokens, sender, frozen, replacement, places)
        edits = [
            edit
            for component, layer in places
            for edit in _receiver_edits(model, reached, component, layer, received)
        ]
        with installed_edits(model, edits):
            logits = model(tokens, task.attention_mask, keep_columns=readout.columns)
        found.append(readout.score(logits, prompts).cpu())
    return torch.stack(found)


def _sites(places: dict[tuple[str, int], None]) -> list[Site]:
    return [Site(component, layer) for component, layer in places]


def _frozen(model: Model, sender: Cell, paths: Paths, base: ActivationCache) -> Iterator[Intervention]:
    """Everything that could pass the sender's change on other than straight along the stream."""
    name, layer = sender.component, sender.layer
    for later in range(layer, model.traits.n_layers):
        # the sender's own sublayer sees unchanged input, and must keep the change that is made in it
        own_attention = later == layer and name in (*ATTENTION, "z", "result", "attn_out")
        done = later == layer and name in (*MLP, "resid_mid")
        if not own_attention and not done:
            yield replace_activation(Site("attn_out", later), base)
        own_mlp = later == layer and name in MLP
        if model.traits.d_mlp and not own_mlp and not paths.through_mlps:
            yield replace_activation(Site("mlp_out", later), base)


def _receive(
    model: Model,
    task: PromptPairs,
    tokens: Tensor,
    sender: Cell,
    frozen: Sequence[Intervention],
    replacement: Replacement,
    places: dict[tuple[str, int], None],
) -> ActivationCache:
    edits = list(cell_edits(model, [[sender]], replacement.value))
    # the sender's hooks first, so that a site that is patched and frozen alike would show as frozen
    with installed_edits(model, edits):
        if not frozen:
            return capture(model, tokens, _sites(places), attention_mask=task.attention_mask)
        with intervene(model, frozen):
            return capture(model, tokens, _sites(places), attention_mask=task.attention_mask)


def _receiver_edits(
    model: Model, receivers: Sequence[Cell], component: str, layer: int, received: ActivationCache
) -> Iterator[HookEdit]:
    here = [cell for cell in receivers if (cell.component, cell.layer) == (component, layer)]
    if here:
        yield from cell_edits(model, [here], lambda name, at: received[Site(name, at)])
