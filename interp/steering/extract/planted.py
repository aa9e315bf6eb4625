"""Whether an extraction finds a direction that is known: planted in rows, or in a model's embedding.

A check of the methods, and of why PCA of differences must not be centred: the mean that centring takes off is what was
planted. In rows the noise has a nuisance, a direction at right angles along which prompts differ most; in a model
the nuisance is the text itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.results.provenance import Provenance
from interp.results.steering_directions import PlantedRecovery
from interp.steering.contrast import ContrastRows, read_contrast
from interp.steering.extract.directions import DIRECTIONS, find_direction
from interp.steering.neutral import read_neutral
from interp.types import SiteLike

_CONFIDENCE = 0.95


def plant_in_rows(
    n: int, d: int, strength: float, nuisance: float, generator: torch.Generator
) -> tuple[ContrastRows, Float[Tensor, " d"]]:
    """``n`` pairs that differ by ``strength`` times a unit direction, and that direction.

    Both of a pair share their content (unit variance, as the model's own text would give) and have noise of their own:
    standard deviation 1 in every entry, and ``nuisance`` along one direction at right angles to the planted one.
    """
    planted, across = torch.linalg.qr(torch.randn(d, 2, generator=generator)).Q.T
    content = torch.randn(n, d, generator=generator)

    def side() -> Tensor:
        along = nuisance * torch.randn(n, 1, generator=generator) * across
        return content + torch.randn(n, d, generator=generator) + along

    return ContrastRows(side() + strength * planted, side(), paired=True), planted


def recover_from_rows(
    *,
    n: int = 128,
    d: int = 64,
    strengths: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    nuisance: float = 2.0,
    methods: Sequence[str] = tuple(DIRECTIONS),
    n_seeds: int = 10,
) -> PlantedRecovery:
    """Absolute cosine of every method with a direction planted in rows (:func:`plant_in_rows`)."""
    cosines = torch.zeros(len(methods), len(strengths), n_seeds)
    for j, strength in enumerate(strengths):
        for seed in range(n_seeds):
            generator = torch.Generator().manual_seed(seed)
            rows, planted = plant_in_rows(n, d, strength, nuisance, generator)
            cosines[:, j, seed] = measure_cosines(rows, planted, methods, seed)
    provenance = Provenance("planted rows", task=f"pairs in {d} dimensions", n_prompts=n, method="extraction")
    return _record(methods, strengths, cosines, "noise standard deviations", provenance)


def recover_from_model(
    model: Model,
    site: SiteLike = "embed",
    *,
    prompts: Int[Tensor, "prompt pos"] | None = None,
    strengths: Sequence[float] = (2.0, 4.0, 8.0, 16.0),
    methods: Sequence[str] = tuple(DIRECTIONS),
    n_seeds: int = 5,
) -> PlantedRecovery:
    """Absolute cosine of every method with a direction planted in the embedding of one token.

    Of two tokens that no prompt has, one gets the embedding of the other plus ``strength`` mean lengths of an
    embedding along a random direction. Positive prompts have the one at a random position, negative prompts
    the other; they are otherwise different texts (the first and the second half of ``prompts``, by default
    256 rows of 16 tokens of :func:`read_neutral`). The model's weights are put back. What was planted is, at ``embed``
    that direction, and at any ``site`` the mean difference that the token makes in one and the same prompt.

    Raises :class:`SteeringError` for fewer than four prompts, and where all tokens but one occur in them.
    """
    tokens = torch.stack(list(read_neutral(model, n=256, length=16).rows)) if prompts is None else prompts
    half = len(tokens) // 2
    if half < 2:
        raise SteeringError(f"two prompts a side are the least; got {len(tokens)} prompts.")
    unused = sorted(set(range(model.traits.d_vocab)) - set(tokens.unique().tolist()))
    if len(unused) < 2:
        raise SteeringError(
            f"the prompts leave {len(unused)} tokens of the vocabulary unused; two are needed."
        )
    unit = float(model.weights.W_E.detach().norm(dim=1).mean())
    cosines = torch.zeros(len(methods), len(strengths), n_seeds)
    for seed in range(n_seeds):
        generator = torch.Generator().manual_seed(seed)
        one, other = (unused[i] for i in torch.randperm(len(unused), generator=generator)[:2].tolist())
        direction = torch.randn(model.traits.d_model, generator=generator)
        at = torch.randint(tokens.shape[1], (len(tokens), 1), generator=generator)
        positive, negative = (tokens.scatter(1, at, marker) for marker in (one, other))
        for j, strength in enumerate(strengths):
            with planted_token(model, one, other, strength * unit * direction / direction.norm()):
                (same,) = read_contrast(model, positive, negative, site, paired=True).rows.values()
            rows = ContrastRows(same.positive[:half], same.negative[half:], paired=False)
            cosines[:, j, seed] = measure_cosines(rows, same.mean_difference, methods, seed)
    provenance = Provenance(
        model.name, task=f"planted, read at {site}", n_prompts=len(tokens), method="extraction"
    )
    return _record(methods, strengths, cosines, "mean lengths of an embedding", provenance)


@contextmanager
def planted_token(model: Model, token: int, like: int, vector: Float[Tensor, " d_model"]) -> Iterator[None]:
    """Inside the block the embedding of ``token`` is that of ``like`` plus ``vector``; then as before."""
    table = model.weights.W_E
    before = table[token].detach().clone()
    try:
        with torch.no_grad():
            table[token] = table[like] + vector.to(table)
        yield
    finally:
        with torch.no_grad():
            table[token] = before


def measure_cosines(
    rows: ContrastRows, planted: Float[Tensor, " d"], methods: Sequence[str], seed: int = 0
) -> Float[Tensor, " method"]:
    """Absolute cosine of each method's direction with the planted one; 0 where a method finds none."""
    return torch.tensor([_cosine(rows, planted, method, seed) for method in methods])


def _cosine(rows: ContrastRows, planted: Tensor, method: str, seed: int) -> float:
    try:
        found = find_direction(rows, method, seed)
    except SteeringError:
        if method not in DIRECTIONS:
            raise
        return 0.0
    return float((found @ planted).abs() / (found.norm() * planted.norm()))


def _record(
    methods: Sequence[str], strengths: Sequence[float], cosines: Tensor, unit: str, provenance: Provenance
) -> PlantedRecovery:
    return PlantedRecovery(
        methods=tuple(methods),
        strengths=torch.tensor(strengths, dtype=torch.float32),
        cosines=cosines,
        unit=unit,
        confidence=_CONFIDENCE,
        provenance=provenance,
    )
