"""Directions side by side: quality, cosines, and steerings made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_coders import random_coder

import interp
from interp.errors import RecordError, SteeringError
from interp.steering.contrast import ContrastRows
from interp.steering.extract import DIRECTIONS, extract_directions, extract_steering, steering_from
from interp.steering.extract.compare import compare_cosines, space_of
from interp.steering.extract.directions import find_direction
from interp.steering.extract.judge import judge_direction
from interp.types import parse_site


@pytest.fixture(scope="module")
def model(make_hf_model):
    return interp.load_model(make_hf_model("gpt2"))


@pytest.fixture(scope="module")
def sides():
    """Prompts that begin with one token or another."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(10, 53, (2, 24, 5), generator=draw)
    tokens[0, :, 0], tokens[1, :, 0] = 3, 4
    return tokens


@pytest.fixture(scope="module")
def found(model, sides):
    coders = {
        "sae": random_coder("topk", 36, sites=("resid_post[0]",)),
        "transcoder": random_coder("transcoder", 36, sites=("mlp_in[1]",), targets=("mlp_out[1]",)),
    }
    return extract_directions(
        model,
        *sides,
        ["resid_post[0]", "mlp_post[1]"],
        coders=coders,
        n_latents=4,
        n_bootstrap=8,
        paired=False,
    )


def test_every_method_at_every_site_from_one_pass(found, model, sides):
    n = len(DIRECTIONS)
    assert found.methods == (*DIRECTIONS, *DIRECTIONS, *DIRECTIONS, "sae", "transcoder")
    assert found.sites == ("resid_post[0]",) * n + ("mlp_post[1]",) * n + ("mlp_out[1]",) * n + (
        "resid_post[0]", "mlp_out[1]",
    )  # fmt: skip
    for site in ("resid_post[0]", "mlp_post[1]"):
        for method in DIRECTIONS:
            one = extract_steering(model, *sides, site, method, calibrate=False, judge=False, paired=False)
            torch.testing.assert_close(found.direction(method, site), one.direction())


def test_cosines_equal_those_of_two_vectors_and_are_missing_between_spaces(found):
    spaces = [space_of(parse_site(site)) for site in found.sites]
    assert set(spaces) == {"residual stream", "mlp_post[1]"}
    for i, a in enumerate(found.directions):
        for j, b in enumerate(found.directions):
            cosine = float(found.cosines[i, j])
            if spaces[i] == spaces[j]:
                assert cosine == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-5)
            else:
                assert np.isnan(cosine)
    assert found.cosine("pca", "lda", "mlp_post[1]") == pytest.approx(
        float(
            torch.cosine_similarity(
                found.direction("pca", "mlp_post[1]"), found.direction("lda", "mlp_post[1]"), 0
            )
        ),
        abs=1e-5,
    )


def test_spaces():
    same = {
        space_of(parse_site(s))
        for s in ("embed", "resid_pre[0]", "resid_mid[3]", "attn_out[1]", "mlp_out[2]")
    }
    assert same == {"residual stream"}
    apart = ("mlp_in[1]", "mlp_post[1]", "mlp_post[2]", "mlp_pre[1]", "z[1]", "z[1.2]")
    assert len({space_of(parse_site(s)) for s in apart} | same) == len(apart) + 1
    both = compare_cosines([torch.tensor([1.0, 1.0]), torch.tensor([0.0, 2.0])], ["a", "a"])
    torch.testing.assert_close(both, torch.tensor([[1.0, 0.5**0.5], [0.5**0.5, 1.0]]))


def naive_auc(rows: ContrastRows, direction: torch.Tensor) -> float:
    p, n = rows.positive @ direction, rows.negative @ direction
    return float((p[:, None] > n).float().mean() + (p[:, None] == n).float().mean() / 2)


def make_rows(n: int, apart: float, paired: bool = False, seed: int = 0, d: int = 6) -> ContrastRows:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, d, generator=draw)
    return ContrastRows(x[0] + apart * torch.ones(d), x[1], paired)


@pytest.mark.parametrize("paired", [False, True])
def test_quality_is_of_prompts_held_out_and_of_refits(paired):
    # many entries and little to find: fitted on its own rows a direction would look good
    rows = make_rows(24, 0.1, paired, d=60)

    def fit(part: ContrastRows) -> torch.Tensor:
        return find_direction(part, "mean-difference")

    judged = judge_direction(rows, fit, n_bootstrap=15, seed=3)
    train, test = rows.split(0.25, 3)
    assert len(test.positive) == 6
    assert judged.auc.value == pytest.approx(naive_auc(test, fit(train)))
    assert judged.auc.value < naive_auc(test, fit(rows)) - 0.1
    generator = torch.Generator().manual_seed(3)
    cosines = [
        float(torch.cosine_similarity(fit(rows.resampled(generator)), fit(rows), dim=0).abs())
        for _ in range(15)
    ]
    wanted = (np.mean(cosines), *np.quantile(cosines, (0.025, 0.975)))
    assert (judged.stability.value, judged.stability.low, judged.stability.high) == pytest.approx(
        wanted, abs=1e-6
    )
    assert judged.auc.low <= judged.auc.value <= judged.auc.high


def test_quality_where_all_or_nothing_is_to_be_found():
    clear = judge_direction(make_rows(200, 5.0), lambda r: find_direction(r, "pca"))
    assert clear.auc.value == clear.auc.low == clear.auc.high == 1.0
    assert clear.stability.low > 0.98
    nothing = judge_direction(make_rows(200, 0.0), lambda r: find_direction(r, "mean-difference"))
    assert nothing.auc.low < 0.5 < nothing.auc.high
    assert nothing.stability.value < 0.9


def test_a_refit_that_finds_nothing_counts_as_0():
    rows = make_rows(4, 2.0)

    def fit(part: ContrastRows) -> torch.Tensor:
        if len(part.positive.unique(dim=0)) < 3:
            raise SteeringError("too few")
        return part.mean_difference

    judged = judge_direction(rows, fit, n_bootstrap=200)
    assert judged.stability.low == 0.0
    # of four rows drawn with replacement a third are of at most two
    assert 0.5 < judged.stability.value < 0.75
    with pytest.raises(SteeringError, match="n_bootstrap must be at least 1"):
        judge_direction(rows, lambda r: find_direction(r, "pca"), n_bootstrap=0)
    with pytest.raises(SteeringError, match="cannot be parted"):
        judge_direction(make_rows(1, 1.0), lambda r: r.mean_difference)


def test_a_steering_of_a_row_moves_the_site_by_it(found, model, sides):
    for method, site in (("lda", "resid_post[0]"), ("transcoder", None), ("pca", "mlp_post[1]")):
        steering = steering_from(found, method, site)
        (step,) = steering.steps
        with torch.no_grad():
            before = interp.capture(model, sides[0], step.site)[step.site]
            with steering.apply(model, strength=2.0):
                after = interp.capture(model, sides[0], step.site)[step.site]
        wanted = 2 * found.direction(method, str(step.site))
        torch.testing.assert_close(after - before, wanted.expand_as(before), atol=1e-4, rtol=1e-4)
        assert steering.figures["auc"] == pytest.approx(found.auc_of(method, str(step.site)).value)
    with pytest.raises(RecordError, match="say one of them"):
        steering_from(found, "lda")


def test_the_mean_difference_brings_one_side_to_where_the_other_is(make_hf_model, family, sides):
    """Predict, then intervene, end to end: steered negative prompts have the mean of the positive ones."""
    model = interp.load_model(make_hf_model(family))
    steering = extract_steering(model, *sides, "resid_post[1]", calibrate=False)
    with torch.no_grad():
        wanted = interp.capture(model, sides[0], "resid_post[1]")["resid_post[1]"].mean((0, 1))
        with steering.apply(model, strength=1.0):
            steered = interp.capture(model, sides[1], "resid_post[1]")["resid_post[1]"].mean((0, 1))
    torch.testing.assert_close(steered, wanted, atol=1e-4, rtol=1e-4)


def test_figures_come_with_a_steering_where_prompts_are_enough(model, sides):
    one = extract_steering(model, *sides, "resid_post[1]", "lda", calibrate=False)
    assert set(one.figures) == {"auc", "stability"}
    assert 0 <= one.figures["auc"] <= 1
    two = extract_steering(model, *sides, "resid_post", calibrate=False)
    assert set(two.figures) == {f"{f} resid_post[{i}]" for f in ("auc", "stability") for i in (0, 1)}
    assert not extract_steering(model, *sides, "embed", calibrate=False, judge=False).figures
    few = extract_steering(model, *sides[:, :3], "embed", calibrate=False)
    assert not few.figures
    assert few.method == "mean-difference"


def test_bad_requests(model, sides):
    def run(**options):
        return extract_directions(model, *sides, "embed", n_bootstrap=2, **options)

    with pytest.raises(SteeringError, match="did you mean 'logistic'"):
        run(methods=("logistics",))
    with pytest.raises(SteeringError, match="each once"):
        run(methods=("pca", "pca"))
    with pytest.raises(SteeringError, match="give methods or coders"):
        run(methods=())
    with pytest.raises(SteeringError, match="named pca, as methods are"):
        run(coders={"pca": random_coder("topk", 36, sites=("resid_post[0]",))})
    # both sides begin with one token or the other: pairs of the same rest differ by one vector
    same = sides[:1].repeat(2, 1, 1)
    same[1, :, 0] = 4
    with pytest.raises(SteeringError, match="centred-pca at embed: centred-pca found no direction"):
        extract_directions(model, *same, "embed", n_bootstrap=2, paired=True)
