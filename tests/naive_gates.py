"""Gates written out, one prompt at a time in float64, and random gates; no code shared with ``interp.steering``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import interp
from interp.models.model import Model
from interp.steering.conditions import Combination, Condition
from interp.steering.controller import Controller
from interp.steering.gates import Gate
from interp.types import Site, parse_site


def naive_rows(model: Model, prompt: Tensor, site: Site) -> Tensor:
    """[chosen, d] of a prompt without padding: what a gate reads there."""
    place = parse_site(str(site).split("@")[0])
    cache = interp.capture(model, prompt[None], [place])
    values = cache[place][0].detach().flatten(1).double()
    positions = site.positions or ("all",)
    chosen = [p % len(values) if isinstance(p, int) else None for p in positions]
    return values if None in chosen else values[sorted(set(chosen))]


def naive_similarity(condition: Condition, rows: Tensor) -> float:
    """One prompt's number."""
    c = condition.direction.double()

    def compare(h: Tensor) -> float:
        along = float(h @ c) / math.sqrt(float(c @ c))
        return along if condition.similarity == "dot" else along / math.sqrt(float(h @ h))

    if condition.pooling == "max":
        return max(map(compare, rows))
    return compare(rows[-1] if condition.pooling == "last" else rows.mean(0))


def naive_factors(gate: Gate, model: Model, prompt: Tensor) -> list[float]:
    """One prompt's factors, one for every channel."""
    if isinstance(gate, Condition):
        above = naive_similarity(gate, naive_rows(model, prompt, gate.site)) > gate.threshold
        return [float(above == gate.above)]
    if isinstance(gate, Combination):
        found = [naive_factors(part, model, prompt)[0] == 1 for part in gate.parts]
        return [float(all(found) if gate.how == "all" else any(found))]
    assert isinstance(gate, Controller)
    x = torch.cat([naive_rows(model, prompt, site).mean(0) for site in gate.read])
    x = (x - gate.mean.double()) / gate.scale.double()
    hidden = [math.tanh(float(w @ x) + float(b)) for w, b in zip(gate.W_in.double(), gate.b_in, strict=True)]
    out = [
        sum(float(w) * h for w, h in zip(row, hidden, strict=True)) + float(b)
        for row, b in zip(gate.W_out, gate.b_out, strict=True)
    ]
    open_ = 1 / (1 + math.exp(-out[0]))
    if gate.threshold is not None and open_ <= gate.threshold:
        open_ = 0.0
    total = sum(map(math.exp, out[1:]))
    return [open_ * len(out[1:]) * math.exp(o) / total for o in out[1:]]


def random_condition(site: str, d: int, seed: int = 0, **options: object) -> Condition:
    """A condition with a random direction, open above 0."""
    direction = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    return Condition(parse_site(site), direction, **{"threshold": 0.0, **options})  # type: ignore[arg-type]


def random_controller(
    sites: tuple[str, ...], d: int, channels: int = 2, hidden: int = 5, seed: int = 0, **options: object
) -> Controller:
    """A controller with a random network, neither open nor closed."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    d_in = d * len(sites)
    return Controller(
        tuple(map(parse_site, sites)),
        mean=random(d_in),
        scale=random(d_in).abs() + 0.5,
        W_in=random(hidden, d_in) / d_in**0.5,
        b_in=random(hidden),
        W_out=random(1 + channels, hidden),
        b_out=random(1 + channels),
        **options,  # type: ignore[arg-type]
    )
