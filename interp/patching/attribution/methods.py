"""Which approximation, and its options; the names are those that ``interp.patch(method=...)`` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from interp.errors import PatchError, unknown_name
from interp.models.relevance.rules import RULES, RelevanceRules, resolve_rules

Path = Literal["inputs", "activation"]
Quadrature = Literal["gauss-legendre", "midpoint"]


@dataclass(frozen=True)
class Attribution:
    """Attribution patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348): first order at the base run.

    ``score(u) = sum_d (a_u_source - a_u_base) * dL/da_u``: two forward passes and one backward pass
    for all sites. Misses what saturates, and what cancels to first order only.
    """

    @property
    def label(self) -> str:
        """As tables and provenance name it."""
        return "attribution"


@dataclass(frozen=True)
class AttributionStar:
    """AtP* (Kramár et al. 2024, arXiv 2403.00745): attribution with two repairs.

    ``qk_fix``: at queries, keys and attention scores the softmax is computed again for the replaced
    value, and only what comes after the pattern is taken to first order (section 3.1.1).

    ``grad_drop``: one more backward pass a layer, each without the gradient through that layer's
    outputs, gives :attr:`~interp.results.SiteScores.magnitude` (section 3.1.2): the mean over layers of
    the size of the effect, which does not vanish where a direct and an indirect effect cancel.
    Ranking goes by the larger of it and the size of the effect; ``values`` stay the signed estimate, which
    is exact on linear models.
    """

    qk_fix: bool = True
    grad_drop: bool = True

    @property
    def label(self) -> str:
        """As tables and provenance name it."""
        return "attribution*"


@dataclass(frozen=True)
class IntegratedGradients:
    """Gradients averaged along a straight path from the base to the source (Sundararajan et al. 2017).

    ``over="inputs"``: the path lies in the token embeddings, one path for all sites (EAP-IG; Hanna et
    al. 2024, arXiv 2403.17806). ``over="activation"``: every layer's activation at a site takes its
    own path, everything before it held at the base run (Marks et al. 2024, arXiv 2403.19647); costs
    ``steps`` passes for each layer and component, and its scores over a whole layer add up to the
    exact effect of patching that layer. The completeness gap of either is in the result's notes.

    Raises :class:`PatchError` for an unknown path or quadrature, and for ``steps`` below 1.
    """

    over: Path = "inputs"
    steps: int = 10
    quadrature: Quadrature = "gauss-legendre"
    """Where the gradients are taken; both avoid the ends, where a left sum errs most."""

    def __post_init__(self) -> None:
        if self.over not in get_args(Path):
            raise PatchError(unknown_name("path of integrated gradients", str(self.over), get_args(Path)))
        if self.quadrature not in get_args(Quadrature):
            raise PatchError(unknown_name("quadrature", str(self.quadrature), get_args(Quadrature)))
        if not isinstance(self.steps, int):
            raise PatchError(f"steps of integrated gradients are a whole number; got {self.steps!r}.")
        if self.steps < 1:
            raise PatchError(f"integrated gradients need at least one step; got {self.steps}.")

    @property
    def label(self) -> str:
        """As tables and provenance name it."""
        return "ig" if self.over == "inputs" else "ig:activation"


@dataclass(frozen=True)
class Relevance:
    """Relevance patching (RelP; Rezaei Jafari et al. 2025, arXiv 2508.21258, eq. 4).

    Attribution with the gradient replaced by coefficients of layer-wise relevance propagation, from
    one backward pass at the base run under ``rules`` (:func:`interp.relevance_rules`).
    """

    rules: str | RelevanceRules = "relp"

    def __post_init__(self) -> None:
        resolve_rules(self.rules)

    @property
    def label(self) -> str:
        """As tables and provenance name it."""
        name = resolve_rules(self.rules).name
        return "relevance" if name == "relp" else f"relevance:{name}"


def rule_summary(rules: str | RelevanceRules) -> str:
    """The rules in a few words, and what has no relevance under them."""
    found = resolve_rules(rules)
    rows = [f"{kind} {getattr(found, kind)}" for kind in ("norm", "activation", "gate", "attention")]
    silent = "; the AH-rule gives queries, keys and scores none" if found.attention == "ah" else ""
    return f"{found.name} ({', '.join(rows)}{silent})"


Method = Attribution | AttributionStar | IntegratedGradients | Relevance
_OTHER_RULES = tuple(f"relevance:{name}" for name in RULES if name != "relp")
METHODS = ("exact", "attribution", "attribution*", "ig", "ig:activation", "relevance", *_OTHER_RULES)
"""Names of methods; a part after the colon chooses the path or the rules."""

MethodLike = str | Method


def resolve_method(method: MethodLike) -> Method | None:
    """The approximation meant, ``None`` for exact patching.

    Raises :class:`PatchError` for an unknown name or another kind of object.

    >>> resolve_method("relevance:attnlrp")
    Relevance(rules='attnlrp')
    """
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in METHODS:
        raise PatchError(unknown_name("method", str(method), METHODS))
    name, _, option = method.partition(":")
    if name == "exact":
        return None
    if name == "attribution":
        return Attribution()
    if name == "attribution*":
        return AttributionStar()
    if name == "ig":
        return IntegratedGradients("activation" if option == "activation" else "inputs")
    return Relevance(option or "relp")
