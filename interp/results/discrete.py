"""Heads as a discrete coder sees them: integer codes of their outputs, and what positive prompts alone show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import CircuitError, unknown_name
from interp.results.circuit import Circuit
from interp.results.code_counts import count_unique, count_unique_pairs
from interp.results.graph import Graph
from interp.results.head_ranking import (
    HeadLike,
    HeadPairLike,
    RankingQuality,
    mark_heads,
    mark_pairs,
    measure_ranking,
)
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Part = Literal["held_out", "train"]


@dataclass(frozen=True)
class CoderFit:
    """How the coder fits what it was trained on, and prompts it has not seen."""

    fvu: float
    """Fraction of variance unexplained on the training prompts; the variance is about one mean of all heads, or
    about each head's own where these were taken off."""
    fvu_held_out: float
    l0: float
    """Latents that fire on an output, on average over the held-out prompts."""


@dataclass(frozen=True)
class DiscreteEvaluation:
    """What :meth:`DiscreteCircuit.evaluate` returns: the ranking against a known circuit.

    Beside each stands the same of a ranking that knows nothing of positive and negative: how many
    different codes (pairs of codes) there are at all. Where this does as well, the labels add nothing.
    """

    on: Part
    heads: RankingQuality
    heads_by_variety: RankingQuality
    edges: RankingQuality | None = None
    """Of all pairs of a head and a head of a later layer."""
    edges_by_variety: RankingQuality | None = None


@dataclass(frozen=True, eq=False)
class DiscreteCircuit(Record):
    """What :func:`interp.find_discrete_circuit` returns: codes of every head on every prompt.

    Scores are computed from the codes. Raises :class:`CircuitError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "codes": ("prompt", "layer", "head"),
        "positive": ("prompt",),
        "held_out": ("prompt",),
        "p_values": ("layer", "head"),
        "family_p_values": ("layer", "head"),
        "null_means": ("layer", "head"),
    }

    codes: Int[Tensor, "prompt layer head"]
    """Number of the latent that fires most on the head's output; ``n_latents`` where none fires. All
    positive prompts stand first, then as many negative ones."""
    positive: Bool[Tensor, " prompt"]
    held_out: Bool[Tensor, " prompt"]
    """Prompts that the coder was not trained on."""
    n_latents: int
    normalised: bool
    """Whether scores are shares of the codes a head shows on any prompt, instead of counts."""
    paired: bool
    """Whether positive and negative prompt i were made from each other; the labels are then shuffled in pairs."""
    p_values: Float[Tensor, "layer head"]
    """How often shuffled labels give a head at least its held-out score; of one head, not corrected for many."""
    family_p_values: Float[Tensor, "layer head"]
    """How often they give *any* head a p-value as small as this head's: corrected for the number of heads."""
    null_means: Float[Tensor, "layer head"]
    """The head's mean score under shuffled labels."""
    n_shuffles: int
    fit: CoderFit
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()
        n = len(self.positive)
        first = torch.arange(n, device=self.positive.device) < n / 2
        if n % 2 or not torch.equal(self.positive, first):
            raise CircuitError(
                f"positive prompts come first, then as many negative ones; got {int(self.positive.sum())} "
                f"positive of {n} prompts."
            )
        for part in get_args(Part):
            kept = self._rows(part)
            positive = int(self.positive[kept].sum())
            if not positive or 2 * positive != int(kept.sum()):
                raise CircuitError(
                    f"{part} prompts must be as many positive as negative ones, at least one; got {positive} "
                    f"positive of {int(kept.sum())}."
                )
        low, high = int(self.codes.min()), int(self.codes.max())
        if low < 0 or high > self.n_latents:
            raise CircuitError(
                f"codes lie in 0..{self.n_latents} (the last: no latent fires); got {low}..{high}."
            )

    def __repr__(self) -> str:
        return (
            f"DiscreteCircuit({self.n_layers} layers x {self.n_heads} heads, {self.n_latents} latents; "
            f"{self.provenance.summary()})"
        )

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.codes.shape[1]

    @property
    def n_heads(self) -> int:
        """Heads of each layer."""
        return self.codes.shape[2]

    @property
    def head_names(self) -> tuple[str, ...]:
        """``a0.h0``, ``a0.h1`` ...: the order of senders and receivers."""
        return tuple(f"a{layer}.h{head}" for layer in range(self.n_layers) for head in range(self.n_heads))

    def head_scores(self, on: Part = "held_out") -> Float[Tensor, "layer head"]:
        """Codes that each head shows on positive prompts only: their number, or their share.

        ``on="train"`` counts on the prompts that the coder was trained on, as the paper does. Raises
        :class:`CircuitError` for another part.
        """
        unique, union = count_unique(*self._counted(on))
        return self._score(unique, union)

    def head_variety(self, on: Part = "held_out") -> Float[Tensor, "layer head"]:
        """Different codes that each head shows on any prompt. Raises as :meth:`head_scores`."""
        codes, positive = self._counted(on)
        return torch.from_numpy(count_unique(codes, positive)[1].astype(np.float32))

    def head_probabilities(self, on: Part = "held_out") -> Float[Tensor, "layer head"]:
        """Softmax of the scores over all heads (the paper's last step; it changes no ranking)."""
        scores = self.head_scores(on)
        return scores.flatten().softmax(0).view_as(scores)

    def edge_scores(self, on: Part = "held_out") -> Float[Tensor, "sender receiver"]:
        """Pairs of codes that two heads show together on positive prompts only: their number, or share.

        Senders and receivers in the order of :attr:`head_names`; NaN where the receiver's layer is not
        later. The method knows nothing of queries, keys and values. Raises as :meth:`head_scores`.
        """
        return self._score(*self._pairs(on)).where(self._is_edge, float("nan"))

    def code_usage(
        self, on: Part = "held_out"
    ) -> tuple[Float[Tensor, "sender code"], Float[Tensor, "sender code"]]:
        """Share of positive, and of negative, prompts on which each head shows each code.

        Heads in the order of :attr:`head_names`; the last code is that of no latent. Raises as
        :meth:`head_scores`.
        """
        kept = self._rows(on)
        codes = torch.arange(self.n_latents + 1, device=self.codes.device)
        sides = (self.codes[kept & side].flatten(1) for side in (self.positive, ~self.positive))
        positive, negative = (
            torch.stack([(head[:, None] == codes).float().mean(0) for head in side.T]) for side in sides
        )
        return positive, negative

    @property
    def excess(self) -> Float[Tensor, "layer head"]:
        """Held-out scores less their means under shuffled labels."""
        return self.head_scores() - self.null_means

    def evaluate(
        self,
        truth_heads: Iterable[HeadLike],
        truth_edges: Iterable[HeadPairLike] | None = None,
        *,
        on: Part = "held_out",
    ) -> DiscreteEvaluation:
        """Compare the ranking of heads, and of edges between heads, with a circuit that is known.

        Heads are ``"a9.h6"``, ``"L9H6"`` or ``(9, 6)``; edges ``"a5.h1->a9.h6"``, with or without ``<q>``
        (the method cannot tell these apart), or two heads. Raises :class:`CircuitError` for what is no
        head of this model or no pair of heads, and where no item or every item is true.
        """
        sizes = (self.n_layers, self.n_heads)
        truth = mark_heads(truth_heads, *sizes).ravel()
        scores, variety = (table.flatten().numpy() for table in (self.head_scores(on), self.head_variety(on)))
        heads, by_variety = measure_ranking(scores, truth), measure_ranking(variety, truth)
        if truth_edges is None:
            return DiscreteEvaluation(on, heads, by_variety)
        marked = mark_pairs(truth_edges, *sizes)
        kept = self._is_edge.numpy()
        return DiscreteEvaluation(
            on,
            heads,
            by_variety,
            measure_ranking(self.edge_scores(on).numpy()[kept], marked[kept]),
            measure_ranking(self._pairs(on)[1][kept].astype(float), marked[kept]),
        )

    def to_circuit(
        self, graph: Graph, edges: int | float = 0.02, *, on: Part = "held_out", others: bool = False
    ) -> Circuit:
        """The edges between the pairs of heads that score highest, as a circuit of ``graph``.

        ``edges`` is the number of pairs (an ``int``) or their share of all pairs (a ``float`` up to 1.0).
        A pair gives its edges through q, k and v, at all positions: the method cannot tell them apart.
        Pairs of equal score are taken in the order of the computation, and :attr:`Circuit.how` says how
        many were left out. Edges that this method does not score (from the input, from and to MLPs, to the
        logits) are left out, so nothing connects this circuit to the logits; ``others=True`` takes all of
        them, which makes it a circuit that can be run. It has no ``values``: counts are not shares of a gap.

        Raises :class:`CircuitError` for the graph of another model and for a number of pairs there are not.
        """
        if (graph.n_layers, graph.n_heads) != (self.n_layers, self.n_heads):
            raise CircuitError(
                f"the graph has {graph.n_layers} layers of {graph.n_heads} heads, the codes are of {self.n_layers} "
                f"of {self.n_heads}; build it with interp.build_graph(model)."
            )
        scores = torch.where(self._is_edge, self.edge_scores(on), -1.0).flatten()
        n = _count_pairs(edges, int(self._is_edge.sum()))
        chosen = scores.argsort(descending=True, stable=True)[:n]
        taken = torch.zeros_like(scores, dtype=torch.bool)
        taken[chosen] = True
        left = int((scores == scores[chosen[-1]]).sum()) - int((scores[chosen] == scores[chosen[-1]]).sum())
        included = _edges_of_pairs(graph, taken.view(self._is_edge.shape).numpy())
        how = f"{n} pairs of heads with the most code pairs of their own on positive prompts, each as q, k and v"
        how += f"; {left} more of the last one's score left out" if left else ""
        if others:
            included |= ~_edges_of_pairs(graph, self._is_edge.numpy())
            how += "; all edges that are not between heads added"
        return Circuit(graph, torch.from_numpy(included), how, self.provenance)

    def to_frame(self) -> pd.DataFrame:
        """One row a head, the highest held-out score first, then the smallest p-value."""
        import pandas as pd

        columns = {
            "score": self.head_scores(),
            "train_score": self.head_scores("train"),
            "null_mean": self.null_means,
            "p_value": self.p_values,
            "family_p_value": self.family_p_values,
            "variety": self.head_variety(),
            "probability": self.head_probabilities(),
        }
        frame = pd.DataFrame({name: table.flatten().tolist() for name, table in columns.items()})
        frame.insert(0, "head", self.head_names)
        order = ["score", "p_value"]
        return frame.sort_values(order, ascending=[False, True], kind="stable", ignore_index=True)

    def edges_frame(self) -> pd.DataFrame:
        """One row a pair of heads, the highest held-out score first: source, target, score, train_score."""
        import pandas as pd

        sender, receiver = self._is_edge.nonzero(as_tuple=True)
        names = self.head_names
        frame = pd.DataFrame(
            {
                "source": [names[i] for i in sender.tolist()],
                "target": [names[i] for i in receiver.tolist()],
                "score": self.edge_scores()[sender, receiver].tolist(),
                "train_score": self.edge_scores("train")[sender, receiver].tolist(),
            }
        )
        return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)

    def plot(self, on: Part = "held_out", **options: Any) -> go.Figure:
        """Scores of heads and of edges, and the codes themselves (``interp.plots.plot_discrete_circuit``)."""
        return draw("plot_discrete_circuit", self, on=on, **options)

    @cached_property
    def _is_edge(self) -> Bool[Tensor, "sender receiver"]:
        layer = torch.arange(self.n_layers).repeat_interleave(self.n_heads)
        return layer[:, None] < layer

    def _rows(self, part: str) -> Bool[Tensor, " prompt"]:
        if part not in get_args(Part):
            raise CircuitError(unknown_name("part of the prompts", str(part), get_args(Part)))
        return self.held_out if part == "held_out" else ~self.held_out

    def _counted(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Codes and labels of one part of the prompts."""
        kept = self._rows(part)
        return self.codes[kept].cpu().numpy(), self.positive[kept].cpu().numpy()

    def _score(self, unique: np.ndarray, union: np.ndarray) -> Tensor:
        found = unique / np.maximum(union, 1) if self.normalised else unique
        return torch.from_numpy(found.astype(np.float32))

    def _pairs(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        self._rows(part)
        return self._pair_counts[part]

    @cached_property
    def _pair_counts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {part: count_unique_pairs(*self._counted(part)) for part in get_args(Part)}


def _count_pairs(edges: int | float, n_pairs: int) -> int:
    if isinstance(edges, bool) or not isinstance(edges, int | float):
        raise CircuitError(f"edges is a number of pairs of heads or a share of them; got {edges!r}.")
    n = edges if isinstance(edges, int) else max(1, round(edges * n_pairs))
    if not (edges > 0 and 1 <= n <= n_pairs):
        raise CircuitError(
            f"there are {n_pairs} pairs of a head and a head of a later layer; expected 1 to {n_pairs} of them or a "
            f"share up to 1.0, got edges={edges}."
        )
    return n


def _edges_of_pairs(graph: Graph, pairs: Bool[np.ndarray, "sender receiver"]) -> Bool[np.ndarray, " edge"]:
    """The edges between these heads; keys and values of a group are read by each of its heads."""
    head_of = np.array([w.layer * graph.n_heads + w.index if w.kind == "head" else -1 for w in graph.writers])
    found = np.zeros(graph.n_pairs, dtype=bool)
    for number, reader in enumerate(graph.readers):
        if reader.kind not in ("q", "k", "v"):
            continue
        senders, receivers = head_of[: graph.reach[number]], head_of[list(graph.fed[number])]
        here = pairs[senders][:, receivers].any(axis=1) & (senders >= 0)
        found[graph.offsets[number] : graph.offsets[number + 1]] = here
    return np.repeat(found, graph.n_positions)
