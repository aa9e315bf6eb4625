"""Reading activations of a run, and the gradients that arrive at them, as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import MetricError
from interp.models.capture import split_heads
from interp.models.hooks import Edit, HookEdit, installed_edits
from interp.models.model import Model
from interp.models.sites import Tap, tap
from interp.patching.readout import Readout

Node = tuple[str, int]
"""A component and its layer: all heads and columns of it."""
OnTensor = Callable[[Node, Tensor], None]


@contextmanager
def frozen_parameters(model: Model, but: Iterable[Tensor] = ()) -> Iterator[None]:
    """No gradient of any parameter ``but`` these: autograd keeps only what the other gradients need."""
    kept = {id(parameter) for parameter in but}
    before = [(parameter, parameter.requires_grad) for parameter in model.module.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in kept)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def reading_edits(model: Model, nodes: Iterable[Node], on_value: OnTensor) -> list[HookEdit]:
    """Edits that hand every node's activation to ``on_value``, heads apart and unchanged.

    Of ``result``, which is z through W_O, it gets z.
    """
    return [HookEdit(found.read, _give(node, found, on_value)) for node, found in _taps(model, nodes)]


def _taps(model: Model, nodes: Iterable[Node]) -> list[tuple[Node, Tap]]:
    # in one order, whatever set they come from
    return [(node, tap(model.family, model.traits, *node)) for node in sorted(nodes)]


def _give(node: Node, found: Tap, on_value: OnTensor) -> Edit:
    def edit(value: Tensor) -> None:
        on_value(node, split_heads(value, found).detach())

    return edit


def as_read(gradient: Tensor, found: Tap) -> Tensor:
    """A gradient where an edit acts, heads apart as the activation is; that of ``result`` is of the sum."""
    return gradient if found.how == "through_o" else split_heads(gradient, found)


def score_under_autograd(
    readout: Readout, picked: Float[Tensor, "row k c"], prompts: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """The metric of every row from what it reads of the logits, under autograd.

    Raises :class:`MetricError` where it has no gradient.
    """
    with torch.enable_grad():
        scores = readout.score_picked(picked, prompts)
    if not scores.requires_grad:
        raise MetricError(
            f"metric {readout.metric.name!r} has no gradient with respect to the logits; compute it from "
            "the logits with torch, take logit_diff, prob_diff, loss or kl, or use method='exact'."
        )
    return scores


class GradientRun:
    """One forward of base prompts under autograd, whose backward hands over gradients at nodes.

    ``on_value`` gets every node's activation on the way forth, ``on_gradient`` the gradient of the
    summed metric on the way back, in the activation's shape. Of ``result`` it is that of the heads'
    sum, [batch, pos, d_model]. Where an edit acts elsewhere than a value is read, the gradient is
    taken where it acts. Nothing is kept here but what autograd keeps. Only ``parameters`` can be
    differentiated by.
    """

    def __init__(
        self,
        model: Model,
        tokens: Int[Tensor, "row pos"],
        mask: Bool[Tensor, "row pos"] | None,
        readout: Readout,
        prompts: Int[Tensor, " row"],
        nodes: Iterable[Node],
        on_value: OnTensor | None,
        on_gradient: OnTensor,
        edits: Iterable[HookEdit] = (),
        start: Edit | None = None,
        parameters: Iterable[Tensor] = (),
    ) -> None:
        self._on_gradient = on_gradient
        self._leaves: list[Tensor] = []
        embed = model.family.hook_names(model.traits)["embed"]
        found = _taps(model, nodes)
        every = [HookEdit(embed, self._begin(start or _from_here), -1), *edits]
        if on_value is not None:
            every += [HookEdit(point.read, _give(node, point, on_value)) for node, point in found]
        every += [HookEdit(point.write, self._listen(node, point), point.stage) for node, point in found]
        with torch.enable_grad(), frozen_parameters(model, parameters), installed_edits(model, every):
            logits = model(tokens, mask, keep_columns=readout.columns)
            self.picked = readout.pick(logits, prompts)
        self._readout, self._prompts = readout, prompts

    def _begin(self, start: Edit) -> Edit:
        def edit(value: Tensor) -> Tensor | None:
            new = start(value)
            if new is not None:
                self._leaves.append(new)
            return new

        return edit

    def _listen(self, node: Node, found: Tap) -> Edit:
        def edit(value: Tensor) -> None:
            if not value.requires_grad:
                return
            if value.is_leaf:
                self._leaves.append(value)
            value.register_hook(lambda gradient: self._on_gradient(node, as_read(gradient, found)))

        return edit

    def scores(self) -> Float[Tensor, " row"]:
        """The metric of every row, under autograd.

        Raises :class:`MetricError` where it has no gradient.
        """
        return score_under_autograd(self._readout, self.picked, self._prompts)

    def backward(
        self, scores: Float[Tensor, " row"], wanted: Sequence[Tensor] = (), again: bool = False
    ) -> list[Tensor | None]:
        """Send the gradient of the summed scores back; ``again`` keeps the graph for another time.

        Returns the gradients of ``wanted``, ``None`` for what the scores do not depend on.
        """
        inputs = (*wanted, *self._leaves)
        # the sum's gradient given, for the caller may have switched gradients off
        ones = torch.ones_like(scores)
        found = torch.autograd.grad(scores, inputs, ones, retain_graph=again, allow_unused=True)
        return list(found[: len(wanted)])


def _from_here(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(True)
