"""Whether every module of a model is of a kind that rules know, and stands where a rule reaches it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from interp.errors import RuleError
from interp.models.model import Model

_KNOWN_HOMES = ("torch.nn.", "transformers.", "transformer_lens.", "interp.models.")
_LINEAR = frozenset(
    {"Linear", "Conv1D", "Embedding", "Embed", "PosEmbed", "Dropout", "Identity", "HookPoint"}
    | {"ModuleList", "ModuleDict"}
)
"""Modules without parts of their own that are linear in what flows through them, or do nothing."""
_LINEAR_ENDINGS = ("RotaryEmbedding", "WordEmbedding")
_ROUTED = ("MoE", "Moe", "Router", "Experts")


def refuse_unknown_modules(model: Model, norms: Iterable[str], mlps: Iterable[str]) -> None:
    """Raise :class:`RuleError` naming a module that no rule covers.

    That is a router, a module of somebody else's, one of a kind not known here, a norm that is none
    of ``norms`` and an activation function that is not the one of an MLP of ``mlps`` (places, by the
    names of their hook points).
    """
    in_norms, in_mlps = _hook_ids(model, norms), _hook_ids(model, mlps)
    named = dict(model.module.named_modules())
    with_activation: set[str] = set()
    for name, module in named.items():
        kind = type(module).__name__
        if any(part in kind for part in _ROUTED) or not _has_known_home(module):
            raise _uncovered(model, name, kind)
        above = [name[:i] for i, letter in enumerate(name) if letter == "."]
        if "Norm" in kind:
            if not any(_owns(named[part], in_norms) for part in (name, *above[-1:])):
                raise _uncovered(model, name, kind)
        elif _is_leaf(module) and kind not in _LINEAR and not kind.endswith(_LINEAR_ENDINGS):
            mlp = next((part for part in above if _owns(named[part], in_mlps)), None)
            if mlp is None or mlp in with_activation or next(module.parameters(), None) is not None:
                raise _uncovered(model, name, kind)
            with_activation.add(mlp)


def _hook_ids(model: Model, places: Iterable[str]) -> set[int]:
    wanted = set(places)
    return {id(point) for hook, point in model.hook_points.items() if hook.rpartition(".")[0] in wanted}


def _owns(module: nn.Module, points: set[int]) -> bool:
    return any(id(child) in points for child in module.children())


def _is_leaf(module: nn.Module) -> bool:
    return next(module.children(), None) is None


def _has_known_home(module: nn.Module) -> bool:
    return f"{type(module).__module__}.".startswith(_KNOWN_HOMES)


def _uncovered(model: Model, name: str, kind: str) -> RuleError:
    return RuleError(
        f"no relevance rule covers module {name!r} of {model.name!r}, a {kind}; what it does to what flows "
        "through it is not known. Ordinary gradients need no rules: method='attribution'."
    )
