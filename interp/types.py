"""The site language: one way to name any place in a model.

A site is written as a string or built as a :class:`Site`; the same strings work in Python,
TOML and the shell::

    z                     every head's output, all layers
    z[9.6]                head 6 of layer 9                 (people read L9H6)
    z[*.6], z[0-3]        head 6 of every layer; layers 0 to 3
    resid_pre[4]@END      layer 4, at the position a task labels END
    resid_pre[4]@-1       at the last prompt token; @3 the fourth; @2:5 a range; @1,END several
    resid_pre@pos         each position on its own (in a sweep)
    resid_pre@all         all positions together (in a sweep)
    mlp_post[3].n1207     neuron 1207; .n5,9 two of them; .n* each neuron on its own (in a sweep)
    mlp_out[2]:latent17   latent 17 of a sparse coder at mlp_out[2]
    z[9.6]#0,2            batch rows 0 and 2 only

Positions count from a row's first real token, so a padded prompt and an unpadded one mean the
same; negative positions count back from the last *prompt* token and never from a generated one.
``@gen`` is every generated token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float

from interp.errors import SiteError, unknown_name

Direction = Literal["denoise", "noise"]
"""``denoise``: clean activations into the corrupted run. ``noise``: corrupted into the clean run."""

Backend = Literal["auto", "wavefront", "hooked"]
"""How exact patching runs: the engine with rows in flight, hooks, or the first of these that can."""

Ablation = Literal["source", "zero", "mean", "mean-per-position", "resample"]
"""What replaces an activation: the source run's, zeros, a mean, or another prompt's."""

COMPONENT_AXES: dict[str, tuple[str, ...]] = {
    "embed": ("batch", "pos", "d_model"),
    "resid_pre": ("batch", "pos", "d_model"),
    "resid_mid": ("batch", "pos", "d_model"),
    "mlp_in": ("batch", "pos", "d_model"),
    "resid_post": ("batch", "pos", "d_model"),
    "attn_out": ("batch", "pos", "d_model"),
    "mlp_out": ("batch", "pos", "d_model"),
    "q": ("batch", "pos", "head", "d_head"),
    "k": ("batch", "pos", "kv_head", "d_head"),
    "v": ("batch", "pos", "kv_head", "d_head"),
    "z": ("batch", "pos", "head", "d_head"),
    "result": ("batch", "pos", "head", "d_model"),
    "attn_scores": ("batch", "head", "dest_pos", "src_pos"),
    "pattern": ("batch", "head", "dest_pos", "src_pos"),
    "mlp_pre": ("batch", "pos", "d_mlp"),
    "mlp_pre_linear": ("batch", "pos", "d_mlp"),
    "mlp_post": ("batch", "pos", "d_mlp"),
}
"""Axes of one layer's activation at every component. ``embed`` has no layer; ``mlp_in`` is what enters
the MLP, after its norm."""

LATENTS = ":latent"
"""After a component: the latents of a coder attached there."""
LATENT_AXES = ("batch", "pos", "d_sae")

HEAD_COMPONENTS = frozenset(
    name for name, axes in COMPONENT_AXES.items() if "head" in axes or "kv_head" in axes
)
NEURON_COMPONENTS = frozenset(name for name, axes in COMPONENT_AXES.items() if "d_mlp" in axes)
PATTERN_COMPONENTS = frozenset(name for name, axes in COMPONENT_AXES.items() if "src_pos" in axes)


@dataclass(frozen=True)
class Span:
    """A range of positions, ``start`` to before ``stop``; either may be open."""

    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        return f"{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}"


Position = int | str | Span
"""One position: an index, a task's label (``"END"``), or a range."""

EACH = "pos"
ALL = "all"
GENERATED = "gen"

_SITE = re.compile(
    r"^(?P<component>[a-z_]+)"
    r"(?:\[(?P<index>[^\]]*)\])?"
    r"(?:\.n(?P<neurons>\*|[\d,\-]+))?"
    r"(?::latent(?P<latents>\*|[\d,\-]+))?"
    r"(?:@(?P<positions>[^#]+))?"
    r"(?:#(?P<rows>[\d,\-]+))?$"
)
_LABEL = re.compile(r"^[A-Za-z_][\w+]*$")


@dataclass(frozen=True)
class Site:
    """A place in a model, independent of any one model.

    ``layer``, ``head`` of ``None`` mean every one. Raises :class:`SiteError` when the parts
    do not fit the component (a head on ``resid_pre``, a neuron on ``z``).

    >>> str(Site("z", 9, 6, positions=("END",)))
    'z[9.6]@END'
    >>> parse_site("mlp_post[3].n1207").neurons
    (1207,)
    """

    component: str
    layer: int | None = None
    head: int | None = None
    positions: tuple[Position, ...] | None = None
    """``None`` is the default of the call: all positions for an intervention."""
    neurons: tuple[int, ...] | None = None
    """``()`` means each neuron on its own, in a sweep."""
    latents: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    subspace: Float[torch.Tensor, "k d"] | None = field(default=None, repr=False)
    """Orthonormal rows spanning the subspace that is meant; ``None`` is the whole activation."""

    def __post_init__(self) -> None:
        if self.component not in COMPONENT_AXES:
            raise SiteError(unknown_name("component", self.component, COMPONENT_AXES))
        for kind, index in self._indices():
            if index < 0:
                raise SiteError(f"{kind}s of a site count from 0; got {kind} {index} for {self.component!r}.")
        if self.head is not None and self.component not in HEAD_COMPONENTS:
            raise SiteError(
                f"site {self.component!r} has no heads, but head {self.head} was given; components "
                f"with heads are {', '.join(sorted(HEAD_COMPONENTS))}."
            )
        if self.neurons is not None and self.component not in NEURON_COMPONENTS:
            raise SiteError(
                f"site {self.component!r} has no neurons, but '.n' was given; components with "
                f"neurons are {', '.join(sorted(NEURON_COMPONENTS))}."
            )
        if self.component == "embed" and self.layer is not None:
            raise SiteError(f"'embed' has no layers, but layer {self.layer} was given; write 'embed'.")

    def _indices(self) -> Iterator[tuple[str, int]]:
        yield from ((kind, n) for kind, n in (("layer", self.layer), ("head", self.head)) if n is not None)
        parts = {"neuron": self.neurons, "latent": self.latents, "row": self.rows}
        yield from ((kind, n) for kind, several in parts.items() for n in several or ())

    def _key(self) -> tuple[object, ...]:
        # a tensor neither hashes nor compares as one value; sites are keys of caches
        basis = None if self.subspace is None else self.subspace.detach().cpu().double().numpy()
        mark = None if basis is None else (basis.shape, basis.tobytes())
        parts = (self.positions, self.neurons, self.latents, self.rows)
        return (self.component, self.layer, self.head, *parts, mark)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Site) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __str__(self) -> str:
        text = self.component
        if self.layer is not None or self.head is not None:
            layer = "*" if self.layer is None else str(self.layer)
            text += f"[{layer}]" if self.head is None else f"[{layer}.{self.head}]"
        if self.neurons is not None:
            text += ".n" + (",".join(map(str, self.neurons)) or "*")
        if self.latents is not None:
            text += ":latent" + (",".join(map(str, self.latents)) or "*")
        if self.positions is not None:
            text += "@" + ",".join(map(str, self.positions))
        if self.rows is not None:
            text += "#" + ",".join(map(str, self.rows))
        return text

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of one layer's activation here, e.g. ``("batch", "pos", "head", "d_head")``."""
        return COMPONENT_AXES[self.component] if self.latents is None else LATENT_AXES

    @property
    def activation(self) -> str:
        """What is read here: the component, or ``"mlp_out:latent"`` for a coder's latents there."""
        return self.component if self.latents is None else self.component + LATENTS

    @property
    def entries(self) -> tuple[int, ...] | None:
        """The neurons or latents that are named; ``()`` means each on its own."""
        return self.neurons if self.latents is None else self.latents

    @property
    def each_position(self) -> bool:
        """Whether a sweep takes every position on its own (``@pos``)."""
        return self.positions == (EACH,)

    def at(self, *positions: Position) -> Site:
        """The same site at these positions."""
        return replace(self, positions=tuple(positions))

    def for_rows(self, *rows: int) -> Site:
        """The same site for these batch rows only."""
        return replace(self, rows=tuple(rows))

    def within(self, directions: Float[torch.Tensor, "*k d"]) -> Site:
        """The same site restricted to the span of ``directions`` (orthonormalised here).

        ``directions`` is one vector [d] or several [k, d], in the activation's last axis.
        Raises :class:`SiteError` when they are zero, not finite, or linearly dependent.
        """
        basis = torch.atleast_2d(directions.detach()).double()
        if basis.ndim != 2 or not torch.isfinite(basis).all():
            raise SiteError(
                f"a subspace is given by finite directions [k, d]; got shape {tuple(directions.shape)}"
                f"{'' if torch.isfinite(basis).all() else ' with NaN or infinite entries'}."
            )
        rank = int(torch.linalg.matrix_rank(basis))
        if rank < basis.shape[0]:
            raise SiteError(
                f"{basis.shape[0]} directions span only {rank} dimensions; drop the zero or dependent ones."
            )
        q, _ = torch.linalg.qr(basis.T)
        return replace(self, subspace=q.T.to(directions.dtype))


SiteLike = str | Site


def whole_site(activation: str, layer: int) -> Site:
    """The site of a whole layer's activation, from its name (:attr:`Site.activation`).

    >>> str(whole_site("mlp_out:latent", 2))
    'mlp_out[2]:latent*'
    """
    component = activation.removesuffix(LATENTS)
    where = None if component == "embed" else layer
    return Site(component, where, latents=None if component == activation else ())


def parse_sites(sites: SiteLike | Iterable[SiteLike]) -> list[Site]:
    """Read one or more sites; ``"z[9.6,9.9]"``, ``"z[0-2]"`` expand to several.

    Raises :class:`SiteError` with the nearest valid name when a component is misspelt.

    >>> [str(s) for s in parse_sites(["z[9.6,10.0]", "resid_pre@END"])]
    ['z[9.6]', 'z[10.0]', 'resid_pre@END']
    """
    if isinstance(sites, (str, Site)):
        sites = [sites]
    found = [site for item in sites for site in ([item] if isinstance(item, Site) else _parse(item))]
    if not found:
        raise SiteError("no site given; write for example sites=['z', 'resid_pre'].")
    return found


def parse_site(site: SiteLike) -> Site:
    """Read exactly one site. Raises :class:`SiteError` if it names several."""
    found = parse_sites(site)
    if len(found) != 1:
        raise SiteError(f"{site!r} names {len(found)} sites where one is expected.")
    return found[0]


def _parse(text: str) -> list[Site]:
    if not isinstance(text, str):
        raise SiteError(
            f"a site is a string like 'z[9.6]' or an interp.Site; got {type(text).__name__}: {text!r}."
        )
    match = _SITE.match(text.strip())
    if match is None:
        raise SiteError(
            f"cannot read site {text!r}; expected component[layer.head].neuron@position#rows, "
            "for example 'z[9.6]', 'resid_pre[4]@END', 'mlp_post[3].n1207' or 'z[9.6]#0,2'."
        )
    parts = match.groupdict()
    site = Site(
        component=parts["component"],
        positions=_parse_positions(parts["positions"], text),
        neurons=_parse_ints(parts["neurons"], text),
        latents=_parse_ints(parts["latents"], text),
        rows=_parse_ints(parts["rows"], text),
    )
    if parts["index"] is None:
        return [site]
    return [
        replace(site, layer=layer, head=head)
        for item in parts["index"].split(",")
        for layer, head in _expand_index(item.strip(), text)
    ]


def _expand_index(item: str, text: str) -> list[tuple[int | None, int | None]]:
    layer, dot, head = item.partition(".")
    layers = _expand_range(layer, text)
    heads = _expand_range(head, text) if dot else [None]
    return [(a, b) for a in layers for b in heads]


def _expand_range(item: str, text: str) -> list[int | None]:
    if item == "*":
        return [None]
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", item):
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last >= first:
            return list(range(first, last + 1))
    raise SiteError(
        f"cannot read {item!r} in site {text!r}; expected an index, a rising range like 0-3, or *."
    )


def _parse_ints(item: str | None, text: str) -> tuple[int, ...] | None:
    if item is None:
        return None
    if item == "*":
        return ()
    return tuple(n for part in item.split(",") for n in _expand_range(part, text) if n is not None)


def _parse_positions(item: str | None, text: str) -> tuple[Position, ...] | None:
    if item is None:
        return None
    return tuple(_parse_position(part.strip(), text) for part in item.split(","))


def _parse_position(item: str, text: str) -> Position:
    if re.fullmatch(r"-?\d+", item):
        return int(item)
    if match := re.fullmatch(r"(-?\d*):(-?\d*)", item):
        return Span(int(match[1]) if match[1] else None, int(match[2]) if match[2] else None)
    if _LABEL.match(item):
        return item
    raise SiteError(
        f"cannot read position {item!r} in site {text!r}; expected an index (3, -1), a range (2:5), "
        "a label of the task (END), 'pos', 'all' or 'gen'."
    )
