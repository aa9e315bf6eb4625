"""What steerings do to prompts that they should act on, and to prompts that they should leave alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.results.provenance import Provenance
from interp.results.steering_gate import GatedEffects
from interp.steering.gated.behaviour import Behaviour
from interp.steering.gated.rollouts import Rollouts
from interp.steering.kl import kl_by_token
from interp.steering.steering import Steering


def measure_gated(
    model: Model,
    steerings: Mapping[str, Steering],
    act: Rollouts,
    leave: Rollouts,
    behaviour: Behaviour,
    *,
    strength: float | Sequence[float],
    confidence: float = 0.95,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> GatedEffects:
    """Effect on a behaviour, KL to the unsteered model and gate of several steerings on both kinds of prompts.

    Measured on continuations of the unsteered model, token by token: what the steered model would have said
    there. ``strength`` is one for all steerings or one for each. Raises :class:`SteeringError` for no steering
    and another number of strengths.
    """
    from tqdm.auto import tqdm

    begun = time.perf_counter()
    strengths = [strength] * len(steerings) if isinstance(strength, int | float) else list(strength)
    if not steerings or len(strengths) != len(steerings):
        raise SteeringError(
            f"give at least one steering, and one strength or one for each; got {len(steerings)} steerings and "
            f"{len(strengths)} strengths."
        )
    if not 0 < confidence < 1:
        raise SteeringError(f"confidence lies between 0 and 1; got {confidence}.")
    n_batches = sum(-(-len(side) // batch_size) for side in (act, leave))
    with tqdm(total=n_batches * len(steerings), disable=not progress, desc="gated") as bar:
        found = {
            side: _measure_side(
                model, list(steerings.values()), strengths, rollouts, behaviour, batch_size, bar.update
            )
            for side, rollouts in (("act", act), ("leave", leave))
        }
    return GatedEffects(
        arms=tuple(steerings),
        **{f"{side}_{figure}": values for side, parts in found.items() for figure, values in parts.items()},
        behaviour=behaviour.name,
        strength=float(strengths[0]) if len(set(strengths)) == 1 else math.nan,
        confidence=confidence,
        provenance=Provenance(
            model=model.name,
            family=model.traits.family,
            revision=model.revision,
            task="gated steering",
            n_prompts=len(act) + len(leave),
            seed=seed,
            metric=behaviour.name,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            seconds=time.perf_counter() - begun,
        ),
    )


def _measure_side(
    model: Model,
    steerings: Sequence[Steering],
    strengths: Sequence[float],
    rollouts: Rollouts,
    behaviour: Behaviour,
    batch_size: int,
    step: Callable[[], object],
) -> dict[str, Float[Tensor, "arm prompt"]]:
    parts: dict[str, list[Tensor]] = {"effect": [], "kl": [], "gate": []}
    for batch in rollouts.batches(batch_size):
        with torch.no_grad(), batch.continuing(model):
            base = batch.logits(model)
            before = behaviour.measure(base)
            rows: dict[str, list[Tensor]] = {name: [] for name in parts}
            for steering, strength in zip(steerings, strengths, strict=True):
                with steering.apply(model, strength=strength) as applied:
                    steered = batch.logits(model)
                gates = {id(s.gate): s.gate for s in steering.steps if s.gate is not None}
                factors = [applied.gate_of(gate).mean(1) for gate in gates.values()]
                gate = (
                    torch.stack([f.float().cpu() for f in factors]).mean(0)
                    if factors
                    else torch.ones(len(batch))
                )
                rows["gate"].append(gate)
                rows["effect"].append(batch.mean((behaviour.measure(steered) - before).float().cpu()))
                rows["kl"].append(batch.mean(kl_by_token(base, steered).float().cpu()))
                step()
        for name, values in rows.items():
            parts[name].append(torch.stack(values))
    return {name: torch.cat(values, dim=1) for name, values in parts.items()}
