"""CASAL: train a part of one layer so that activations land where steering would put them.

Yang et al. 2025, "Contrastive Activation Steering for Amortized Learning" (arXiv 2510.02324). Prompts that a model
cannot answer get the target ``h + a v``, those it can ``h`` or ``h - a v``, with h the residual stream after the layer
at the last token and v a steering vector; the squared distance is all that is trained on. What hooks cannot do with
one vector, tell the two kinds of prompts apart, the trained part has to learn.

Shortcomings: it moves the last token of a prompt only, and what it does to other text is not held in check
by the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.capture import capture
from interp.models.digest import digest_weights
from interp.models.model import Model
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts
from interp.models.traits import LayerWeights
from interp.models.weight_edits import WeightDraft
from interp.steering.bake.baked import Baked
from interp.types import Site

Submodule = Literal["W_O", "W_in", "W_out", "mlp"]
"""What is trained, with its biases: the attention's output map, the MLP's input maps (its gate too), its output
map, or the whole MLP."""
_FIELDS: dict[str, tuple[str, ...]] = {
    "W_O": ("W_O", "b_O"),
    "W_in": ("W_in", "b_in", "W_gate", "b_gate"),
    "W_out": ("W_out", "b_out"),
    "mlp": ("W_in", "b_in", "W_gate", "b_gate", "W_out", "b_out"),
}


@dataclass(frozen=True)
class CasalConfig:
    """What is trained, towards what, and how long. Raises :class:`SteeringError` for bad values."""

    layer: int
    """Its part is trained, and its ``resid_post`` is where the targets are."""
    submodule: Submodule = "mlp"
    amount: float = 1.0
    """a: how many times the vector unknown prompts are moved by."""
    known: Literal["keep", "away"] = "keep"
    """Known prompts stay where they are, or move the other way as far."""
    steps: int = 300
    batch_size: int = 128
    """Prompts a step, half of them unknown."""
    learning_rate: float = 1e-3
    """Of Adam, falling to 0 as a cosine."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.submodule not in _FIELDS:
            raise SteeringError(unknown_name("submodule", self.submodule, get_args(Submodule)))
        if self.known not in ("keep", "away"):
            raise SteeringError(unknown_name("target of known prompts", self.known, ("keep", "away")))
        if not math.isfinite(self.amount) or not self.amount:
            raise SteeringError(
                f"the amount is finite and not 0, which would move nothing; got {self.amount}."
            )
        rate = self.learning_rate
        if self.steps < 1 or self.batch_size < 2 or not 0 < rate < math.inf or self.layer < 0:
            raise SteeringError(
                "layer must be 0 or more, steps at least 1, batch size at least 2 and learning rate above 0; got "
                f"{self.layer}, {self.steps}, {self.batch_size} and {self.learning_rate}."
            )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Prompts padded on the right, where each ends, and where its activation is to go."""

    tokens: Int[Tensor, "row pos"]
    mask: Bool[Tensor, "row pos"]
    target: Float[Tensor, "row d_model"]


def fit_casal(
    model: Model,
    known: Prompts,
    unknown: Prompts,
    vector: Float[Tensor, " d_model"],
    config: CasalConfig,
    *,
    progress: bool = False,
) -> Baked:
    """Train a part of one layer until known and unknown prompts land where ``vector`` would steer each.

    ``known`` and ``unknown`` are prompts as :func:`split_by_knowledge` parts them. The model is as it was
    afterwards; the trained weights come back. ``figures`` hold the mean squared distance to the targets before and
    after (``"before"`` is what it costs to do nothing), of known and unknown prompts apart.

    Raises :class:`SteeringError` for a layer or part that the model does not have, a vector of another size or
    that is zero, an empty side, and training that runs away.
    """
    _check(model, vector, config)
    parameters = _parts(model, config)
    names = dict.fromkeys(WeightDraft(model).name_of(weight) for weight in parameters)
    owners = [model.named_weights()[name] for name in names]
    move = config.amount * vector.detach().to(model.device, torch.float32)
    stay = -move if config.known == "away" else torch.zeros_like(move)
    sides = _read(model, (known, unknown), config.layer, (stay, move))
    kept = [owner.detach().clone() for owner in owners]
    frozen = {parameter: parameter.requires_grad for parameter in model.parameters()}
    digest = digest_weights(model)
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for owner in owners:
            owner.requires_grad_(True)
        before = [_measure(model, side, config) for side in sides]
        _train(model, owners, sides, config, progress)
        after = [_measure(model, side, config) for side in sides]
        if not all(map(math.isfinite, after)):
            raise SteeringError("the distance to the targets is not finite; take a smaller learning rate.")
        draft = WeightDraft(model)
        with torch.no_grad():
            for owner in owners:
                draft.of(owner.detach())
        edits = draft.finish()
    finally:
        with torch.no_grad():
            for owner, value in zip(owners, kept, strict=True):
                owner.copy_(value)
                owner.grad = None
        for parameter, needs in frozen.items():
            parameter.requires_grad_(needs)
    figures = {
        f"{name} {when}": value
        for when, pair in (("before", before), ("after", after))
        for name, value in zip(("known", "unknown"), pair, strict=True)
    }
    described = f"{config.submodule} of layer {config.layer}, {config.amount:g} times the vector, known {config.known}"
    return Baked(edits, "casal", False, digest, described, figures)


def _check(model: Model, vector: Tensor, config: CasalConfig) -> None:
    traits = model.traits
    if config.layer >= traits.n_layers:
        raise SteeringError(f"{model.name!r} has layers 0..{traits.n_layers - 1}; got layer {config.layer}.")
    if config.submodule != "W_O" and not traits.d_mlp:
        raise SteeringError(f"{model.name!r} is attention-only; train W_O.")
    if list(vector.shape) != [traits.d_model] or not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise SteeringError(
            f"the vector is one finite direction of {traits.d_model} entries, not all zero; got {list(vector.shape)}."
        )


def _parts(model: Model, config: CasalConfig) -> list[Tensor]:
    layer: LayerWeights = model.weights.layers[config.layer]
    found = [getattr(layer, name) for name in _FIELDS[config.submodule]]
    return [weight for weight in found if weight is not None]


def _read(
    model: Model, sides: tuple[Prompts, Prompts], layer: int, moves: tuple[Tensor, Tensor]
) -> tuple[_Rows, _Rows]:
    """Known and unknown prompts, padded to one width, with their targets."""
    rows = [[row for item in open_items(side) for row in encode_item(model, item)] for side in sides]
    for name, side in zip(("known", "unknown"), rows, strict=True):
        if not side:
            raise SteeringError(f"there are no {name} prompts; give at least one.")
    tokens, mask = pad_prompts(rows[0] + rows[1])
    if mask is None:
        mask = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        parts = [
            _ends(model, part, m, layer) for part, m in zip(tokens.split(256), mask.split(256), strict=True)
        ]
    ends, n = torch.cat(parts).float(), len(rows[0])
    return (
        _Rows(tokens[:n], mask[:n], ends[:n] + moves[0]),
        _Rows(tokens[n:], mask[n:], ends[n:] + moves[1]),
    )


def _ends(model: Model, tokens: Tensor, mask: Tensor, layer: int) -> Float[Tensor, "row d_model"]:
    """The residual stream after a layer at the last token of every prompt; layers above do not run."""
    site = Site("resid_post", layer)
    resid = capture(model, tokens, [site], attention_mask=mask, unembed=False)[site]
    return resid[torch.arange(len(tokens)), mask.sum(1) - 1]


def _train(
    model: Model, owners: Sequence[Tensor], sides: tuple[_Rows, _Rows], config: CasalConfig, progress: bool
) -> None:
    from tqdm.auto import trange

    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(owners, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    half = config.batch_size // 2
    for _ in trange(config.steps, disable=not progress, desc="CASAL"):
        drawn = [torch.randperm(len(side.tokens), generator=generator)[:half] for side in sides]
        tokens, mask, target = (
            torch.cat([getattr(side, name)[rows] for side, rows in zip(sides, drawn, strict=True)])
            for name in ("tokens", "mask", "target")
        )
        optimizer.zero_grad()
        with torch.enable_grad():
            distance = (_ends(model, tokens, mask, config.layer).float() - target).square().sum(-1)
            # both sides weigh the same, however many prompts each has
            known, unknown = distance.split([len(rows) for rows in drawn])
            (known.mean() + unknown.mean()).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _measure(model: Model, side: _Rows, config: CasalConfig) -> float:
    """Mean squared distance to the targets."""
    total = 0.0
    for tokens, mask, target in zip(
        *(x.split(256) for x in (side.tokens, side.mask, side.target)), strict=True
    ):
        total += float((_ends(model, tokens, mask, config.layer).float() - target).square().sum())
    return total / len(side.tokens)
