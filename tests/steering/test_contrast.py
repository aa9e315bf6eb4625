"""Contrasts: rows of both sides, their draws and splits, and what is read from prompts against plain captures."""

from __future__ import annotations

import pytest
import torch
from word_tokenizer import make_tokenizer

import interp
from interp.errors import SteeringError
from interp.models.digest import digest_weights
from interp.steering.contrast import ContrastRows, read_contrast


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_rows(n: int = 8, m: int = 8, d: int = 5, paired: bool = True) -> ContrastRows:
    return ContrastRows(torch.randn(n, d, generator=draw()), torch.randn(m, d, generator=draw(1)), paired)


def rows_of(table: torch.Tensor) -> list[tuple[float, ...]]:
    return [tuple(row) for row in table.tolist()]


def test_differences_and_means():
    rows = make_rows()
    torch.testing.assert_close(rows.mean_difference, rows.differences().mean(0))
    assert torch.equal(rows.differences(), rows.positive - rows.negative)
    free = make_rows(8, 6, paired=False)
    found = free.differences(seed=3)
    assert found.shape == (6, 5)
    assert torch.equal(found, free.differences(seed=3))
    assert not torch.equal(found, free.differences(seed=4))
    # every negative row is taken once, and no positive one twice
    pairs = [
        (i, j)
        for row in found
        for i in range(8)
        for j in range(6)
        if torch.equal(row, free.positive[i] - free.negative[j])
    ]
    assert sorted(j for _, j in pairs) == list(range(6))
    assert len({i for i, _ in pairs}) == 6


def test_stacked_rows_and_labels():
    table, labels = make_rows(3, 2, paired=False).stacked()
    assert table.shape == (5, 5)
    assert labels.tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("paired", [True, False])
def test_draws_keep_pairs_together(paired: bool):
    rows = make_rows(paired=paired)
    again = rows.resampled(draw(2))
    chosen = [rows_of(rows.positive).index(row) for row in rows_of(again.positive)]
    other = [rows_of(rows.negative).index(row) for row in rows_of(again.negative)]
    assert (chosen == other) == paired
    assert len(set(chosen)) < 8
    shuffled = rows.shuffled(draw(2))
    before = rows_of(torch.cat([rows.positive, rows.negative]))
    assert sorted(rows_of(torch.cat([shuffled.positive, shuffled.negative]))) == sorted(before)
    assert not torch.equal(shuffled.positive, rows.positive)
    if paired:
        signs = [
            torch.equal(new, old) or torch.equal(new, -old)
            for new, old in zip(shuffled.differences(), rows.differences(), strict=True)
        ]
        assert all(signs)


@pytest.mark.parametrize("paired", [True, False])
def test_a_split_parts_every_row_once(paired: bool):
    rows = make_rows(paired=paired)
    train, test = rows.split(0.25, seed=1)
    for side in ("positive", "negative"):
        parts = rows_of(getattr(train, side)) + rows_of(getattr(test, side))
        assert sorted(parts) == sorted(rows_of(getattr(rows, side)))
    assert len(test.positive) == len(test.negative) == 2
    if paired:
        both = rows_of(torch.cat([train.differences(), test.differences()]))
        assert sorted(both) == sorted(rows_of(rows.differences()))
    for share in (0.01, float("nan")):
        with pytest.raises(SteeringError, match=f"8 rows cannot be parted with a share of {share}"):
            rows.split(share)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContrastRows(torch.ones(2, 3), torch.ones(2, 4), False), r"got \[2, 3\] and \[2, 4\]"),
        (lambda: ContrastRows(torch.ones(0, 3), torch.ones(2, 3), False), "at least one each"),
        (lambda: ContrastRows(torch.ones(2, 3), torch.ones(1, 3), True), "as many positive rows as negative"),
        (lambda: ContrastRows(torch.ones(2, 3), torch.full((2, 3), torch.nan), True), "NaN or infinity"),
    ],
    ids=range(4),
)
def test_rows_that_do_not_fit(make, message: str):
    with pytest.raises(SteeringError, match=message):
        make()


@pytest.fixture(scope="module")
def model(make_hf_model):
    return interp.load_model(make_hf_model("llama"), tokenizer=make_tokenizer())


POSITIVE = ["w2 w3 w4", "w5", "w6 w7 w8 w9 w2"]
NEGATIVE = ["w3 w3", "w4 w5 w6 w7", "w8"]


def test_what_is_read_is_the_mean_over_a_prompt_s_own_tokens(model):
    """Whatever stands beside it in its batch."""
    sites = ["resid_post[0]", "z[1]", "mlp_post", "resid_pre[1]@-1", "attn_out[0]@0:2"]
    for batch_size in (2, 7):
        found = read_contrast(model, POSITIVE, NEGATIVE, sites, batch_size=batch_size)
        for side, texts in (("positive", POSITIVE), ("negative", NEGATIVE)):
            for i, text in enumerate(texts):
                cache = interp.capture(
                    model, model.to_tokens(text), ["resid_post", "z", "mlp_post", "resid_pre", "attn_out"]
                )
                expected = {
                    "resid_post[0]": cache["resid_post[0]"][0].mean(0),
                    "z[1]": cache["z[1]"][0].flatten(1).mean(0),
                    "mlp_post[0]": cache["mlp_post[0]"][0].mean(0),
                    "mlp_post[1]": cache["mlp_post[1]"][0].mean(0),
                    "resid_pre[1]": cache["resid_pre[1]"][0, -1],
                    "attn_out[0]": cache["attn_out[0]"][0, :2].mean(0),
                }
                for site, value in expected.items():
                    row = getattr(found.at(site), side)[i]
                    torch.testing.assert_close(row, value.detach(), atol=1e-5, rtol=1e-4)
    assert sorted(map(str, found.rows)) == sorted(expected)
    assert found.at("z[1]@-1").paired
    assert found.model_digest == digest_weights(model)
    assert "positive" in found.data
    assert found.provenance.n_prompts == 6


def test_pairs_are_lists_of_equal_size_or_as_said(model):
    assert not read_contrast(model, POSITIVE[:2], NEGATIVE, "resid_post[0]").at("resid_post[0]").paired
    assert (
        not read_contrast(model, POSITIVE, NEGATIVE, "resid_post[0]", paired=False).at("resid_post[0]").paired
    )
    with pytest.raises(SteeringError, match="as many positive rows"):
        read_contrast(model, POSITIVE[:2], NEGATIVE, "resid_post[0]", paired=True)


def test_prompts_and_sites_that_cannot_be_read(model):
    with pytest.raises(SteeringError, match="there are no negative prompts"):
        read_contrast(model, POSITIVE, [], "resid_post[0]")
    with pytest.raises(SteeringError, match="names rows"):
        read_contrast(model, POSITIVE, NEGATIVE, "resid_post[0]#1")
    with pytest.raises(SteeringError, match="chooses no token of a positive prompt of"):
        read_contrast(model, POSITIVE, NEGATIVE, "resid_post[0]@5:7")
    with pytest.raises(SteeringError, match=r"resid_post\[1\] was not read"):
        read_contrast(model, POSITIVE, NEGATIVE, "resid_post[0]").at("resid_post[1]")


@pytest.mark.parametrize("size", [0, -1])
def test_batches_have_a_row(model, size):
    with pytest.raises(SteeringError, match="batch_size is at least 1"):
        read_contrast(model, POSITIVE, NEGATIVE, "resid_post[0]", batch_size=size)
