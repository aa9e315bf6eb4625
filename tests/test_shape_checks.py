"""The shape checks themselves: they see what is wrong and leave alone what is right."""

from __future__ import annotations

import sys
import textwrap

import pytest
import shape_checks
import torch

SOURCE = """
from __future__ import annotations
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from jaxtyping import Float, Int
from torch import Tensor
if TYPE_CHECKING:
    from nowhere import Thing

def outer(a: Float[Tensor, "m"], b: Float[Tensor, "n"], thing: Thing | None = None) -> Float[Tensor, "m n"]:
    if a.ndim != 1:
        raise ValueError("our own error")
    return a[:, None] * b[None, :]

def transposed(a: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    return a.T

@dataclass(frozen=True)
class Rows:
    ids: Int[Tensor, "row k"]
    labels: Mapping[str, Int[Tensor, "row"]]

    def __post_init__(self):
        if self.ids.ndim == 1:
            object.__setattr__(self, "ids", self.ids[:, None])

    @property
    def wide(self) -> Int[Tensor, "row"]:
        return self.ids

    @classmethod
    def of(cls, ids: Int[Tensor, "row k"]) -> Rows:
        return cls(ids, {})
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_shapes.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    shape_checks.check_shapes_of("toy_shapes")
    import toy_shapes

    yield toy_shapes
    sys.meta_path[:] = finders
    del sys.modules["toy_shapes"]


def test_fitting_calls_pass(toy):
    assert toy.outer(torch.ones(3), torch.ones(5)).shape == (3, 5)
    assert toy.transposed(torch.eye(4)).shape == (4, 4)
    rows = toy.Rows(torch.arange(3), {"END": torch.arange(3)})
    assert rows.ids.shape == (3, 1)


def test_the_function_s_own_error_comes_first(toy):
    with pytest.raises(ValueError, match="our own error"):
        toy.outer(torch.ones(2, 2), torch.ones(5))


def test_wrong_shapes_and_dtypes_are_seen(toy):
    with pytest.raises(shape_checks.ShapeError, match=r"transposed: return is \(3, 2\)"):
        toy.transposed(torch.ones(2, 3))
    with pytest.raises(shape_checks.ShapeError, match="outer: a is"):
        toy.outer(torch.ones(3).long(), torch.ones(5))
    with pytest.raises(shape_checks.ShapeError, match="Rows: labels is dict"):
        toy.Rows(torch.arange(3), {"END": torch.arange(4)})
    with pytest.raises(shape_checks.ShapeError, match="wide: return is"):
        _ = toy.Rows(torch.arange(3), {}).wide
    with pytest.raises(shape_checks.ShapeError, match="of: ids is"):
        toy.Rows.of(torch.arange(3))


def test_modules_imported_before_are_refused():
    with pytest.raises(RuntimeError, match="imported before"):
        shape_checks.check_shapes_of("torch")
