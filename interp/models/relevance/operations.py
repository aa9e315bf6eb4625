"""The operations of a model that are not linear in what flows through them, and where they stand.

Everything else (embeddings, linear maps, residual sums) keeps its ordinary gradient, which is LRP's
0-rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from interp.errors import RuleError
from interp.models.model import Model
from interp.models.relevance.modules import refuse_unknown_modules

Kind = Literal["norm", "activation", "gate", "softmax", "pattern_value", "query_key", "soft_cap"]
"""What an operation does: normalise; act on each neuron; act and multiply (a gated MLP); weigh
scores; multiply pattern and value, query and key; cap the logits."""

LOGITS = "logits"
"""Stands for the model's output where a hook point would."""

_NORMS = ("ln1", "ln1_post", "ln2", "ln2_post", "attn.q_norm", "attn.k_norm")


@dataclass(frozen=True)
class Operation:
    """One operation, by the hook points around it."""

    name: str
    """Where it stands: ``blocks.3.ln1``, ``blocks.3.mlp.act``, ``blocks.3.attn.softmax``."""
    kind: Kind
    layer: int | None
    """``None`` after the last layer."""
    inputs: tuple[str, ...]
    """Hook points that see what enters. Empty for a norm that only shows its divisor."""
    output: str
    """Hook point that sees what leaves; for the two products, the factor that enters."""

    @property
    def is_divisor(self) -> bool:
        """Whether ``output`` is a norm's scale instead of its result."""
        return self.kind == "norm" and not self.inputs

    @property
    def is_factor(self) -> bool:
        """Whether ``output`` is a factor of a product, as it enters."""
        return self.kind in ("pattern_value", "query_key")


def list_operations(model: Model) -> tuple[Operation, ...]:
    """Every nonlinear operation of a model, from the first layer on.

    Raises :class:`RuleError` naming a module that is none of the known kinds (a router, a custom
    layer) or stands where no rule is, and a norm or product whose hook points are missing.
    """
    blocks = [f"blocks.{layer}" for layer in range(model.traits.n_layers)]
    norms = [f"{block}.{name}" for block in blocks for name in _NORMS]
    refuse_unknown_modules(model, [*norms, "ln_final"], [f"{block}.mlp" for block in blocks])
    found = [item for layer in range(model.traits.n_layers) for item in _of_layer(model, layer)]
    if model.traits.norm is not None:
        found.append(_norm(model, "ln_final", None))
    if model.traits.final_soft_cap is not None:
        found.append(Operation("soft_cap", "soft_cap", None, (), LOGITS))
    for operation in found:
        missing = [
            hook
            for hook in (*operation.inputs, operation.output)
            if hook not in model.hook_points and hook != LOGITS
        ]
        if missing:
            raise RuleError(
                f"{operation.name} of {model.name!r} ({operation.kind}) has no hook point {missing[0]!r}, so no "
                "rule can be installed there; give a model of a supported family."
            )
    return tuple(found)


def _of_layer(model: Model, layer: int) -> Iterator[Operation]:
    traits, block = model.traits, f"blocks.{layer}"
    hooks = {name: hook.format(layer=layer) for name, hook in model.family.hook_names(traits).items()}
    present = {"ln1": True, "ln2": traits.d_mlp > 0}
    present |= {"ln1_post": traits.post_norms, "ln2_post": traits.post_norms and traits.d_mlp > 0}
    present |= {"attn.q_norm": traits.qk_norm, "attn.k_norm": traits.qk_norm}
    for name in _NORMS:
        # queries and keys are normalised also in models without other norms
        if present[name] and (traits.norm is not None or name.startswith("attn.")):
            yield _norm(model, f"{block}.{name}", layer)
    for name in ("q", "k"):
        yield Operation(f"{block}.attn.{name}", "query_key", layer, (), hooks[name])
    yield Operation(f"{block}.attn.softmax", "softmax", layer, (hooks["attn_scores"],), hooks["pattern"])
    for name in ("pattern", "v"):
        yield Operation(f"{block}.attn.{name}", "pattern_value", layer, (), hooks[name])
    if not traits.d_mlp:
        return
    if traits.gated_mlp:
        inputs = (hooks["mlp_pre"], hooks["mlp_pre_linear"])
        yield Operation(f"{block}.mlp.gate", "gate", layer, inputs, hooks["mlp_post"])
    else:
        yield Operation(f"{block}.mlp.act", "activation", layer, (hooks["mlp_pre"],), hooks["mlp_post"])


def _norm(model: Model, name: str, layer: int | None) -> Operation:
    inside, outside = f"{name}.hook_in", f"{name}.hook_out"
    if inside in model.hook_points and outside in model.hook_points:
        return Operation(name, "norm", layer, (inside,), outside)
    return Operation(name, "norm", layer, (), f"{name}.hook_scale")
