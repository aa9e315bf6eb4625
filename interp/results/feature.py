"""What one latent of a sparse coder fires on, what it writes, and which latents are near it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.token_text import visible_token
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TOP = "largest"
"""Name of the examples with the largest activations."""


@dataclass(frozen=True, eq=False)
class LatentExamples(Record):
    """Places where a latent fires, each with the tokens around it.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "activations": ("example", "pos"),
        "peaks": ("example",),
        "prompts": ("example",),
        "positions": ("example",),
    }

    name: str
    """``largest``, or the interval of quantiles that the examples were drawn from (``20–40 %``)."""
    low: float
    """Activations at the place itself lie from ``low`` to below ``high`` (the last interval: up to ``high``)."""
    high: float
    share: float
    """Share of the latent's firings whose activation lies there."""
    tokens: tuple[tuple[str, ...], ...]
    """Of each window, in reading order."""
    activations: Float[Tensor, "example pos"]
    """Of the latent at every token; NaN after a window's last, and where the coder did not read."""
    peaks: Int[Tensor, " example"]
    """Which token of its window each example is about."""
    prompts: Int[Tensor, " example"]
    """Number of the prompt in the data."""
    positions: Int[Tensor, " example"]
    """Position of that token in its prompt, counted from the first real one."""

    def __post_init__(self) -> None:
        self._check_axes(example=len(self.tokens))
        lengths = torch.tensor([len(row) for row in self.tokens], dtype=torch.long)
        if len(lengths) and (int(lengths.max()) > self.activations.shape[1] or int(lengths.min()) < 1):
            raise RecordError(
                f"examples have windows of {lengths.tolist()} tokens and activations for {self.activations.shape[1]}."
            )
        if bool(((self.peaks < 0) | (self.peaks >= lengths)).any()):
            raise RecordError(
                f"peaks must lie in their windows of {lengths.tolist()} tokens; got {self.peaks.tolist()}."
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def values(self) -> Float[Tensor, " example"]:
        """Activation at the place that each example is about."""
        return self.activations[torch.arange(len(self)), self.peaks]


@dataclass(frozen=True, eq=False)
class LatentNeighbours(Record):
    """Other latents of the same coder, the nearest first.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"latents": ("near",), "values": ("near",)}

    latents: Int[Tensor, " near"]
    values: Float[Tensor, " near"]
    """Cosine or correlation with each, from -1 to 1."""

    def __post_init__(self) -> None:
        self._check_axes()

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True, eq=False)
class LatentLogits(Record):
    """The tokens whose logits a latent's decoder direction raises and lowers most.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"raised": ("up",), "lowered": ("down",)}

    raised_tokens: tuple[str, ...]
    raised: Float[Tensor, " up"]
    """Logit a unit of activation, less the mean over the vocabulary; the largest first. The final norm's gain is
    folded in and its scale is left out, so that only ratios between tokens mean something."""
    lowered_tokens: tuple[str, ...]
    lowered: Float[Tensor, " down"]
    """The smallest first."""

    def __post_init__(self) -> None:
        self._check_axes(up=len(self.raised_tokens), down=len(self.lowered_tokens))


@dataclass(frozen=True, eq=False)
class LatentProfile(Record):
    """Everything there is to show of one latent. Shows itself as coloured text in a notebook.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "counts": ("bin",),
        "edges": ("edge",),
        "head_shares": ("head",),
    }

    site: str
    """Where the coder reads, such as ``mlp_out[2]``."""
    latent: int
    density: float
    """Share of tokens on which it fires."""
    n_tokens: int
    """Tokens that it was looked at on."""
    mean: float
    """Of its activations where it fires; NaN for a latent that never does. ``maximum`` likewise."""
    maximum: float
    counts: Int[Tensor, " bin"]
    """Firings by activation, in equal bins from 0 to the maximum."""
    edges: Float[Tensor, " edge"]
    """Of the bins; one more than there are bins."""
    examples: tuple[LatentExamples, ...]
    """The largest activations, one a prompt; then random places from each interval of quantiles, the highest first."""
    neighbours: LatentNeighbours
    """By cosine of decoder directions."""
    coactive: LatentNeighbours
    """By correlation of firing (phi coefficient of two yes/no variables over tokens)."""
    alignment: float
    """Cosine of its encoder and decoder directions; NaN where the two lie in different spaces."""
    provenance: Provenance
    logits: LatentLogits | None = None
    """``None`` where the coder does not write to the residual stream."""
    head_shares: Float[Tensor, " head"] | None = None
    """Share of the squared norm of its decoder direction that lies in each head's part of ``z``."""
    label: str | None = None
    """What somebody takes it to mean."""
    f1: dict[str, float] = field(default_factory=dict)
    """F1 of the latent as a detector of known attributes, by their names."""

    def __post_init__(self) -> None:
        self._check_axes(edge=len(self.counts) + 1)
        if bool((self.edges.diff() <= 0).any()):
            raise RecordError(f"the edges of a histogram must rise; got {self.edges.tolist()}.")

    @property
    def name(self) -> str:
        """As the site language writes it: ``mlp_out[2]:latent17``."""
        return f"{self.site}:latent{self.latent}"

    @property
    def is_dead(self) -> bool:
        """Whether it fired on no token."""
        return self.density == 0.0

    @property
    def top(self) -> LatentExamples:
        """The examples with the largest activations; empty for a dead latent.

        Raises :class:`RecordError` where there are none.
        """
        for group in self.examples:
            if group.name == TOP:
                return group
        raise RecordError(
            f"{self.name} has no examples named {TOP!r}; it has {[g.name for g in self.examples]}."
        )

    def to_frame(self) -> pd.DataFrame:
        """One row an example: its group, activation, prompt, position, token, and the text around it."""
        import pandas as pd

        rows = [
            {
                "group": group.name,
                "activation": float(group.values[i]),
                "prompt": int(group.prompts[i]),
                "position": int(group.positions[i]),
                "token": tokens[int(group.peaks[i])],
                "text": "".join(tokens),
            }
            for group in self.examples
            for i, tokens in enumerate(group.tokens)
        ]
        return pd.DataFrame(rows, columns=["group", "activation", "prompt", "position", "token", "text"])

    def summary(self) -> str:
        """A few lines: how often and how strongly it fires, where, and what it writes."""
        if self.is_dead:
            return f"{self.name}: never fired on {self.n_tokens:,} tokens"
        label = "" if self.label is None else f" “{self.label}”"
        lines = [
            f"{self.name}{label}: fires on {self.density:.3%} of {self.n_tokens:,} tokens, mean {self.mean:.3g}, "
            f"largest {self.maximum:.3g}"
        ]
        fired = [visible_token(t[int(peak)]) for t, peak in zip(self.top.tokens, self.top.peaks, strict=True)]
        lines.append(f"  fires on  {'  '.join(dict.fromkeys(fired))}")
        if self.logits is not None:
            lines.append(f"  raises    {'  '.join(map(visible_token, self.logits.raised_tokens))}")
            lines.append(f"  lowers    {'  '.join(map(visible_token, self.logits.lowered_tokens))}")
        near = zip(self.neighbours.latents.tolist(), self.neighbours.values.tolist(), strict=True)
        lines.append(f"  near      {'  '.join(f'{latent} ({value:.2f})' for latent, value in near)}")
        lines += [
            f"  F1        {name} {value:.3f}" for name, value in self.f1.items() if not math.isnan(value)
        ]
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Activations, logits and neighbours (``interp.plots.plot_latent``)."""
        return draw("plot_latent", self)

    def to_html(self, examples: int = 8) -> str:
        """Coloured text of its examples (``interp.plots.latent_html``)."""
        text: str = draw("latent_html", self, examples=examples)
        return text

    def _repr_html_(self) -> str:
        return self.to_html()
