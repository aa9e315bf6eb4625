"""Which estimate of edges, and its options; the names are those that ``interp.score_edges(method=...)`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from interp.errors import CircuitError, unknown_name
from interp.models.relevance import RULES, RelevanceRules
from interp.models.relevance.rules import resolve_rules
from interp.patching.attribution.integrated import quadrature
from interp.patching.attribution.methods import IntegratedGradients, Quadrature

EdgePath = Literal["inputs", "activations", "clean-corrupted"]


@dataclass(frozen=True)
class EdgeAttribution:
    """Edge attribution patching (EAP; Syed et al. 2023, arXiv 2310.10348, eq. 2): first order at the base run.

    ``score(u -> v) = sum_{pos, d} (out_u_source - out_u_base) * dL/d in_v``, with ``in_v`` what v reads of
    the residual stream, before its norm. Two forward passes and one backward pass for all edges.
    Misses what saturates, and what cancels to first order only.
    """

    @property
    def label(self) -> str:
        """As tables and provenance name it."""
        return "eap"


@dataclass(frozen=True)
class EdgeIntegratedGradients:
    """EAP with gradients averaged along a path (EAP-IG; Hanna et al. 2024, arXiv 2403.17806).

    ``over="inputs"``: along the straight line between the two runs' inputs; ``steps`` forward and
    backward passes. The edges that leave the input then add up to the effect of replacing it.
    ``over="activations"``: the outputs of the input, of all heads of a layer, of each MLP take a path of
    their own with everything before them held at the base run, and only edges that leave them are scored
    along it; ``steps`` passes for each of them, and their edges add up to the exact effect of
    replacing them. How far the sums are off is in the result's gaps. ``over="clean-corrupted"``: the mean
    of the gradients at the two runs, two passes, whatever ``steps``.

    Raises :class:`CircuitError` for an unknown path or quadrature, and for ``steps`` below 1.
    """

    over: EdgePath = "inputs"
    steps: int = 5
    quadrature: Quadrature = "gauss-legendre"
    """Where the gradients are taken; both avoid the ends, where a left sum errs most."""

    def __post_init__(self) -> None:
        if self.over not in get_args(EdgePath):
            raise CircuitError(unknown_name("path of EAP-IG", str(self.over), get_args(EdgePath)))
        if self.quadrature not in get_args(Quadrature):
            raise CircuitError(unknown_name("quadrature", str(self.quadrature), get_args(Quadrature)))
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise CircuitError(f"steps of EAP-IG are a whole number from 1 on; got {self.steps!r}.")

    @property
    def label(self) -> str:
        """As tables and provenance name it."""
        return "eap-ig" if self.over == "inputs" else f"eap-ig:{self.over}"

    def points(self) -> list[tuple[float, float]]:
        """Where on a path from 0 to 1 gradients are taken, and their weights, which add up to 1."""
        method = IntegratedGradients(steps=self.steps, quadrature=self.quadrature)
        return list(zip(*quadrature(method), strict=True))


@dataclass(frozen=True)
class EdgeRelevance:
    """EAP with the gradient replaced by coefficients of relevance propagation
    (RelP; Rezaei Jafari et al. 2025, arXiv 2508.21258, eq. 4, at edges).

    From one backward pass at the base run under ``rules`` (:func:`interp.relevance_rules`), whose rule for
    norms holds for the norm that each reader has before it as well.
    """

    rules: str | RelevanceRules = "relp"

    def __post_init__(self) -> None:
        resolve_rules(self.rules)

    @property
    def label(self) -> str:
        """As tables and provenance name it."""
        name = resolve_rules(self.rules).name
        return "relevance" if name == "relp" else f"relevance:{name}"


@dataclass(frozen=True)
class EdgeAttributionStar:
    """EAP with the two repairs of AtP* (Kramár et al. 2024, arXiv 2403.00745), at edges.

    ``qk_fix``: for an edge into a query or key, this query or key is computed again with the writer's
    output replaced (norm, projection, rotation), then the softmax, and only what comes after the pattern
    is taken to first order (section 3.1.1).

    ``grad_drop``: a backward pass a layer, each without the gradient through that layer's outputs, gives
    :attr:`~interp.results.EdgeScores.magnitude` (section 3.1.2): the mean over layers of the size of the
    effect, which does not vanish where what a reader does directly and through others cancels.
    ``effects`` stay the signed estimate.
    """

    qk_fix: bool = True
    grad_drop: bool = True

    @property
    def label(self) -> str:
        """As tables and provenance name it."""
        return "atp*"


EdgeMethod = EdgeAttribution | EdgeIntegratedGradients | EdgeRelevance | EdgeAttributionStar
EdgeMethodLike = str | EdgeMethod

_BY_NAME: dict[str, EdgeMethod | None] = {
    "exact": None,
    "eap": EdgeAttribution(),
    "eap-ig": EdgeIntegratedGradients(),
    "eap-ig:activations": EdgeIntegratedGradients("activations"),
    "eap-ig:clean-corrupted": EdgeIntegratedGradients("clean-corrupted"),
    **{EdgeRelevance(name).label: EdgeRelevance(name) for name in RULES},
    "atp*": EdgeAttributionStar(),
}
EDGE_METHODS = tuple(_BY_NAME)
"""Names of methods; a part after the colon chooses the path or the rules."""


def resolve_edge_method(method: EdgeMethodLike) -> EdgeMethod | None:
    """The estimate meant, ``None`` for exact patching of every edge.

    Raises :class:`CircuitError` for an unknown name or another kind of object.

    >>> resolve_edge_method("relevance:attnlrp")
    EdgeRelevance(rules='attnlrp')
    """
    if isinstance(method, EdgeMethod):
        return method
    if not isinstance(method, str) or method not in _BY_NAME:
        raise CircuitError(unknown_name("method", str(method), EDGE_METHODS))
    return _BY_NAME[method]
