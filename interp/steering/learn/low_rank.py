"""LoReFT: low-rank edits trained on what the model writes (Wu et al. 2024, arXiv 2404.03592, eq. 2).

``h + R^T (W h + b - R h)`` with orthonormal rows R at chosen sites and positions, the model frozen. R stays
orthonormal as the QR factor of free numbers. Training starts at ``W = R``, ``b = 0``, which changes nothing; the
paper's code starts at a random W.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.models.intervene import intervene
from interp.models.model import Model
from interp.results.provenance import Provenance
from interp.results.steering_training import SteeringLog
from interp.steering.learn.completions import CompletionRows, Completions, read_completions
from interp.steering.learn.pooled import map_site, sites_of_layers
from interp.steering.learn.training import run_steps
from interp.steering.operations import LowRank
from interp.steering.steering import Steering, Step
from interp.types import Site, SiteLike

Objective = Callable[
    [Float[Tensor, "batch next d_vocab"], Int[Tensor, "batch next"], Bool[Tensor, "batch next"]],
    Float[Tensor, ""],
]
"""From the logits before every token, the tokens, and which of them count, to what is made small."""


@dataclass(frozen=True)
class LowRankConfig:
    """How low-rank edits are trained. Raises :class:`SteeringError` for values that cannot be."""

    rank: int = 4
    steps: int = 200
    learning_rate: float = 5e-3
    """Of Adam at the start of a cosine that falls to 0."""
    batch_size: int = 16
    """Examples a step, every one once before any comes again."""
    seed: int = 0
    """Of the first R and of the order of the examples."""

    def __post_init__(self) -> None:
        if min(self.rank, self.steps, self.batch_size) < 1 or not 0 < self.learning_rate < math.inf:
            raise SteeringError(
                f"rank, steps and batch size are at least 1 and the learning rate above 0; got {self.rank}, "
                f"{self.steps}, {self.batch_size} and {self.learning_rate}."
            )


def next_token_loss(
    logits: Float[Tensor, "batch next d_vocab"],
    tokens: Int[Tensor, "batch next"],
    scored: Bool[Tensor, "batch next"],
) -> Float[Tensor, ""]:
    """Mean loss of the tokens that count, nats."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    return cross_entropy(logits[scored].to(wide), tokens[scored])


def fit_low_rank(
    model: Model,
    examples: Completions,
    sites: SiteLike | Iterable[SiteLike],
    config: LowRankConfig | None = None,
    *,
    objective: Objective = next_token_loss,
    log: SteeringLog | None = None,
    progress: bool = False,
) -> Steering:
    """Low-rank edits at ``sites``, trained until the model completes prompts as the examples do.

    ``examples`` are (prompt, completion) texts, or token rows [row, pos] with a mask of the tokens that are
    learned. Positions of a site are those of the prompt, ``@-1`` its last token and ``@gen`` the completion; a
    site without any acts on all tokens. ``objective`` may be any differentiable behaviour instead of the loss of
    the next token. The dose is not calibrated; strength 1 is the edit as it was trained.

    Example::

        steering = interp.fit_low_rank(model, [("The baker was", " extremely good.")], "resid_post[1]@-1")

    Raises :class:`SteeringError` for examples without a token to learn, a rank above the activation's size, an
    objective that is no number and a loss that runs away; :class:`FitInterrupted`, with what there is, on Ctrl-C.
    """
    config = config or LowRankConfig()
    rows = read_completions(model, examples)
    fit = _Fit(model, config, rows, sites_of_layers(model, sites), objective)
    provenance = Provenance(
        model=model.name,
        family=model.traits.family,
        revision=model.revision,
        task="completions",
        n_prompts=len(rows),
        seed=config.seed,
        method="low-rank",
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
    )
    if log is not None:
        log.begin("loss, nats a token" if objective is next_token_loss else "objective", provenance)

    def finish(done: int) -> Steering:
        return Steering(
            tuple(Step(site, one) for site, one in fit.operations().items()),
            "low-rank",
            model_digest=digest_weights(model),
            data=f"{len(rows)} completions",
            figures={**fit.ends(), "steps": float(done)},
            provenance=provenance,
        )

    return run_steps(
        fit.parameters,
        fit.losses,
        fit.step,
        config.steps,
        finish=finish,
        log=log,
        progress=progress,
        name="low-rank edit",
    )


@dataclass(eq=False)
class _Edit:
    """Free numbers of one site's edit."""

    basis: Float[Tensor, "d r"]
    """R^T is the orthonormal factor of its QR decomposition."""
    weight: Float[Tensor, "r d"]
    bias: Float[Tensor, " r"]

    def rotation(self) -> Float[Tensor, "r d"]:
        return torch.linalg.qr(self.basis)[0].T

    def __call__(self, h: Tensor) -> Tensor:
        rotation = self.rotation()
        return h + (h @ self.weight.T + self.bias - h @ rotation.T) @ rotation


class _Fit:
    def __init__(
        self,
        model: Model,
        config: LowRankConfig,
        rows: CompletionRows,
        sites: tuple[Site, ...],
        objective: Objective,
    ) -> None:
        self.model, self.config, self.rows, self.objective = model, config, rows, objective
        generator = torch.Generator().manual_seed(config.seed)
        self.edits = {
            site: _first_edit(config.rank, d, model, generator) for site, d in self._widths(sites).items()
        }
        self.parameters = [p for edit in self.edits.values() for p in (edit.basis, edit.weight, edit.bias)]
        self.adam = torch.optim.Adam(self.parameters, lr=config.learning_rate)
        self.order = torch.Generator().manual_seed(config.seed)
        self.waiting: list[int] = []
        self.seen: list[float] = []

    def _widths(self, sites: tuple[Site, ...]) -> dict[Site, int]:
        """Entries of the activation at every site, heads side by side."""
        found: dict[Site, int] = {}

        def reading(site: Site) -> Callable[[Tensor], Tensor]:
            def read(h: Tensor) -> Tensor:
                found[site] = h.shape[-1]
                return h

            return read

        batch = self.rows.batch([0])
        with (
            torch.no_grad(),
            self.model.continuing(batch.prompt),
            intervene(self.model, [map_site(site, reading(site)) for site in sites]),
        ):
            self.model(batch.tokens, batch.mask)
        return found

    def _next(self) -> list[int]:
        size = min(self.config.batch_size, len(self.rows))
        while len(self.waiting) < size:
            self.waiting += torch.randperm(len(self.rows), generator=self.order).tolist()
        chosen, self.waiting = self.waiting[:size], self.waiting[size:]
        return chosen

    def losses(self, number: int) -> dict[str, Tensor]:
        batch = self.rows.batch(self._next())
        with (
            self.model.continuing(batch.prompt),
            intervene(self.model, [map_site(site, edit) for site, edit in self.edits.items()]),
        ):
            logits = self.model(batch.tokens, batch.mask)
        found = self.objective(
            logits[:, :-1], batch.tokens[:, 1:].to(logits.device), batch.scored[:, 1:].to(logits.device)
        )
        if found.ndim or (torch.is_grad_enabled() and not found.requires_grad):
            raise SteeringError(
                f"an objective is one number with a gradient; got shape {list(found.shape)}"
                f"{'' if found.requires_grad else ' without a gradient'}."
            )
        self.seen = [*self.seen[:1], float(found.detach())]
        return {"completions": found}

    def step(self, factor: float) -> None:
        self.adam.param_groups[0]["lr"] = self.config.learning_rate * factor
        self.adam.step()

    def operations(self) -> dict[Site, LowRank]:
        with torch.no_grad():
            return {
                site: LowRank(
                    edit.rotation().clone(), edit.weight.detach().clone(), edit.bias.detach().clone()
                )
                for site, edit in self.edits.items()
            }

    def ends(self) -> dict[str, float]:
        return {"loss at start": self.seen[0], "loss": self.seen[-1]} if self.seen else {}


def _first_edit(rank: int, d: int, model: Model, generator: torch.Generator) -> _Edit:
    if rank > d:
        raise SteeringError(f"an activation of {d} entries has no edit of rank {rank}; take at most {d}.")
    dtype = torch.promote_types(model.dtype, torch.float32)
    drawn = torch.randn(d, rank, generator=generator, dtype=torch.float64)
    # of unit columns, whose size steps of the optimiser are to be compared with
    basis = torch.linalg.qr(drawn)[0].to(model.device, dtype)
    rotation = torch.linalg.qr(basis)[0].T
    bias = torch.zeros(rank, dtype=dtype, device=model.device)
    edit = _Edit(basis, rotation.clone(), bias)
    for part in (edit.basis, edit.weight, edit.bias):
        part.requires_grad_()
    return edit
