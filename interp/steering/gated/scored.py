"""Gates that come to one score a prompt before they decide, so that they can be calibrated and compared."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.capture import capture
from interp.models.model import Model
from interp.models.text_data import Prompts, encode_item, open_items, pad_prompts
from interp.steering.gates import Gate, Reading
from interp.steering.monitor.threshold import conformal_threshold
from interp.steering.steering import Steering
from interp.types import GENERATED, Site, SiteLike, parse_site


class ScoredGate(Gate):
    """A gate that opens where a score of the prompt is above a threshold."""

    @abstractmethod
    def score(self, readings: Mapping[Site, Reading]) -> Float[Tensor, " batch"]:
        """The number that a threshold is set on; larger means rather open."""

    @abstractmethod
    def at_threshold(self, threshold: float) -> Self:
        """The same gate, open above this score."""


def read_site(site: SiteLike) -> Site:
    """A site that a gate may read: one layer's vectors, at tokens of the prompt.

    Raises :class:`SteeringError` for all layers at once, generated tokens, rows and subspaces.
    """
    found = parse_site(site)
    if found.layer is None and found.component != "embed":
        raise SteeringError(f"a gate reads one layer; {found} names all of them.")
    if found.latents is not None or "src_pos" in found.axes:
        raise SteeringError(f"a gate reads vectors of tokens; {found} is none. Take resid_post, mlp_out ...")
    if found.rows is not None or found.subspace is not None:
        raise SteeringError(
            f"a gate reads every prompt's whole activation; {found} names rows or a subspace."
        )
    if GENERATED in (found.positions or ()):
        raise SteeringError(f"a gate decides by the prompt alone; {found} reads generated tokens.")
    return found


def check_reading(site: Site, reading: Reading, d: int) -> None:
    """Refuse activations of another width, and prompts in which the site chooses no token."""
    if reading.values.shape[-1] != d:
        raise SteeringError(
            f"the gate reads {d} entries at {site}; the activation there has {reading.values.shape[-1]}. Was it "
            "made for another model or site?"
        )
    empty = ~reading.chosen.any(1)
    if bool(empty.any()):
        raise SteeringError(
            f"{site} chooses no token of the prompts in rows {empty.nonzero()[:10, 0].tolist()}; the gate has "
            "nothing to read there."
        )


def last_chosen(reading: Reading) -> Float[Tensor, "batch d"]:
    """The last of the tokens that count."""
    columns = torch.arange(reading.values.shape[1], device=reading.values.device)
    last = torch.where(reading.chosen, columns, -1).argmax(1)
    return reading.values[torch.arange(len(last), device=last.device), last]


def read_rows(model: Model, prompts: Prompts, text_column: str = "text") -> list[Int[Tensor, " _"]]:
    """Tokens of every prompt. Raises :class:`SteeringError` where there is none."""
    rows = [row for item in open_items(prompts, text_column) for row in encode_item(model, item)]
    if not rows:
        raise SteeringError("there are no prompts; give at least one.")
    return rows


def read_prompts(
    model: Model, sites: Sequence[Site], rows: Sequence[Int[Tensor, " _"]]
) -> dict[Site, Reading]:
    """What gates at these sites read of a batch of prompts, without any steering."""
    tokens, mask = pad_prompts(rows)
    places = {site: replace(site, positions=None) for site in sites}
    with torch.no_grad():
        cache = capture(model, tokens, list(set(places.values())), attention_mask=mask, unembed=False)
    return {
        site: Reading(cache[place].flatten(2), cache.columns.select(site, {}).to(cache[place].device))
        for site, place in places.items()
    }


def score_gates(
    model: Model, gates: Sequence[ScoredGate], prompts: Prompts, *, batch_size: int = 32
) -> Float[Tensor, "gate prompt"]:
    """Scores of prompts by several gates, in one pass over the unsteered model."""
    rows = read_rows(model, prompts)
    sites = list(dict.fromkeys(site for gate in gates for site in gate.sites))
    found: list[Tensor] = []
    for start in range(0, len(rows), batch_size):
        readings = read_prompts(model, sites, rows[start : start + batch_size])
        scores = [gate.score({site: readings[site] for site in gate.sites}) for gate in gates]
        found.append(torch.stack(scores).detach().float().cpu())
    return torch.cat(found, dim=1)


def calibrate_gate(
    model: Model, steering: Steering, leave_prompts: Prompts, fpr: float, *, batch_size: int = 32
) -> Steering:
    """The steering with its gate closed on all but a share ``fpr`` of prompts that it should leave alone.

    The prompts must not be those that the gate was fitted on; how the threshold is chosen says
    :func:`interp.steering.monitor.threshold.conformal_threshold`. Above it a :class:`Controller` is open as far
    as it was. Raises :class:`SteeringError` for a steering without one gate that has a score, and for too few
    prompts.
    """
    gates = {id(step.gate): step.gate for step in steering.steps}
    gate = next(iter(gates.values()))
    if len(gates) != 1 or not isinstance(gate, ScoredGate):
        raise SteeringError(
            "only a steering under one gate with a score (a Condition or a Controller) has a threshold to calibrate."
        )
    (scores,) = score_gates(model, [gate], leave_prompts, batch_size=batch_size)
    closed = gate.at_threshold(conformal_threshold(scores, fpr))
    return replace(steering, steps=tuple(replace(step, gate=closed) for step in steering.steps))
