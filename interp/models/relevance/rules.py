"""Rules of layer-wise relevance propagation, as replacements for the gradient of an operation.

Relevance patching (RelP; Rezaei Jafari et al. 2025, arXiv 2508.21258) takes attribution patching's
gradient from a backward pass through these rules instead of through the model itself:

- **LN-rule**: a norm's scale is a constant; its centring stays.
- **Identity-rule**: an activation function passes relevance on unchanged, so its coefficient is
  ``act(x) / x`` (:func:`interp.kernels.relevance.secant`).
- **Half-rule**: a gate ``act(g) * u`` gives half of the relevance to each factor.
- **AH-rule** (Ali et al. 2022, arXiv 2202.07304): the attention pattern is a constant.
- **0-rule**: linear maps keep their ordinary gradient.

AttnLRP (Achtibat et al. 2024, arXiv 2402.05602) keeps the softmax differentiable and halves both
attention products instead.

What is known to be weak: without the AH-rule the two attention products make relevance that was not
there (:func:`interp.check_conservation` says how much); at ``g = 0`` a gate's coefficients are limits.

A public LRP library states that LRP is covered by patents and free for personal and scientific use
only; whether that concerns you is yours to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, get_args

from torch import Tensor

from interp.errors import RuleError, unknown_name
from interp.kernels.relevance import SECANTS
from interp.models.relevance.operations import Operation
from interp.models.traits import Traits

NormRule = Literal["ln", "gradient"]
ActivationRule = Literal["identity", "gradient"]
GateRule = Literal["half", "gradient"]
AttentionRule = Literal["gradient", "ah", "half"]

GRADIENT = "gradient"


@dataclass(frozen=True)
class UserRule:
    """A rule of your own.

    ``surrogate(inputs, output)`` returns a tensor of ``output``'s shape, made from ``inputs`` under
    autograd; its *gradient* is used in place of the operation's, and its value is not used. Inputs
    are what enters the operation: x for a norm or an activation, (gate, up) for a gate, scores for
    a softmax; the two attention products and norms of a ``HookedTransformer`` have none, there
    ``surrogate`` gets the factor or the scale itself as ``output``.

    Example::

        UserRule("gamma", at="blocks.*.mlp.act", surrogate=lambda x, y: 0.9 * x[0])
    """

    name: str
    at: str
    """Operations it is for, by name with ``*``; see :func:`rule_table` for the names of a model."""
    surrogate: Callable[[tuple[Tensor, ...], Tensor], Tensor]


@dataclass(frozen=True)
class RelevanceRules:
    """Which rule stands at each kind of operation; the defaults are RelP's.

    ``gradient`` leaves an operation as it is. Raises :class:`RuleError` for an unknown choice.
    """

    name: str = "custom"
    norm: NormRule = "ln"
    activation: ActivationRule = "identity"
    gate: GateRule = "half"
    """How the two factors of a gated MLP share; its activation follows ``activation``."""
    attention: AttentionRule = "gradient"
    """``ah`` holds the pattern constant; ``half`` halves both products, as AttnLRP."""
    soft_cap: ActivationRule = "identity"
    """Of the logits. The cap inside attention always has its gradient."""
    custom: tuple[UserRule, ...] = ()
    """Rules of your own; where several fit an operation, the first."""

    def __post_init__(self) -> None:
        known = {
            "norm": get_args(NormRule),
            "activation": get_args(ActivationRule),
            "gate": get_args(GateRule),
            "attention": get_args(AttentionRule),
            "soft_cap": get_args(ActivationRule),
        }
        for choice, allowed in known.items():
            if getattr(self, choice) not in allowed:
                raise RuleError(unknown_name(f"rule for {choice}", str(getattr(self, choice)), allowed))

    def user_rule(self, operation: Operation) -> UserRule | None:
        """The rule of the user's own that stands at an operation, if any."""
        return next((rule for rule in self.custom if fnmatchcase(operation.name, rule.at)), None)

    def name_at(self, operation: Operation) -> str:
        """The rule at an operation, as a table shows it; ``gradient`` where there is none."""
        own = self.user_rule(operation)
        if own is not None:
            return own.name
        if operation.kind == "norm":
            return "LN-rule" if self.norm == "ln" else GRADIENT
        if operation.kind in ("activation", "soft_cap"):
            return "Identity-rule" if getattr(self, operation.kind) == "identity" else GRADIENT
        if operation.kind == "gate":
            parts = ["Half-rule"] * (self.gate == "half") + ["Identity-rule"] * (
                self.activation == "identity"
            )
            return " + ".join(parts) or GRADIENT
        if operation.kind == "softmax":
            return "AH-rule" if self.attention == "ah" else GRADIENT
        return "Half-rule" if self.attention == "half" else GRADIENT

    def check(self, operations: tuple[Operation, ...], traits: Traits) -> None:
        """Raise :class:`RuleError` for a user rule that fits nothing, or an activation without a form."""
        for rule in self.custom:
            if not any(fnmatchcase(operation.name, rule.at) for operation in operations):
                names = {operation.name for operation in operations}
                raise RuleError(unknown_name(f"operation of rule {rule.name!r}", rule.at, names))
        uses_identity = [
            operation
            for operation in operations
            if operation.kind in ("activation", "gate")
            and self.user_rule(operation) is None
            and (self.activation == "identity" or (operation.kind == "gate" and self.gate == "half"))
        ]
        if uses_identity and traits.act_fn not in SECANTS:
            raise RuleError(
                f"{uses_identity[0].name}: {unknown_name('activation function', traits.act_fn, SECANTS)} Give a "
                "UserRule for it, or RelevanceRules(activation='gradient', gate='gradient')."
            )


RELP = RelevanceRules("relp")
RULES: Mapping[str, RelevanceRules] = MappingProxyType(
    {
        "relp": RELP,
        "relp-ah": RelevanceRules("relp-ah", attention="ah"),
        "attnlrp": RelevanceRules("attnlrp", attention="half"),
        "gradient": RelevanceRules(
            "gradient", norm="gradient", activation="gradient", gate="gradient", soft_cap="gradient"
        ),
    }
)
"""Sets of rules by name: RelP, RelP with the AH-rule, AttnLRP, and none (the ordinary gradient)."""


def resolve_rules(rules: str | RelevanceRules) -> RelevanceRules:
    """The rules meant. Raises :class:`RuleError` for an unknown name or another kind of object."""
    if isinstance(rules, RelevanceRules):
        return rules
    if not isinstance(rules, str) or rules not in RULES:
        raise RuleError(unknown_name("set of relevance rules", str(rules), RULES))
    return RULES[rules]
