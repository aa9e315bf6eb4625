"""Steering written out: one vector at a time in float64, from its formula; no code shared with ``interp.steering``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from model_zoo import Specimen
from naive_interventions import Change, Prompts, edits_of
from torch import Tensor

from interp.models.interventions import Intervention
from interp.steering.operations import (
    Add,
    AffineMap,
    Clamp,
    LowRank,
    Operation,
    ProjectOut,
    Rotate,
    SetNeurons,
)
from interp.steering.places import InstructionEnd, TextPattern, Where
from interp.steering.steering import Steering, Step

Naive = Callable[[Tensor, float], Tensor]
"""From a vector [d] in float64 and a strength to the new vector."""

OPERATIONS = ("add", "project", "project two", "clamp", "rotate", "affine", "matrix", "low-rank", "neurons")
"""Every kind, those of two forms twice."""


@dataclass(frozen=True)
class Twin:
    """An operation and what it should do."""

    name: str
    operation: Operation
    naive: Naive


def make_operation_twin(name: str, d: int, seed: int = 0) -> Twin:
    """A random operation on ``d`` entries, and the same written out."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    return _MAKERS[name](name, d, random)


def _add(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    vector = random(d)
    return Twin(name, Add(vector), lambda h, s: h + s * vector.double())


def _project(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    vector = random(d).double()
    unit = vector / math.sqrt(float(sum(x * x for x in vector)))
    return Twin(name, ProjectOut.span(vector.float()), lambda h, s: h - s * float(h @ unit) * unit)


def _project_two(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    a, b = random(d).double(), random(d).double()

    def naive(h: Tensor, s: float) -> Tensor:
        # the point of the plane that is closest to h, by its normal equations
        gram = torch.stack([torch.stack([a @ a, a @ b]), torch.stack([a @ b, b @ b])])
        x, y = torch.linalg.solve(gram, torch.stack([a @ h, b @ h]))
        return h - s * (x * a + y * b)

    return Twin(name, ProjectOut.span(torch.stack([a, b]).float()), naive)


def _clamp(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    vector, value = random(d), float(2 * random(1))
    unit = vector.double() / vector.double().norm()
    return Twin(name, Clamp(vector, value), lambda h, s: h + s * (value - float(h @ unit)) * unit)


def _rotate(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    vector = random(d)
    unit = vector.double() / vector.double().norm()

    def naive(h: Tensor, s: float) -> Tensor:
        # spherical interpolation between h and the direction
        length = float(h.norm())
        angle = math.acos(max(-1.0, min(1.0, float(h @ unit) / length)))
        after = min(max(angle - s, 0.0), math.pi)
        turned = angle - after
        return (math.sin(angle - turned) * h / length + math.sin(turned) * unit) / math.sin(angle) * length

    return Twin(name, Rotate(vector), naive)


def _affine(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    weight, bias = 1 + 0.3 * random(d), 0.3 * random(d)

    def naive(h: Tensor, s: float) -> Tensor:
        return (1 - s) * h + s * (weight.double() * h + bias.double())

    return Twin(name, AffineMap(weight, bias), naive)


def _matrix(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    weight, bias = torch.eye(d) + 0.2 * random(d, d) / math.sqrt(d), 0.3 * random(d)

    def naive(h: Tensor, s: float) -> Tensor:
        mapped = torch.einsum("ij,j->i", weight.double(), h) + bias.double()
        return (1 - s) * h + s * mapped

    return Twin(name, AffineMap(weight, bias), naive)


def _low_rank(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    r = min(3, d)
    rotation = torch.linalg.qr(random(d, r)).Q.T.contiguous()
    weight, bias = 0.3 * random(r, d), random(r)

    def naive(h: Tensor, s: float) -> Tensor:
        new = h.clone()
        for row, w, b in zip(rotation.double(), weight.double(), bias.double(), strict=True):
            new += s * (w @ h + b - row @ h) * row
        return new

    return Twin(name, LowRank(rotation, weight, bias), naive)


def _neurons(name: str, d: int, random: Callable[..., Tensor]) -> Twin:
    chosen = [d - 1, 0, d // 2][: min(3, d)] if d > 2 else [0]
    values = 2 * random(len(chosen))

    def naive(h: Tensor, s: float) -> Tensor:
        new = h.clone()
        for neuron, value in zip(chosen, values.tolist(), strict=True):
            new[neuron] = (1 - s) * h[neuron] + s * value
        return new

    return Twin(name, SetNeurons(torch.tensor(chosen), values, d), naive)


_MAKERS = dict(
    zip(
        OPERATIONS,
        (_add, _project, _project_two, _clamp, _rotate, _affine, _matrix, _low_rank, _neurons),
        strict=True,
    )
)

Factor = Callable[[int], float]
"""From a row of the batch to the strength of a step there."""


@dataclass(frozen=True)
class NaiveStep:
    """A step, its operation written out, and its strength in every row, weights and gates included."""

    step: Step
    naive: Naive
    strength: Factor


def changes_of(steps: Sequence[NaiveStep], prompts: Prompts, tokens: Tensor) -> list[Change]:
    """What :func:`naive_interventions.edits_of` takes, for a run over ``tokens``."""
    return [_change(one, prompts, tokens) for one in steps]


def _change(one: NaiveStep, prompts: Prompts, tokens: Tensor) -> Change:
    where, site = one.step.where, one.step.site
    chosen = {
        (row, p)
        for row in (range(len(tokens)) if site.rows is None else site.rows)
        for p in _chosen_by(where, prompts, tokens, row, len(prompts.columns_of(row, tokens.shape[1])))
    }

    def rule(vector: Tensor, spot: tuple[int, int, int], layer: int) -> Tensor:
        row, _, position = spot
        if (row, position) not in chosen:
            return vector
        flat = one.naive(vector.reshape(-1).double(), one.strength(row))
        return flat.reshape(vector.shape)

    return Change(Intervention(one.step.site, "naive", lambda part, place: (part, None)), rule)


def _chosen_by(where: Where | None, prompts: Prompts, tokens: Tensor, row: int, n: int) -> set[int]:
    """Positions of a row that a rule chooses."""
    if where is None:
        return set(range(n))
    ids = [int(tokens[row, column]) for column in prompts.columns_of(row, tokens.shape[1])]
    if isinstance(where, TextPattern):
        return _pattern_positions(where, [word_of(token) for token in ids])
    assert isinstance(where, InstructionEnd)
    length, template = prompts.length(row), list(where.template)
    ends = [p for p in range(1, length) if ids[p : min(p + len(template), length)] == template]
    return {ends[-1] - 1}


def word_of(token: int) -> str:
    """Text of a token of ``word_tokenizer``."""
    return ("<bos>", "<unk>")[token] if token < 2 else f"w{token}"


def _pattern_positions(where: TextPattern, words: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for p in range(len(words)):
        before, text = "".join(words[:p]), "".join(words[: p + 1])
        ends = [match.end() for match in re.finditer(where.pattern, text) if match.group()]
        if ends and max(ends) > len(before):
            found.add(p)
    if where.part == "match":
        return found
    return set(range(min(found) + 1, len(words))) if found else set()


def naive_logits(
    on: Specimen, steps: Sequence[NaiveStep], prompts: Prompts, tokens: Tensor, labels: dict
) -> Tensor:
    """Logits [batch, pos, d_vocab] of the model steered, over a prompt and what follows."""
    real = torch.ones_like(tokens).bool()
    real[:, : prompts.tokens.shape[1]] = prompts.real
    changes = changes_of(steps, prompts, tokens)
    edits = edits_of(changes, prompts, on.model.traits.n_layers, labels, tokens.shape[1])
    return on.naive(tokens, real, edits=edits)


def naive_steps(steering: Steering, twins: Sequence[Twin], strength: Factor) -> list[NaiveStep]:
    """The steps of a steering without a gate, its operations written out."""
    return [
        NaiveStep(step, twin.naive, lambda row, weight=step.weight: weight * strength(row))  # type: ignore[misc]
        for step, twin in zip(steering.steps, twins, strict=True)
    ]
