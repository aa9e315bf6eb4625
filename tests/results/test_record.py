"""What all records share: checked axes, and files that give back what was saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.errors import DataFileError, RecordError
from interp.results import Provenance, Record
from interp.results.storage import save_record


@dataclass(frozen=True)
class Inner:
    name: str
    weight: float = 0.5
    extra: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sample(Record):
    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {"a": ("row", "column"), "b": ("column",)}

    a: Tensor
    names: tuple[str, ...]
    b: Tensor | None = None
    pairs: tuple[tuple[int, str], ...] = ()
    by_id: dict[int, str] = field(default_factory=dict)
    inner: dict[str, Inner] = field(default_factory=dict)
    maybe: float | None = None
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        self._check_axes(row=len(self.names))


def same(x, y) -> bool:
    """Equality that looks into tensors and takes NaN for NaN."""
    if type(x) is not type(y):
        return False
    if isinstance(x, Tensor):
        return (
            x.dtype == y.dtype
            and torch.equal(x.isnan(), y.isnan())
            and torch.equal(x.nan_to_num(), y.nan_to_num())
        )
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(same(x[key], y[key]) for key in x)
    if isinstance(x, tuple):
        return len(x) == len(y) and all(map(same, x, y))
    if hasattr(x, "__dataclass_fields__"):
        return all(same(getattr(x, f.name), getattr(y, f.name)) for f in fields(x))
    return x == y or (x != x and y != y)


text = st.text(max_size=8)


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(text, max_size=4),
    pairs=st.lists(st.tuples(st.integers(-5, 5), text), max_size=3),
    by_id=st.dictionaries(st.integers(0, 10**6), text, max_size=3),
    inner=st.dictionaries(text.filter(bool), st.tuples(text, st.booleans()), max_size=3),
    maybe=st.one_of(st.none(), st.floats()),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64]),
)
def test_round_trip(tmp_path_factory, names, pairs, by_id, inner, maybe, dtype):
    a = torch.arange(len(names) * 3).reshape(-1, 3).to(dtype)
    if dtype.is_floating_point and names:
        a[0, 0] = float("nan")
    record = Sample(
        a=a,
        names=tuple(names),
        pairs=tuple(pairs),
        by_id=by_id,
        inner={key: Inner(name, extra=torch.ones(2) if has else None) for key, (name, has) in inner.items()},
        maybe=maybe,
        provenance=Provenance(model="m", n_prompts=3, notes=("a", "b")),
    )
    path = record.save(tmp_path_factory.mktemp("records") / "r")
    assert same(Sample.load(path), record)


def test_shapes_are_checked_against_labels_and_each_other():
    with pytest.raises(RecordError, match=r"Sample\.a must be \[row=2, column\]; got shape \[3, 4\]"):
        Sample(torch.zeros(3, 4), ("x", "y"))
    with pytest.raises(RecordError, match=r"Sample\.b must be \[column=4\]; got shape \[5\]"):
        Sample(torch.zeros(2, 4), ("x", "y"), b=torch.zeros(5))
    with pytest.raises(RecordError, match=r"got shape \[2\]"):
        Sample(torch.zeros(2), ("x", "y"))


def test_what_cannot_be_saved_is_named(tmp_path):
    record = Sample(torch.zeros(1, 1), ("x",), inner={"k": Inner(name=object())})
    with pytest.raises(RecordError, match=r"inner\.k\.name: .*type object"):
        record.save(tmp_path / "r")


@pytest.mark.parametrize(
    "packed",
    [
        {"a": {"tensor at": "a"}},  # a field is missing
        {"a": {"tensor at": "gone"}, "names": []},
        {"a": {"tensor at": "a"}, "names": ["x"], "newer": 1},
        {"a": {"tensor at": "a"}, "names": ["one", "too many"]},
        {"a": {"tensor at": "a"}, "names": ["x"], "by_id": {"not a number": "t"}},
        {"a": {"tensor at": "a"}, "names": ["x"], "inner": {"k": "text"}},
    ],
)
def test_files_that_do_not_hold_the_fields(tmp_path, packed):
    path = save_record(
        tmp_path / "r", "Sample", {"a": torch.zeros(1, 2)}, json.loads(json.dumps({"fields": packed}))
    )
    with pytest.raises(DataFileError, match="does not hold the fields of Sample"):
        Sample.load(path)


def test_provenance_of_a_newer_version_loads(tmp_path):
    packed = {
        "a": {"tensor at": "a"},
        "names": ["x"],
        "provenance": {"model": "m", "notes": ["n"], "invented later": 1},
    }
    path = save_record(tmp_path / "r", "Sample", {"a": torch.zeros(1, 2)}, {"fields": packed})
    assert Sample.load(path).provenance.notes == ("n",)
