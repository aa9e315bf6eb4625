"""From sites to cells: every single patch of a sweep, and the axes they are laid out on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from jaxtyping import Bool
from torch import Tensor

from interp.errors import PatchError
from interp.models.model import Model
from interp.models.positions import Columns, Prompt
from interp.models.sites import expand
from interp.tasks.base import PromptPairs
from interp.types import ALL, HEAD_COMPONENTS, LATENTS, PATTERN_COMPONENTS, Site


@dataclass(frozen=True)
class Cell:
    """One patch: one layer's activation, or a part of it, at some positions of every prompt."""

    component: str
    """Of a coder's latents with ``:latent`` after it."""
    layer: int
    head: int | None
    neurons: tuple[int, ...] | None
    """Or latents."""
    where: Bool[Tensor, "batch pos"] = field(compare=False, repr=False)
    """Columns that are patched in each prompt."""
    subspace: Tensor | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        """A person's name: ``L9H6``, ``L9H6 q``, ``mlp_out L2``, ``mlp_post L3 n1207``."""
        if self.head is not None:
            return f"L{self.layer}H{self.head}" + ("" if self.component == "z" else f" {self.component}")
        of_coder = self.component.endswith(LATENTS)
        units = "" if self.neurons is None else ",".join(map(str, self.neurons))
        units = units and (" latent " if of_coder else " n") + units
        return f"{self.component.removesuffix(LATENTS)} L{self.layer}{units or ' latents' * of_coder}"


@dataclass(frozen=True)
class Sweep:
    """All cells of one site: every layer, head, group of neurons and set of positions with every other."""

    site: Site
    axes: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    layers: tuple[int, ...]
    heads: tuple[int | None, ...]
    """``None`` is all of them; likewise for neurons."""
    neurons: tuple[tuple[int, ...] | None, ...]
    wheres: tuple[Bool[Tensor, "batch pos"], ...]
    """Columns that are patched together in each prompt."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(self.labels[axis]) for axis in self.axes)

    @cached_property
    def takes_all_heads(self) -> bool:
        """Whether the heads are 0, 1, 2 ... in turn; up to which, the activation says."""
        return self.heads == tuple(range(len(self.heads)))

    @cached_property
    def takes_each_neuron(self) -> bool:
        """Whether the groups of neurons are 0, 1, 2 ... alone; up to which, the activation says."""
        return self.neurons == tuple((i,) for i in range(len(self.neurons)))

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every single patch, in the order of the axes."""
        return tuple(
            Cell(self.site.activation, layer, head, part, where, self.site.subspace)
            for layer in self.layers
            for head in self.heads
            for part in self.neurons
            for where in self.wheres
        )


def columns_of(task: PromptPairs) -> Columns:
    """The columns of a task's prompts as positions."""
    batch, n = task.clean.shape
    return Columns(Prompt.from_mask(batch, n, task.attention_mask), 0, n)


def plan_sweep(model: Model, task: PromptPairs, site: Site, direction: str) -> Sweep:
    """Lay a site out as cells.

    A site without layer, head, neurons or positions sweeps over them: ``z`` over layer x head with
    all positions together, ``resid_pre`` over layer x position, ``z@pos`` over layer x head x
    position, ``mlp_post.n*`` over layer x neuron, ``mlp_out[2]:latent*`` over the latents of a coder
    attached there. Parts that are given are held fixed.

    Raises :class:`PatchError` for batch rows, which have no meaning in a sweep.
    """
    if site.rows is not None:
        raise PatchError(
            f"site {site} names batch rows; a sweep patches every prompt. Use task.select(rows)."
        )
    taps = expand(site, model.family, model.traits, model.attached)
    _check_subspace(model, task, site)
    columns = columns_of(task)
    wheres, pos_labels = _positions(task, site, columns, direction)
    heads = _heads(model, site)
    neurons = _neurons(model, site)
    axes: list[str] = []
    labels: dict[str, tuple[str, ...]] = {}
    if site.layer is None and site.component != "embed":
        axes.append("layer")
        labels["layer"] = tuple(str(tap.layer) for tap in taps)
    if site.activation in HEAD_COMPONENTS and site.head is None:
        axes.append("kv_head" if "kv_head" in site.axes else "head")
        labels[axes[-1]] = tuple(map(str, heads))
    if site.entries == ():
        axes.append("neuron" if site.latents is None else "latent")
        labels[axes[-1]] = tuple(str(n[0]) for n in neurons if n is not None)
    if pos_labels is not None:
        axes.append("dest_pos" if site.component in PATTERN_COMPONENTS else "pos")
        labels[axes[-1]] = pos_labels
    layers = tuple(tap.layer for tap in taps)
    return Sweep(site, tuple(axes), labels, layers, tuple(heads), tuple(neurons), tuple(wheres))


def _check_subspace(model: Model, task: PromptPairs, site: Site) -> None:
    if site.subspace is None:
        return
    axis = site.axes[-1]
    if axis == "src_pos":
        width = task.clean.shape[1]
    else:
        width = _n_latents(model, site) if axis == "d_sae" else getattr(model.traits, axis)
    width = width if site.entries is None else max(1, len(site.entries))
    if site.subspace.shape[-1] != width:
        raise PatchError(
            f"the subspace of {site} has directions of {site.subspace.shape[-1]} entries; the activation has {width}."
        )


def _heads(model: Model, site: Site) -> list[int | None]:
    if site.activation not in HEAD_COMPONENTS:
        return [None]
    if site.head is not None:
        return [site.head]
    n = model.traits.n_kv_heads if "kv_head" in site.axes else model.traits.n_heads
    return list(range(n))


def _neurons(model: Model, site: Site) -> list[tuple[int, ...] | None]:
    if site.entries is None:
        return [None]
    if site.entries == ():
        n = model.traits.d_mlp if site.latents is None else _n_latents(model, site)
        return [(i,) for i in range(n)]
    return [site.entries]


def _n_latents(model: Model, site: Site) -> int:
    """Latents of the coder at a site; of all layers' coders, which have as many each."""
    return model.attached[site.component, site.layer or 0]


def _positions(
    task: PromptPairs, site: Site, columns: Columns, direction: str
) -> tuple[list[Tensor], tuple[str, ...] | None]:
    """Masks [batch, pos] of the positions to patch one after another, and their labels."""
    each = site.each_position or (site.positions is None and _each_by_default(site))
    if not each:
        held = site if site.positions is not None else site.at(ALL)
        chosen = columns.select(replace(held, rows=None), task.labels)
        if not bool(chosen.any()):
            raise PatchError(f"site {site} lies outside every prompt; nothing would be patched.")
        return [chosen], None
    n = int(task.lengths.max())
    at = columns.positions
    return [at == p for p in range(n)], _position_labels(task, n, direction)


def _each_by_default(site: Site) -> bool:
    return site.activation not in HEAD_COMPONENTS and site.entries is None


def _position_labels(task: PromptPairs, n: int, direction: str) -> tuple[str, ...]:
    """The token at each position of the longest prompt of the base run."""
    longest = int(task.lengths.argmax())
    texts = task.corrupted_str_tokens if direction == "denoise" else task.clean_str_tokens
    if texts is not None:
        return tuple(texts[longest][:n])
    tokens = task.corrupted if direction == "denoise" else task.clean
    return tuple(str(int(t)) for t in tokens[longest][task.mask[longest]])
