"""Scores of tokens, and the test of a ranking by masking."""

from __future__ import annotations

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.errors import PatchError
from interp.patching.masking import check_masking
from interp.tasks.metrics import LogitDiff, evaluate_metric


@pytest.fixture(params=["right", "left"])
def task(request):
    return random_task([7, 4, 6], request.param, [2, 1, 0], seed=5)


@pytest.fixture
def model():
    return specimen("gpt2").model


def metric_of(model, task, tokens):
    return evaluate_metric(LogitDiff(), model(tokens, task.attention_mask), task)


def occluded(model, task, position, row):
    """The metric of one prompt with one token's embedding at zero, by another route."""
    with interp.intervene(model, interp.zero(f"embed@{position}#{row}")):
        return metric_of(model, task, task.clean)[row]


def test_exact_scores_are_what_the_metric_loses(model, task):
    scores = interp.attribute_tokens(model, task, method="exact", progress=False)
    with torch.no_grad():
        whole = metric_of(model, task, task.clean)
        assert torch.allclose(scores.metric, whole, atol=1e-5)
        for row, length in enumerate(task.lengths.tolist()):
            for position in range(length):
                lost = whole[row] - occluded(model, task, position, row)
                assert scores.values[row, position] == pytest.approx(float(lost), abs=2e-4)
            assert scores.values[row, length:].isnan().all()


@pytest.mark.parametrize("run", ["clean", "corrupted"])
def test_attribution_against_zero_is_gradient_times_input(model, task, run):
    scores = interp.attribute_tokens(model, task, method="attribution", run=run, progress=False)
    tokens = task.clean if run == "clean" else task.corrupted

    def metric(logits):
        return evaluate_metric(LogitDiff(), logits, task)

    cache = interp.capture(model, tokens, "embed", attention_mask=task.attention_mask, gradients_of=metric)
    product = (cache["embed"] * cache.grads["embed"]).sum(-1)
    for row, (offset, length) in enumerate(zip(task.offsets.tolist(), task.lengths.tolist(), strict=True)):
        own = product[row, offset : offset + length]
        assert torch.allclose(scores.values[row, :length], own, atol=1e-4, rtol=1e-4)
    assert scores.total.shape == (3,)
    assert scores.run == run


def test_against_the_other_prompt_only_changed_tokens_count(model, task):
    scores = interp.attribute_tokens(model, task, against="source", progress=False)
    for row, (offset, length) in enumerate(zip(task.offsets.tolist(), task.lengths.tolist(), strict=True)):
        same = (task.clean == task.corrupted)[row, offset : offset + length]
        found = scores.values[row, :length].abs()
        # values are read off the estimated metric, so what does nothing is rounding
        assert torch.all(found[same] < 1e-5)
        assert found[~same].max() > 1e-3


def test_texts_and_records(model, task, tmp_path):
    scores = interp.attribute_tokens(model, task, progress=False)
    assert [len(row) for row in scores.tokens] == task.lengths.tolist()
    assert abs(scores.top(1)[0][3]) == pytest.approx(float(scores.values.nan_to_num(0).abs().max()), abs=1e-6)
    scores.save(tmp_path / "t.safetensors")
    loaded = interp.TokenScores.load(tmp_path / "t.safetensors")
    assert torch.equal(loaded.values.nan_to_num(9), scores.values.nan_to_num(9))
    assert loaded.tokens == scores.tokens


def test_masking_is_what_masking_by_hand_does(model, task):
    scores = interp.attribute_tokens(model, task, method="exact", progress=False)
    check = check_masking(model, task, scores, fractions=(0.34,), n_random=3, progress=False)
    with torch.no_grad():
        whole = metric_of(model, task, task.clean)
        for row, length in enumerate(task.lengths.tolist()):
            size = max(1, round(0.34 * length))
            order = scores.values[row, :length].abs().argsort(descending=True)
            for found, picked in ((check.most, order[:size]), (check.least, order.flip(0)[:size])):
                site = "embed@" + ",".join(str(int(p)) for p in picked) + f"#{row}"
                with interp.intervene(model, interp.zero(site)):
                    left = metric_of(model, task, task.clean)[row]
                assert found[0, row] == pytest.approx(float((left - whole[row]).abs()), abs=2e-4)
    assert check.random.shape == (1, 3, 3)
    gap = (check.most - check.least).mean()
    assert check.gaps[0].value == pytest.approx(float(gap), abs=1e-5)
    assert check.gaps[0].low <= check.gaps[0].value <= check.gaps[0].high


def test_a_good_ranking_passes_and_its_reverse_fails():
    model = interp.load_model("mix-4l")
    task = interp.tasks.load("ioi", model, n=16, seed=0)
    scores = interp.attribute_tokens(model, task, against="source", method="exact", progress=False)
    check = check_masking(model, task, scores, fractions=(0.1,), progress=False)
    assert check.holds == (True,)
    lowest = -scores.values.abs().nan_to_num(0)
    backwards = torch.where(scores.values.isnan(), torch.nan, 100 + lowest)
    reverse = check_masking(
        model, task, interp.TokenScores(scores.tokens, backwards, scores.metric, "clean", scores.provenance),
        fractions=(0.1,), progress=False,
    )  # fmt: skip
    assert reverse.gaps[0].high < 0


def test_sites_are_masked_together():
    model = interp.load_model("mix-4l")
    task = interp.tasks.load("ioi", model, n=8, seed=0)
    scores = interp.patch(model, task, ["z", "mlp_out"], method="attribution", progress=False)
    check = check_masking(model, task, scores, site="z", fractions=(0.125,), progress=False)
    first = [f"z[{row.index[0]}.{row.index[1]}]" for row in scores.top(2, "z")]
    together = interp.patch_sets(model, task, [first], progress=False)
    base = scores["z"].corrupted
    moved = check.most[0].mean()
    assert moved == pytest.approx(abs(float(together.raw[0]) - base), abs=1e-3)
    assert check.holds == (True,)


def test_wrong_choices(model, task):
    scores = interp.attribute_tokens(model, task, progress=False)
    with pytest.raises(PatchError, match="fractions"):
        check_masking(model, task, scores, fractions=(0.0,))
    with pytest.raises(PatchError, match="fractions"):
        check_masking(model, task, scores, fractions=())
    with pytest.raises(PatchError, match="n_random"):
        check_masking(model, task, scores, n_random=0)
    with pytest.raises(PatchError, match="tokens"):
        check_masking(model, task.select([1, 0, 2]), scores)
    with pytest.raises(PatchError, match="confidence"):
        check_masking(model, task, scores, confidence=5)
    with pytest.raises(PatchError, match="run"):
        interp.attribute_tokens(model, task, run="cleen")
    sites = interp.patch(model, task, ["z", "mlp_out"], method="attribution", progress=False)
    with pytest.raises(PatchError, match="several sites"):
        check_masking(model, task, sites)
    with pytest.raises(PatchError, match="mlp_outt"):
        check_masking(model, task, sites, site="mlp_outt")
