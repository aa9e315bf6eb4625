"""Every operation against its formula written out in float64, its identities, gradients, and bad inputs."""

from __future__ import annotations

import math

import pytest
import torch
from naive_steering import OPERATIONS, make_operation_twin
from torch import Tensor

from interp.errors import SiteError, SteeringError
from interp.steering.operations import (
    OPERATIONS as KINDS,
)
from interp.steering.operations import (
    Add,
    AffineMap,
    Clamp,
    LowRank,
    Operation,
    ProjectOut,
    Rotate,
    SetNeurons,
    make_operation,
    span_of,
)

WIDE = torch.ones(1, dtype=torch.float64)
SIZES = pytest.mark.parametrize("d", [2, 7, 36])
EACH = pytest.mark.parametrize("name", OPERATIONS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wide(operation: Operation) -> Operation:
    return operation.to(WIDE)


@SIZES
@EACH
def test_each_is_its_formula_at_every_strength_and_shape(name: str, d: int):
    twin = make_operation_twin(name, d, seed=d)
    h = 2 * random(3, 5, d)
    for strength in (0.0, 0.3, -0.7, 1.0, 1.6):
        expected = torch.stack([torch.stack([twin.naive(v, strength) for v in row]) for row in h])
        found = wide(twin.operation).change(h, strength)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-6)


@EACH
def test_strengths_may_differ_by_row_and_token(name: str):
    twin = make_operation_twin(name, 7, seed=3)
    operation = wide(twin.operation)
    h, strength = random(3, 5, 7), random(3, 5, 1, seed=1)
    expected = torch.stack(
        [torch.stack([twin.naive(h[i, j], float(strength[i, j])) for j in range(5)]) for i in range(3)]
    )
    torch.testing.assert_close(operation.change(h, strength), expected, atol=2e-6, rtol=1e-6)
    by_row = operation.change(h, strength[:, :1])
    torch.testing.assert_close(by_row[1], operation.change(h[1], float(strength[1, 0])))


@EACH
def test_gradients_are_those_of_the_formula(name: str):
    """To the activation, to the strength and to every tensor it is made of."""
    twin = make_operation_twin(name, 6, seed=5)
    tensors = {key: v.double() if v.is_floating_point() else v for key, v in twin.operation.tensors().items()}
    leaves = {key: v.requires_grad_() for key, v in tensors.items() if v.is_floating_point()}
    operation = type(twin.operation)(**tensors, **twin.operation.numbers())
    h, strength = random(4, 6, seed=6).requires_grad_(), torch.full((4, 1), 0.4).double().requires_grad_()

    def run(h: Tensor, strength: Tensor) -> Tensor:
        return operation.change(h, strength)

    assert torch.autograd.gradcheck(run, (h, strength))
    for key, leaf in leaves.items():
        (found,) = torch.autograd.grad((operation.change(h, strength) * random(4, 6)).sum(), leaf)
        step = 1e-6 * random(*leaf.shape, seed=7)
        with torch.no_grad():
            made = [
                type(operation)(**{**tensors, key: leaf + sign * step}, **operation.numbers())
                for sign in (1, -1)
            ]
            up, down = ((one.change(h, strength) * random(4, 6)).sum() for one in made)
        assert float((found * step).sum()) == pytest.approx(float(up - down) / 2, rel=1e-4, abs=1e-12), key


@EACH
def test_it_does_not_write_into_what_it_is_given(name: str):
    h = random(3, 7)
    before = h.clone()
    wide(make_operation_twin(name, 7).operation).change(h, 0.8)
    assert torch.equal(h, before)


def test_project_out_takes_the_coordinates_and_nothing_else():
    directions = random(2, 9)
    operation = ProjectOut.span(directions)
    h = random(50, 9, seed=1)
    new = operation.change(h, 1.0)
    assert float((new @ directions.T).abs().max()) < 1e-12
    torch.testing.assert_close(operation.change(new, 1.0), new)
    outside = h - (h @ operation.directions.T) @ operation.directions
    torch.testing.assert_close(new, outside)
    torch.testing.assert_close(operation.change(h, 2.0).norm(dim=-1), h.norm(dim=-1))


def test_clamp_at_one_is_the_value_for_a_direction_of_any_length():
    direction, h = 4 * random(9), random(50, 9, seed=1)
    for value in (-3.0, 0.0, 2.5):
        new = Clamp(direction, value).change(h, 1.0)
        torch.testing.assert_close(
            new @ direction / direction.norm(), torch.full((50,), value, dtype=torch.float64)
        )
        # the rest stays
        torch.testing.assert_close(
            ProjectOut.span(direction).change(new, 1.0), ProjectOut.span(direction).change(h, 1.0)
        )


def angles(h: Tensor, direction: Tensor) -> Tensor:
    return torch.acos((torch.nn.functional.cosine_similarity(h, direction, dim=-1)).clamp(-1, 1))


def test_rotate_keeps_the_length_and_turns_by_the_strength_and_no_further():
    direction, h = 3 * random(9), 2 * random(60, 9, seed=1)
    before = angles(h, direction)
    for strength in (0.2, 0.9, -0.4, 5.0, -5.0):
        new = Rotate(direction).change(h, strength)
        torch.testing.assert_close(new.norm(dim=-1), h.norm(dim=-1))
        expected = (before - strength).clamp(0, math.pi)
        torch.testing.assert_close(angles(new, direction), expected, atol=1e-7, rtol=1e-6)
        # in the plane of both
        plane = ProjectOut.span(torch.stack([h[0], direction]))
        assert float(plane.change(new[0], 1.0).norm()) < 1e-10


def test_rotate_leaves_what_spans_no_plane_with_the_direction():
    direction = torch.tensor([1.0, 2.0, 0.0])
    for h in (torch.zeros(3), 2 * direction, -direction):
        h = h.clone().requires_grad_()
        new = Rotate(direction).change(h, 0.3)
        assert torch.equal(new, h)
        (grad,) = torch.autograd.grad(new.sum(), h)
        assert bool(torch.isfinite(grad).all())


def test_affine_at_one_is_the_map():
    h, weight, bias = random(5, 4), random(4, 4, seed=1), random(4, seed=2)
    torch.testing.assert_close(AffineMap(weight, bias).change(h, 1.0), h @ weight.T + bias)
    torch.testing.assert_close(AffineMap(weight[0], bias).change(h, 1.0), h * weight[0] + bias)


def test_low_rank_is_loreft():
    """Wu et al. 2024, eq. 2, as printed: h + R^T (W h + b - R h); inside the span it is W h + b."""
    rotation = torch.linalg.qr(random(6, 2)).Q.T
    weight, bias, h = random(2, 6, seed=1), random(2, seed=2), random(6, seed=3)
    new = LowRank(rotation, weight, bias).change(h, 1.0)
    torch.testing.assert_close(new, h + rotation.T @ (weight @ h + bias - rotation @ h))
    torch.testing.assert_close(rotation @ new, weight @ h + bias)


def test_set_neurons_sets_those_and_no_other():
    h = random(4, 8)
    new = SetNeurons(torch.tensor([6, 1]), torch.tensor([3.0, -2.0], dtype=torch.float64), 8).change(h, 1.0)
    assert new[:, 6].tolist() == [3.0] * 4
    assert new[:, 1].tolist() == [-2.0] * 4
    rest = [0, 2, 3, 4, 5, 7]
    assert torch.equal(new[:, rest], h[:, rest])


def test_full_strength_is_where_it_has_done_all_it_does():
    """At it, and beyond it for a rotation, what it is for is reached."""
    assert {kind: one.full_strength for kind, one in KINDS.items()} == {
        "add": None, "project-out": 1.0, "clamp": 1.0, "rotate": math.pi, "affine": None, "low-rank": None,
        "set-neurons": 1.0,
    }  # fmt: skip
    h, direction = random(20, 5), random(5, seed=1)
    ended = Rotate(direction).change(h, math.pi)
    torch.testing.assert_close(ended, h.norm(dim=-1, keepdim=True) * direction / direction.norm())


@EACH
def test_parts_make_it_again(name: str):
    operation = make_operation_twin(name, 7).operation
    again = make_operation(operation.kind, operation.tensors(), operation.numbers())
    h = random(3, 7).float()
    assert type(again) is type(operation)
    assert again.d == operation.d == 7
    assert torch.equal(again.change(h, 0.7), operation.change(h, 0.7))


@EACH
def test_to_is_at_least_single_precision(name: str):
    operation = make_operation_twin(name, 7).operation
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        moved = operation.to(torch.ones(1, dtype=dtype))
        kinds = {value.dtype for value in moved.tensors().values() if value.is_floating_point()}
        assert kinds == {expected}


NAN = torch.tensor([1.0, float("nan")])
EYE = torch.eye(3)
BAD = [
    (lambda: Add(torch.zeros(3)), "add got a direction that is zero"),
    (lambda: Add(torch.zeros(2, 3)), r"one finite direction \[d\]; got torch.float32 of shape \[2, 3\]"),
    (lambda: Add(torch.tensor([1, 2])), r"got torch.int64 of shape \[2\]"),
    (lambda: Rotate(NAN), "with NaN or infinite entries"),
    (lambda: Clamp(EYE[0], math.inf), "clamp takes a finite value; got inf"),
    (lambda: ProjectOut(2 * EYE), r"orthonormal directions .* these are off by 3"),
    (lambda: ProjectOut(EYE[0]), r"directions \[k, d\]; got shape \[3\]"),
    (lambda: ProjectOut(torch.zeros(0, 3)), r"got shape \[0, 3\]"),
    (lambda: ProjectOut(torch.full((1, 3), float("nan"))), "off by nan"),
    (lambda: AffineMap(torch.ones(2), torch.ones(3)), r"a weight \[3\] or \[3, 3\]; got \[2\]"),
    (lambda: AffineMap(torch.ones(3, 2), torch.ones(3)), r"got \[3, 2\]"),
    (lambda: AffineMap(torch.ones(2), NAN), "affine got NaN or infinite entries in its bias"),
    (lambda: LowRank(EYE, EYE[:2], torch.ones(3)), r"R \[3, 3\] takes W of the same shape"),
    (lambda: LowRank(EYE, EYE, torch.ones(2)), r"b \[2\]"),
    (lambda: LowRank(EYE[:2, :2], torch.eye(2), NAN), "entries in its bias"),
    (lambda: SetNeurons(torch.tensor([0, 0]), torch.ones(2), 3), r"different numbers in 0..2; got \[0, 0\]"),
    (lambda: SetNeurons(torch.tensor([3]), torch.ones(1), 3), r"got \[3\]"),
    (lambda: SetNeurons(torch.tensor([-1]), torch.ones(1), 3), r"got \[-1\]"),
    (lambda: SetNeurons(torch.tensor([], dtype=torch.long), torch.ones(0), 3), r"got \[0\] and \[0\]"),
    (lambda: SetNeurons(torch.tensor([0, 1]), NAN, 3), "entries in its values"),
    (lambda: make_operation("ad", {}, {}), "add"),
    (lambda: make_operation("add", {}, {}), r"has the fields \['vector'\]; got \[\]"),
    (lambda: make_operation("add", {"vector": EYE[0]}, {"value": 1}), r"got \['value', 'vector'\]"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_parts(make, message: str):
    with pytest.raises(SteeringError, match=message):
        make()


def test_dependent_directions_span_nothing_new():
    with pytest.raises(SiteError, match="2 directions span only 1"):
        span_of(torch.stack([EYE[0], 2 * EYE[0]]))
