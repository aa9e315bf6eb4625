"""Which token each column is: positions under padding, a KV cache and generation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive_interventions import Prompts, spots_of
from torch import Tensor

from interp.errors import InterventionError
from interp.models.positions import Columns, Prompt
from interp.types import Site, Span


@st.composite
def prompts(draw: st.DrawFn) -> Prompts:
    rows, n = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    side = draw(st.sampled_from(["left", "right", "mixed"]))
    mask = torch.zeros(rows, n).bool()
    for row in range(rows):
        length = draw(st.integers(1, n))
        start = {"left": n - length, "right": 0, "mixed": draw(st.integers(0, n - length))}[side]
        mask[row, start : start + length] = True
    return Prompts(torch.zeros(rows, n).long(), mask)


ONE = st.one_of(
    st.integers(-1, 9),
    st.sampled_from(["S", "END", "all", "pos", "gen"]),
    st.builds(Span, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9)),
)


@given(prompts(), st.lists(ONE, min_size=1, max_size=3), st.integers(0, 4), st.data())
def test_columns_chosen_one_by_one(
    given_prompts: Prompts, positions: list[int | str | Span], new: int, data: st.DataObject
):
    """In one forward or in any split of it into cached steps, the same columns are chosen."""
    rows, n = given_prompts.tokens.shape
    labels = {"S": torch.tensor([data.draw(st.integers(0, 6)) for _ in range(rows)])}
    chosen_rows = data.draw(st.none() | st.sets(st.integers(0, rows - 1), min_size=1).map(sorted).map(tuple))
    site = Site("z", positions=tuple(positions), rows=chosen_rows)
    expected = torch.zeros(rows, n + new).bool()
    for row, column, _ in spots_of(site, given_prompts, labels, n + new):
        expected[row, column] = True
    prompt = Prompt.from_mask(rows, n, given_prompts.mask)
    whole = Columns(prompt, 0, n + new).select(site, labels)
    assert torch.equal(whole, expected)
    steps = [Columns(prompt, 0, n), *(Columns(prompt, n + step, 1) for step in range(new))]
    assert torch.equal(torch.cat([step.select(site, labels) for step in steps], dim=1), expected)


@given(prompts(), st.integers(0, 3))
def test_positions_count_real_tokens(given_prompts: Prompts, new: int):
    rows, n = given_prompts.tokens.shape
    columns = Columns(Prompt.from_mask(rows, n, given_prompts.mask), 0, n + new)
    for row in range(rows):
        order = given_prompts.columns_of(row, n + new)
        for column in range(n + new):
            expected = order.index(column) if column in order else -1
            assert columns.positions[row, column] == expected
            assert bool(columns.real[row, column]) == (column in order)


def test_by_example():
    """A row padded on the left, one on the right, and two generated tokens."""
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]).bool()
    columns = Columns(Prompt.from_mask(2, 5, mask), 0, 7)
    assert columns.positions.tolist() == [[-1, -1, 0, 1, 2, 3, 4], [0, 1, 2, 3, -1, 4, 5]]

    def at(text_site: Site) -> list[list[int]]:
        chosen = columns.select(text_site, {"S": torch.tensor([1, 3])})
        return [row.nonzero()[:, 0].tolist() for row in chosen]

    site = Site("z")
    assert at(site) == [[2, 3, 4, 5, 6], [0, 1, 2, 3, 5, 6]]
    assert at(site.at(-1)) == at(site.at("END")) == [[4], [3]]
    assert at(site.at(0)) == [[2], [0]]
    assert at(site.at(3)) == [[5], [3]]
    assert at(site.at("gen")) == [[5, 6], [5, 6]]
    assert at(site.at("S")) == [[3], [3]]
    assert at(site.at(Span(1, 3))) == [[3, 4], [1, 2]]
    assert at(site.at(Span(-2, None))) == [[3, 4, 5, 6], [2, 3, 5, 6]]
    assert at(site.at(Span(None, -1))) == [[2, 3], [0, 1, 2]]
    assert at(site.at(0, "END").for_rows(1)) == [[], [0, 3]]


def test_repeated_prompts_are_one_row_of_the_site():
    """Beams stand side by side: rows and labels are of prompts."""
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]]).bool()
    one = Prompt.from_mask(2, 3, mask)
    three = Prompt(3, one.offsets.repeat_interleave(3), one.lengths.repeat_interleave(3), repeats=3)
    labels = {"S": torch.tensor([0, 2])}
    assert three.n_prompts == 2
    for site in (Site("z").for_rows(1), Site("z").at("S"), Site("z").at(-2).for_rows(0)):
        single = Columns(one, 0, 3).select(site, labels)
        assert torch.equal(Columns(three, 0, 3).select(site, labels), single.repeat_interleave(3, 0))


def _select(site: Site, labels: dict[str, Tensor] | None = None) -> Tensor:
    return Columns(Prompt.from_mask(2, 4, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])), 0, 4).select(
        site, labels or {}
    )


@pytest.mark.parametrize(
    ("site", "labels", "message"),
    [
        (Site("z").at(-3), {}, "counts 3 tokens back from the end, but row 0 has a prompt of 2 tokens"),
        (
            Site("z").at("S9"),
            {"S1": torch.zeros(2)},
            "unknown position label in site z@S9 'S9'; did you mean 'S1'",
        ),
        (
            Site("z").at("S"),
            {"S": torch.zeros(3)},
            r"label 'S' has shape \(3,\); expected one .* of the 2 rows",
        ),
        (Site("z").for_rows(1, 2), {}, r"names batch rows \[2\], but the batch has 2 rows"),
    ],
)
def test_positions_that_are_not_there(site: Site, labels: dict[str, Tensor], message: str):
    with pytest.raises(InterventionError, match=message):
        _select(site, labels)


def test_a_label_of_its_own_stands_before_the_built_in_end():
    assert _select(Site("z").at("END"), {"END": torch.tensor([0, 1])}).nonzero().tolist() == [[0, 2], [1, 1]]
    assert _select(Site("z").at("END")).nonzero().tolist() == [[0, 3], [1, 3]]
