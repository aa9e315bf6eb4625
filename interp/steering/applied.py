"""A steering while it acts: what it has read, what its gates decided, and where it has acted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.hooks import ForwardTracker
from interp.models.model import Model
from interp.models.positions import Columns
from interp.results.provenance import Provenance
from interp.results.steered_text import SteeredText
from interp.steering.gates import Gate, Reading
from interp.steering.steering import Steering, Step
from interp.types import Site


class Applied:
    """A steering while it acts: where it has acted so far."""

    def __init__(
        self, model: Model, steerings: Sequence[Steering | None], asked: Float[Tensor, " n"], unit: str
    ) -> None:
        self.model = model
        self._steerings, self._asked, self._unit = list(steerings), asked, unit
        self._tracker = ForwardTracker(model)
        self._tokens: Tensor | None = None
        self._readings: dict[Site, Reading] = {}
        self._decisions: dict[int, Tensor] = {}
        self._acted: Tensor | None = None
        self._touched: Tensor | None = None

    @property
    def touched(self) -> Bool[Tensor, "batch total"]:
        """Which tokens a step lies on, whatever its strength and gate. Raises as :attr:`acted`."""
        if self._touched is None:
            raise SteeringError("no forward of the model has run in the block yet.")
        return self._touched

    @property
    def acted(self) -> Float[Tensor, "batch total"]:
        """Strength at every column of the prompts run last and their continuation: the largest over steps.

        0 where nothing acted, signed, gates and weights included. Raises :class:`SteeringError` before a
        forward has run.
        """
        if self._acted is None:
            raise SteeringError("no forward of the model has run in the block yet.")
        return self._acted

    @property
    def tokens(self) -> Int[Tensor, "batch total"]:
        """The tokens that were read last, those of the KV cache too. Raises as :attr:`acted`."""
        if self._tokens is None:
            raise SteeringError("no forward of the model has run in the block yet.")
        return self._tokens

    def gate_of(self, gate: Gate) -> Float[Tensor, "batch channel"]:
        """What a gate decided for the prompts run last. Raises :class:`SteeringError` if it did not."""
        if id(gate) not in self._decisions:
            raise SteeringError("this gate has decided nothing: no step of it has acted yet.")
        return self._decisions[id(gate)]

    def text(self, tokens: Int[Tensor, "batch total"] | None = None) -> SteeredText:
        """The prompts run last and what followed, with the strength at every token, to be shown as coloured text.

        Give what :meth:`Model.generate` returned to see its last token too, which the model writes and does not
        read. Beams cannot be shown: their rows change places.

        Raises :class:`SteeringError` as :attr:`acted`, and for tokens that are not those that were read.
        """
        acted, read = self.acted, self.tokens
        tokens = read if tokens is None else tokens.cpu()
        n = read.shape[1]
        if len(tokens) != len(read) or tokens.shape[1] < n or not torch.equal(tokens[:, :n], read):
            raise SteeringError(
                f"the tokens [{', '.join(map(str, tokens.shape))}] do not begin with those that were read last, "
                f"[{', '.join(map(str, read.shape))}]; give what model.generate returned in this block."
            )
        prompt = self._tracker.columns.prompt
        real = Columns(prompt, 0, tokens.shape[1]).real & ~self._after_end(tokens, prompt.n_columns)
        own = real.sum(1)
        strength = torch.full(real.shape, torch.nan)
        for row, shown in enumerate(real):
            # padding on the right of a prompt stands before what was generated
            seen = acted[row][shown[:n]]
            strength[row, : len(seen)] = seen
        rows = self._steerings if len(self._steerings) > 1 else self._steerings * prompt.n_prompts
        asked = self._asked if len(self._asked) > 1 else self._asked.expand(prompt.n_prompts)
        listed = [one for one in rows for _ in range(prompt.repeats)]
        methods = dict.fromkeys(one.method for one in rows if one is not None)
        return SteeredText(
            tokens=tuple(
                tuple(self.model.to_str_tokens(row[shown])) for row, shown in zip(tokens, real, strict=True)
            ),
            strength=strength[:, : int(own.max())],
            n_prompt=prompt.lengths.clone(),
            asked=torch.where(
                torch.tensor([one is not None for one in listed]),
                asked.repeat_interleave(prompt.repeats).double(),
                0.0,
            ),
            unit=self._unit,
            steering=tuple("" if one is None else ", ".join(map(str, one.steps)) for one in listed),
            provenance=Provenance(
                model=self.model.name,
                family=self.model.traits.family,
                revision=self.model.revision,
                task="steered text",
                n_prompts=prompt.n_prompts,
                method=", ".join(methods),
                device=str(self.model.device),
                dtype=str(self.model.dtype).removeprefix("torch."),
            ),
        )

    def _after_end(self, tokens: Tensor, n_prompt: int) -> Bool[Tensor, "batch total"]:
        """Generated columns behind a row's first end of text, where generation only pads."""
        end = getattr(self.model.tokenizer, "eos_token_id", None)
        after = torch.zeros(tokens.shape, dtype=torch.bool)
        if isinstance(end, int):
            ended = (tokens[:, n_prompt:] == end).cumsum(1)
            after[:, n_prompt + 1 :] = ended[:, :-1] > 0
        return after

    def before_forward(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook for the model's module: follows tokens, and forgets the last prompts."""
        self._tracker.before_forward(module, args, kwargs)
        tokens, columns = self._tracker.tokens, self._tracker.columns
        assert tokens is not None
        tokens = tokens.detach().cpu()
        if columns.start and self._tokens is not None and len(self._tokens) == len(tokens):
            self._tokens = torch.cat([self._tokens[:, : columns.start], tokens], dim=1)
            self._acted = _extended(self.acted, columns)
            self._touched = _extended(self.touched, columns)
            return
        if columns.start:
            raise SteeringError(
                "the first forward inside the block continues a KV cache from outside; steering must see the prompt."
            )
        self._tokens = tokens
        self._readings.clear()
        self._decisions.clear()
        self._acted = torch.zeros(columns.batch, columns.n)
        self._touched = torch.zeros(columns.batch, columns.n, dtype=torch.bool)

    def read(self, site: Site, values: Tensor, columns: Columns, labels: Mapping[str, Tensor]) -> None:
        """Keep what a gate reads: the prompt's tokens only."""
        in_prompt = columns.whole < columns.prompt.n_columns
        chosen = columns.select(site, labels) & in_prompt
        self._readings[site] = Reading(values, chosen.to(values.device))

    def decide(self, step: Step) -> Float[Tensor, " batch"]:
        """The step's factor for every row of this forward."""
        gate = step.gate
        assert gate is not None
        if id(gate) not in self._decisions:
            late = [str(site) for site in gate.sites if site not in self._readings]
            if late:
                raise SteeringError(
                    f"the gate of {step} reads {', '.join(late)}, which comes later in the forward than {step.site}; "
                    "read lower layers."
                )
            factors = gate.decide({site: self._readings[site] for site in gate.sites})
            self._decisions[id(gate)] = factors
        return self._decisions[id(gate)][:, step.channel]

    def mark(
        self, columns: Columns, strengths: Float[Tensor, "batch n"], chosen: Bool[Tensor, "batch n"]
    ) -> None:
        """Remember how strongly a step acted at the columns of this forward."""
        part = slice(columns.start, columns.start + columns.n)
        self.touched[:, part] |= chosen
        here, new = self.acted[:, part], torch.where(chosen, strengths.detach().float().cpu(), 0)
        here.copy_(torch.where(new.abs() > here.abs(), new, here))


def _extended(marks: Tensor, columns: Columns) -> Tensor:
    """The marks of earlier columns, and empty ones for those of this forward."""
    return torch.cat([marks[:, : columns.start], marks.new_zeros(len(marks), columns.n)], dim=1)
