"""How a coder is trained: a frozen description that refuses options it does not know."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

from interp.coders.config import read_config
from interp.errors import CoderError, unknown_name

Optimizer = Literal["adam", "schedule-free"]
"""Adam with warm-up and decay, or schedule-free Adam, which needs no decay and no end of training."""

Revival = Literal["auxk", "ghost", "resample", "none"]
"""What is done for dead latents."""

Normalisation = Literal["mean-norm", "none"]
"""``mean-norm``: activations are scaled to a mean length of sqrt(d) while training."""

Start = Literal["geometric-median", "mean", "zero"]
"""Where the decoder's bias begins."""


@dataclass(frozen=True)
class TrainingConfig:
    """Length, optimiser, schedules and care for dead latents; the same that a TOML file gives.

    Raises :class:`CoderError` for unknown names and for numbers out of range.
    """

    tokens: int | None = None
    """Rows of activations to train on, rounded up to whole batches; by default one pass over the data."""
    batch_size: int = 4096
    """Rows a step, over all processes. The last batch of the data has what is left, so data that are less than a batch
    give one short step, and a warning."""
    learning_rate: float | None = None
    """By default ``2e-4 / sqrt(d_sae / 16384)`` (Gao et al. 2024, figure 3), at most 3e-3."""
    optimizer: Optimizer = "adam"
    """With schedule-free and unit decoders, decoder rows of both the fast point and the mean are brought back to
    length 1 after every step: the mean moves on the sphere."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    warmup: float = 0.05
    """Share of training in which the learning rate rises from 0; where its length is not known ahead (no ``tokens``,
    and a source that streams), shares are of 10,000 steps, and there is no decay."""
    decay: float = 0.2
    """Share of training, at its end, in which it falls to 0; schedule-free has none."""
    gradient_norm: float | None = 1.0
    """Gradients longer than this are shortened to it; ``None`` leaves them."""
    normalise: Normalisation = "mean-norm"
    start: Start = "geometric-median"
    start_rows: int = 16384
    """Rows from which scales and the decoder's bias are found; they are trained on as well."""
    k_start: int | None = None
    """k of the first step, for the top-k kinds; it falls or rises to the coder's k."""
    k_warmup: float = 0.2
    """Share of training in which k goes from ``k_start`` to its value."""
    sparsity_warmup: float = 0.2
    """Share of training in which the sparsity penalty rises from 0."""
    target_l0: float | None = None
    """Latents that shall fire in a row, for kinds with a penalty: once its warm-up is over, its coefficient moves at
    most 2 % a step towards that. It takes some hundreds of steps to settle."""
    revival: Revival = "auxk"
    dead_after: int | None = None
    """A latent is dead when it has not fired for so many rows; by default a tenth of training, or a hundred batches
    where its length is not known, at most a million."""
    aux_k: int | None = None
    """AuxK: dead latents that rebuild a row's error; by default half the input's width."""
    aux_coefficient: float = 1 / 32
    resample_every: float = 0.2
    """Resampling: share of training between two rounds; none in the last fifth, where its length is known."""
    buffer_rows: int = 65_536
    """Rows that are held to be shuffled, over all processes."""
    epochs: int | None = None
    """Passes over the data: 1 by default, or as many as ``tokens`` asks for."""
    seed: int = 0
    log_every: int = 50
    """Steps between two points of the curves."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints, where a folder for them is given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        choices = {"optimizer": Optimizer, "revival": Revival, "normalise": Normalisation, "start": Start}
        for name, known in choices.items():
            if getattr(self, name) not in get_args(known):
                raise CoderError(unknown_name(name, str(getattr(self, name)), get_args(known)))
        self._check_counts()
        self._check_shares()
        if self.buffer_rows < self.batch_size:
            raise CoderError(
                f"the buffer must hold at least one batch; got buffer_rows={self.buffer_rows} for "
                f"batch_size={self.batch_size}."
            )

    def _check_counts(self) -> None:
        optional = ("tokens", "k_start", "aux_k", "epochs", "dead_after")
        needed = ("batch_size", "start_rows", "buffer_rows", "log_every", "checkpoint_every")
        for name in (*optional, *needed):
            value = getattr(self, name)
            if value is None and name in optional:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CoderError(f"{name} must be a positive integer; got {value!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise CoderError(f"seed must be an integer; got {self.seed!r}.")

    def _check_shares(self) -> None:
        for name in ("warmup", "decay", "k_warmup", "sparsity_warmup", "resample_every"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 1:
                raise CoderError(f"{name} is a share of training, in 0..1; got {value!r}.")
        for name in ("learning_rate", "gradient_norm", "target_l0", "epsilon", "aux_coefficient"):
            value = getattr(self, name)
            if value is None and name not in ("epsilon", "aux_coefficient"):
                continue
            if not _is_number(value) or not value > 0:
                raise CoderError(f"{name} must be a positive number; got {value!r}.")
        if self.optimizer == "schedule-free" and len(self.betas) == 2 and self.betas[0] == 0:
            raise CoderError(
                "schedule-free Adam needs a first beta above 0, between its mean and its fast point."
            )
        if len(self.betas) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in self.betas):
            raise CoderError(f"betas are two numbers in 0..1, 1 excluded; got {self.betas}.")

    def rate_for(self, d_sae: int) -> float:
        """The learning rate, or its default for a coder of this size."""
        if self.learning_rate is not None:
            return self.learning_rate
        return min(3e-3, 2e-4 / math.sqrt(d_sae / 16384))

    def dead_rows(self, steps: int | None) -> int:
        """``dead_after``, or its default for a training of so many steps."""
        if self.dead_after is not None:
            return self.dead_after
        batches = 100 if steps is None else max(1, steps // 10)
        return min(1_000_000, batches * self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain values. Raises :class:`CoderError` for a name that is no option."""
        return read_config(cls, values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
