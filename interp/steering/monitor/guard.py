"""A guard: what a prompt holds, read apart from what the model is about to do about it.

Zhao et al. 2025 (arXiv 2507.11878) find harm encoded at the last token of the instruction and refusal after it, in
the tokens of the template: a model may refuse what it does not hold harmful, and follow what it does. One
direction read at one place cannot say both. Each is read as the mean over layers of
``cos(h, mu_1) - cos(h, mu_0)``, with the means of prompts that have it and prompts that do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError, unknown_name
from interp.models.model import Model
from interp.models.text_data import Prompts
from interp.results.detector import GUARD_CELLS, GuardReport
from interp.results.provenance import Provenance
from interp.steering.monitor.detector import Detector, score_prompts
from interp.steering.monitor.fit import Reading, fit_detector
from interp.steering.places import Where
from interp.types import SiteLike


@dataclass(frozen=True, eq=False)
class GuardReading:
    """What a guard read of some prompts, and what it decides."""

    content: Float[Tensor, " prompt"]
    behaviour: Float[Tensor, " prompt"]
    decided: Int[Tensor, " prompt"]
    """Numbers in :data:`interp.results.detector.GUARD_CELLS`."""

    @property
    def names(self) -> tuple[str, ...]:
        """The decision on each prompt: ``"content only"`` ..."""
        return tuple(GUARD_CELLS[cell] for cell in self.decided.tolist())


@dataclass(frozen=True, eq=False)
class Guard:
    """Two detectors, and a decision from both. Raises :class:`SteeringError` where one has no threshold.

    ================  ===================  =====================
                      behaviour not seen   behaviour seen
    ================  ===================  =====================
    no content        neither: let pass    behaviour only: over-refusal
    content           content only: alarm  both: refused
    ================  ===================  =====================
    """

    content: Detector
    """Of what the prompt holds (harm), at the last token of the instruction."""
    behaviour: Detector
    """Of what the model is about to do (refuse), after the instruction."""

    def __post_init__(self) -> None:
        for one in (self.content, self.behaviour):
            if one.threshold is None:
                raise SteeringError(f"a guard decides by thresholds; {one.name} has none: calibrate it.")

    def read(
        self, model: Model, prompts: Prompts, *, batch_size: int = 32, progress: bool = False
    ) -> GuardReading:
        """Both scores of every prompt, from one pass, and the decision."""
        both = (self.content, self.behaviour)
        content, behaviour = score_prompts(
            model, both, prompts, batch_size=batch_size, progress=progress
        ).unbind(1)
        decided = 2 * (content > self.content.limit).long() + (behaviour > self.behaviour.limit).long()
        return GuardReading(content, behaviour, decided)

    def evaluate(self, model: Model, prompts: Mapping[str, Prompts], *, batch_size: int = 32) -> GuardReport:
        """What it decides about prompts by what is true of them, one of :data:`GUARD_CELLS` each.

        Give prompts that it was not fitted to. Raises :class:`SteeringError` for an unknown cell and for none.
        """
        for cell in prompts:
            if cell not in GUARD_CELLS:
                raise SteeringError(unknown_name("cell of a guard", cell, GUARD_CELLS))
        if not prompts:
            raise SteeringError(f"give prompts for at least one of {', '.join(GUARD_CELLS)}.")
        read = {cell: self.read(model, some, batch_size=batch_size) for cell, some in prompts.items()}
        truth = [
            torch.full((len(one.decided),), GUARD_CELLS.index(cell), dtype=torch.long)
            for cell, one in read.items()
        ]
        return GuardReport(
            content=torch.cat([one.content for one in read.values()]),
            behaviour=torch.cat([one.behaviour for one in read.values()]),
            truth=torch.cat(truth),
            decided=torch.cat([one.decided for one in read.values()]),
            thresholds=(self.content.limit, self.behaviour.limit),
            provenance=Provenance(
                model=model.name,
                family=model.traits.family,
                revision=model.revision,
                task="guard",
                n_prompts=sum(len(one.decided) for one in read.values()),
                method=f"{self.content.name} and {self.behaviour.name}",
            ),
        )

    def save(self, path: str | Path) -> Path:
        """Write both detectors to one safetensors file: :func:`load_guard` reads it again."""
        from interp.steering.monitor.files import save_guard

        return save_guard(self, path)


def fit_guard(
    model: Model,
    content: tuple[Prompts, Prompts],
    behaviour: tuple[Prompts, Prompts],
    *,
    content_site: SiteLike | Iterable[SiteLike],
    behaviour_site: SiteLike | Iterable[SiteLike] = "resid_post@-1",
    content_where: Where | None = None,
    behaviour_where: Where | None = None,
    measure: Reading = "prototypes",
    content_name: str = "content",
    behaviour_name: str = "behaviour",
    **options: Any,
) -> Guard:
    """Fit both detectors: each from prompts with it and prompts without.

    The two may be the same prompts (harmful ones that are refused, harmless ones that are followed); what tells
    the directions apart then is where they are read. ``content_site`` is at the end of the instruction: its
    positions, or those of ``content_where`` (:class:`InstructionEnd`). ``options`` go to :func:`fit_detector`.
    """
    return Guard(
        fit_detector(
            model, *content, content_site, where=content_where, measure=measure, name=content_name, **options
        ),
        fit_detector(
            model,
            *behaviour,
            behaviour_site,
            where=behaviour_where,
            measure=measure,
            name=behaviour_name,
            **options,
        ),
    )
