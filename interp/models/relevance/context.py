"""Installing relevance rules on a model, and taking them away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import RuleError
from interp.models.hooks import Edit, HookEdit, installed_edits
from interp.models.model import Model
from interp.models.relevance.coverage import RuleTable, build_table
from interp.models.relevance.operations import LOGITS, Operation, list_operations
from interp.models.relevance.propagation import Propagation
from interp.models.relevance.rules import GRADIENT, RelevanceRules, resolve_rules

_BEFORE_EDITS, _AFTER_EDITS = -100, 100
"""A rule replaces an operation's result before anybody edits it, and reads its inputs after."""


@contextmanager
def relevance_rules(model: Model, rules: str | RelevanceRules = "relp") -> Iterator[RuleTable]:
    """Backward passes of forwards made inside the block propagate relevance instead of gradients.

    ``rules`` is a name (``relp``, ``relp-ah``, ``attnlrp``, ``gradient``) or a
    :class:`RelevanceRules`. Forwards are the same to the bit: only what autograd remembers of them
    differs, so ``backward`` may be called inside the block or after it. Works beside interventions,
    under generation, and nested, where the innermost rules hold. On leaving the block, whatever
    happens, nothing is left on the model.

    Yields the :class:`RuleTable` that says which rule covers which operation.

    Example::

        with interp.relevance_rules(model):
            cache = interp.capture(model, tokens, "resid_pre", gradients_of=metric)
        relevance = (cache["resid_pre"] * cache.grads["resid_pre"]).sum(-1)

    Raises :class:`RuleError` for rules that do not fit the model (an operation no rule covers, an
    activation whose form is not known), in the first forward for an operation that computes something
    else than the model's config says, and on leaving the block for a rule that did not act in a
    forward of the whole model.
    """
    chosen = resolve_rules(rules)
    operations = list_operations(model)
    chosen.check(operations, model.traits)
    installed = _Installed(model, chosen, operations)
    model.rules_in_force.append(installed)
    try:
        with installed_edits(model, installed.edits), installed.watching_output():
            yield build_table(model, chosen, operations)
    finally:
        model.rules_in_force.remove(installed)
        installed.forget()
    installed.refuse_idle()


def _capped_logits(output: Any) -> Tensor | None:
    """The logits that a forward returns, where nothing else was made of them before."""
    if isinstance(output, Tensor):
        return output
    is_record = not isinstance(output, tuple) and getattr(output, "loss", None) is None
    return getattr(output, "logits", None) if is_record else None


class _Installed:
    """The hooks of one block, and whether each of its rules acted."""

    def __init__(self, model: Model, rules: RelevanceRules, operations: tuple[Operation, ...]) -> None:
        self.model = model
        self.rules = rules
        self.operations = tuple(item for item in operations if rules.name_at(item) != GRADIENT)
        self.propagation = Propagation(rules, model.traits, model.weights)
        self.cap = next((item for item in self.operations if item.output == LOGITS), None)
        self.seen: dict[str, Tensor] = {}
        self.gaps: list[tuple[Operation, torch.dtype, Tensor]] = []
        self.n_forwards = 0
        self.acted: dict[str, int] = dict.fromkeys((item.name for item in self.operations), 0)
        self.edits = [edit for item in self.operations if item.output != LOGITS for edit in self._edits(item)]

    @property
    def in_force(self) -> bool:
        """Whether no rules are nested inside these."""
        return self.model.rules_in_force[-1] is self

    def _edits(self, operation: Operation) -> Iterator[HookEdit]:
        for hook in operation.inputs:
            yield HookEdit(hook, self._remember(hook), _AFTER_EDITS)
        # a factor is halved as it enters its product, so that its own node has the halved coefficient
        stage = _AFTER_EDITS + 1 if operation.is_factor else _BEFORE_EDITS
        yield HookEdit(operation.output, self._replace(operation), stage)

    def _remember(self, hook: str) -> Edit:
        def edit(value: Tensor) -> None:
            if torch.is_grad_enabled() and self.in_force:
                self.seen[hook] = value

        return edit

    def _replace(self, operation: Operation) -> Edit:
        def edit(value: Tensor) -> Tensor | None:
            self.acted[operation.name] += 1
            if not torch.is_grad_enabled() or not self.in_force:
                return None
            passed_by = [hook for hook in operation.inputs if hook not in self.seen]
            if passed_by:
                raise RuleError(
                    f"{operation.name} of {self.model.name!r} ran without passing its hook point {passed_by[0]!r}, so "
                    "what entered it is not known and no rule can stand there."
                )
            inputs = tuple(self.seen.pop(hook) for hook in operation.inputs)
            if not value.requires_grad:
                return None
            return self._propagate(operation, inputs, value)

        return edit

    def _propagate(self, operation: Operation, inputs: tuple[Tensor, ...], value: Tensor) -> Tensor | None:
        found = self.propagation.apply(operation, inputs, value, check=not self.n_forwards)
        if found is None:
            return None
        if found.gap is not None:
            self.gaps.append((operation, value.dtype, found.gap))
        return found.value

    def _refuse_other_operations(self) -> None:
        """Raise :class:`RuleError` where a module does something else than its place in the model says."""
        gaps, self.gaps = self.gaps, []
        # of a whole forward at once: a device is waited for one time only
        sizes = torch.stack([gap.to(gaps[0][2].device) for _, _, gap in gaps]).tolist() if gaps else []
        for (operation, dtype, _), (size, difference) in zip(gaps, sizes, strict=True):
            if difference > size * (1e-3 if dtype in (torch.float32, torch.float64) else 0.05) + 1e-6:
                raise RuleError(
                    f"{operation.name} of {self.model.name!r} does not compute what the model's config says (its size "
                    f"is {size:.3g}, the difference {difference:.3g}): a module was exchanged, or a hook of someone "
                    "else's changes it. Load the model afresh, or give a UserRule."
                )

    @contextmanager
    def watching_output(self) -> Iterator[None]:
        """Count forwards, and cover what is done to the logits after the last hook point."""
        handles = []
        try:
            handles.append(self.model.module.register_forward_hook(self._after_forward))
            if self.cap is not None:
                handles.append(self._unembed().register_forward_hook(self._keep_logits))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _unembed(self) -> nn.Module:
        """What the logits come from, before the cap."""
        module = self.model.module
        found = self.model.hook_points.get("unembed.hook_out") or getattr(module, "unembed", None)
        if not isinstance(found, nn.Module):
            raise RuleError(f"the soft cap of {self.model.name!r} has no module before it to read.")
        return found

    def _keep_logits(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if torch.is_grad_enabled() and self.in_force:
            self.seen[LOGITS] = output

    def _after_forward(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        try:
            replaced = None if self.cap is None else self._replace_logits(self.cap, output)
            self._refuse_other_operations()
            return replaced
        finally:
            self.n_forwards += 1

    def _replace_logits(self, cap: Operation, output: Any) -> Any:
        before, logits = self.seen.pop(LOGITS, None), _capped_logits(output)
        if before is not None and (logits is None or logits.shape != before.shape):
            # a loss or a tuple, made of the logits where no rule reaches them: the rule did not act
            return None
        self.acted[cap.name] += 1
        if before is None or logits is None or not logits.requires_grad:
            return None
        replaced = self._propagate(cap, (before,), logits)
        if replaced is None or isinstance(output, Tensor):
            return replaced
        output.logits = replaced
        return output

    def forget(self) -> None:
        """Let go of activations that a forward left behind, as one that failed halfway does."""
        self.seen.clear()
        self.gaps.clear()

    def refuse_idle(self) -> None:
        """Raise :class:`RuleError` for a rule that a whole forward went past."""
        idle = [name for name, times in self.acted.items() if times < self.n_forwards]
        if idle:
            raise RuleError(
                f"the rules of {', '.join(idle[:5])} did not act in every forward of {self.model.name!r}: their hook "
                "points were passed by, so its gradients were not relevance. (That of a soft cap acts on logits: take "
                "the loss from them.)"
            )
