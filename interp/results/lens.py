"""What a model would say at every layer, and which parts wrote its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LensColour = Literal["probability", "target_probability", "target_rank"]


@dataclass(frozen=True, eq=False)
class LensTargets:
    """The tokens a lens was asked about: the true next ones, or a task's answers."""

    ids: Int[Tensor, "batch pos"]
    """Negative where nothing is asked."""
    logits: Float[Tensor, "layer batch pos"]
    probs: Float[Tensor, "layer batch pos"]
    ranks: Int[Tensor, "layer batch pos"]
    """How many tokens are likelier than the target: 0 is the top."""


@dataclass(frozen=True, eq=False)
class LogitLens(Record):
    """The residual stream read through the final norm and the unembedding, at every layer.

    Positions count from each prompt's first real token. Entries past the end of a shorter prompt
    are ignored. Source: nostalgebraist, "interpreting GPT: the logit lens" (2020). Raises
    :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "top_ids": ("layer", "batch", "pos", "k"),
        "top_logits": ("layer", "batch", "pos", "k"),
        "top_probs": ("layer", "batch", "pos", "k"),
        "target_ids": ("batch", "pos"),
        "target_logits": ("layer", "batch", "pos"),
        "target_probs": ("layer", "batch", "pos"),
        "target_ranks": ("layer", "batch", "pos"),
        "positions": ("batch", "pos"),
    }

    layers: tuple[str, ...]
    """Where the stream was read, in order: ``"embed"``, ``"resid_post 0"``, ``"resid_post 1"`` ..."""
    tokens: tuple[tuple[str, ...], ...]
    """Each prompt's tokens as text, padding left out."""
    top_ids: Int[Tensor, "layer batch pos k"]
    """The most likely next tokens, most likely first."""
    top_logits: Float[Tensor, "layer batch pos k"]
    top_probs: Float[Tensor, "layer batch pos k"]
    vocabulary: dict[int, str]
    """The text of every id in ``top_ids`` and ``target_ids``."""
    provenance: Provenance
    target_ids: Int[Tensor, "batch pos"] | None = None
    """The token asked about at each position. Negative where nothing is asked."""
    target_logits: Float[Tensor, "layer batch pos"] | None = None
    target_probs: Float[Tensor, "layer batch pos"] | None = None
    target_ranks: Int[Tensor, "layer batch pos"] | None = None
    """How many tokens are likelier than the target: 0 is the top."""
    positions: Int[Tensor, "batch pos"] | None = None
    """The prompt's position that each entry of the pos axis holds, where only some were kept."""

    def __post_init__(self) -> None:
        self._check_axes(layer=len(self.layers), batch=len(self.tokens))
        longest = max((len(row) for row in self.tokens), default=0)
        if self.top_ids.numel() == 0 or longest > self.top_ids.shape[2]:
            raise RecordError(
                f"LogitLens needs at least one entry and an entry for every token; got top_ids of shape "
                f"{list(self.top_ids.shape)} for prompts of up to {longest} tokens."
            )
        parts = (self.target_ids, self.target_logits, self.target_probs, self.target_ranks)
        if self.targets is None and any(part is not None for part in parts):
            raise RecordError(
                "give target_ids, target_logits, target_probs and target_ranks together, or none."
            )

    @property
    def targets(self) -> LensTargets | None:
        """What was asked about and how it fared; ``None`` when nothing was asked."""
        ids, logits, probs, ranks = self.target_ids, self.target_logits, self.target_probs, self.target_ranks
        if ids is None or logits is None or probs is None or ranks is None:
            return None
        return LensTargets(ids, logits, probs, ranks)

    def positions_of(self, prompt: int) -> list[int]:
        """The position of each of a prompt's ``tokens``, counted from its first real token."""
        n = len(self.tokens[prompt])
        return list(range(n)) if self.positions is None else self.positions[prompt, :n].tolist()

    def text_of(self, token_id: int) -> str:
        """The text of a token id, ``#id`` when it is unknown."""
        return self.vocabulary.get(token_id, f"#{token_id}")

    def top_tokens(self, layer: int, prompt: int, pos: int) -> list[tuple[str, float]]:
        """The likeliest next tokens at one place with their probabilities, likeliest first.

        ``layer`` indexes ``layers``, and ``pos`` the prompt's ``tokens``.
        """
        ids = self.top_ids[layer, prompt, pos].tolist()
        probs = self.top_probs[layer, prompt, pos].tolist()
        return [(self.text_of(i), p) for i, p in zip(ids, probs, strict=True)]

    def to_frame(self) -> pd.DataFrame:
        """One row a layer, prompt and position: the top token and, where asked, the target."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        targets = self.targets
        for prompt, tokens in enumerate(self.tokens):
            for layer, label in enumerate(self.layers):
                for column, (pos, token) in enumerate(zip(self.positions_of(prompt), tokens, strict=True)):
                    place = {"layer": label, "prompt": prompt, "pos": pos, "token": token}
                    read = self._top(layer, prompt, column) | self._target(targets, (layer, prompt, column))
                    rows.append(place | read)
        return pd.DataFrame(rows)

    def _top(self, layer: int, prompt: int, pos: int) -> dict[str, Any]:
        at = (layer, prompt, pos, 0)
        return {
            "top_token": self.text_of(int(self.top_ids[at])),
            "top_probability": float(self.top_probs[at]),
            "top_logit": float(self.top_logits[at]),
        }

    def _target(self, targets: LensTargets | None, at: tuple[int, int, int]) -> dict[str, Any]:
        if targets is None:
            return {}
        target = int(targets.ids[at[1:]])
        asked = target >= 0
        return {
            "target": self.text_of(target) if asked else None,
            "target_probability": float(targets.probs[at]) if asked else None,
            "target_logit": float(targets.logits[at]) if asked else None,
            "target_rank": int(targets.ranks[at]) if asked else None,
        }

    def plot(
        self, prompt: int = 0, color: LensColour = "probability", positions: Sequence[int] | None = None
    ) -> go.Figure:
        """Layer x position with the top token as text (``interp.plots.plot_logit_lens``)."""
        return draw("plot_logit_lens", self, prompt=prompt, color=color, positions=positions)


@dataclass(frozen=True, eq=False)
class LogitAttribution(Record):
    """Direct logit attribution: what each part wrote into the answer's logit difference.

    Values are in the units of the logit difference, the final norm's scale held at its value in
    the run. ``by_component`` sums to ``total``; ``actual`` is the model's own logit difference, and
    the two agree when every part is listed. A head's or a neuron's share is part of its layer's.
    Source: Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021).
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "by_component": ("component", "batch"),
        "actual": ("batch",),
        "by_head": ("layer", "head", "batch"),
        "head_bias": ("layer", "batch"),
        "by_neuron": ("neuron", "batch"),
        "accumulated": ("point", "batch"),
    }

    components: tuple[str, ...]
    """In the order they write: ``"embed"``, ``"pos_embed"``, ``"attn 0"``, ``"mlp 0"`` ... ``"bias"``."""
    by_component: Float[Tensor, "component batch"]
    actual: Float[Tensor, "batch"]
    """The model's own logit difference."""
    provenance: Provenance
    by_head: Float[Tensor, "layer head batch"] | None = None
    head_layers: tuple[int, ...] | None = None
    """The layer of each row of ``by_head``; ``None`` is 0, 1, 2 ..."""
    head_bias: Float[Tensor, "layer batch"] | None = None
    """What no head wrote in its layer's attention: the output bias. Heads plus this are the layer."""
    neurons: tuple[str, ...] = ()
    """Names of the neurons that were kept, largest first: ``"L3 n1207"``."""
    by_neuron: Float[Tensor, "neuron batch"] | None = None
    points: tuple[str, ...] = ()
    """Where ``accumulated`` was read: ``"resid_pre 0"``, ``"resid_mid 0"``, ``"resid_post 0"`` ..."""
    accumulated: Float[Tensor, "point batch"] | None = None
    """Logit difference of the residual stream itself at ``points``, the final norm's scale held too."""
    units: str = "logit difference"

    def __post_init__(self) -> None:
        sizes = {"component": len(self.components)}
        if self.by_neuron is not None or self.neurons:
            sizes["neuron"] = len(self.neurons)
        if self.accumulated is not None or self.points:
            sizes["point"] = len(self.points)
        if self.by_head is not None and self.head_layers is not None:
            sizes["layer"] = len(self.head_layers)
        self._check_axes(**sizes)
        if self.by_component.numel() == 0:
            raise RecordError("LogitAttribution needs at least one component and one prompt.")
        for names, values in (("neurons", self.by_neuron), ("points", self.accumulated)):
            if getattr(self, names) and values is None:
                raise RecordError(f"LogitAttribution names {names} but has no values for them.")

    @property
    def total(self) -> Float[Tensor, "batch"]:
        """Sum of all components."""
        return self.by_component.sum(dim=0)

    @property
    def unexplained(self) -> Float[Tensor, "batch"]:
        """``actual - total``: what no listed component wrote. Rounding, when every one is listed."""
        return self.actual - self.total

    def layer_of(self, row: int) -> int:
        """The model's layer of a row of ``by_head``."""
        return row if self.head_layers is None else self.head_layers[row]

    def running_total(self) -> tuple[tuple[str, ...], Float[Tensor, "point batch"]]:
        """Names and values of the accumulated logit difference.

        What was measured at ``points`` where there is such a thing, else the running sum of
        ``by_component``.
        """
        if self.accumulated is not None:
            return self.points, self.accumulated
        return self.components, self.by_component.cumsum(dim=0)

    def to_frame(self) -> pd.DataFrame:
        """One row a part: its kind, name, mean over prompts and standard deviation."""
        import pandas as pd

        parts: list[tuple[str, str, Tensor]] = [
            ("component", name, values)
            for name, values in zip(self.components, self.by_component, strict=True)
        ]
        if self.by_head is not None:
            for row, layer in enumerate(self.by_head):
                parts += [("head", f"L{self.layer_of(row)}H{h}", values) for h, values in enumerate(layer)]
        if self.by_neuron is not None:
            parts += [("neuron", n, values) for n, values in zip(self.neurons, self.by_neuron, strict=True)]
        return pd.DataFrame(
            {"kind": kind, "name": name, "mean": float(v.mean()), "std": float(v.std(correction=0))}
            for kind, name, v in parts
        )

    def plot(self) -> go.Figure:
        """Bars, the accumulated line and the heads (``interp.plots.plot_logit_attribution``)."""
        return draw("plot_logit_attribution", self)
