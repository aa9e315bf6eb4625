"""Fitting a condition: it finds what is there, keeps its rate, and says how sure that is."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_hf_model
from torch import Tensor

import interp
from interp.errors import SteeringError
from interp.models.model import Model
from interp.steering.conditions import fit_condition
from interp.steering.gated.scored import score_gates
from interp.steering.world import attribute_prompts


@pytest.fixture(scope="module")
def mix() -> Model:
    return interp.load_model("mix-4l")


def topics(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Prompts about music, and as many of each other topic."""
    found = attribute_prompts("topic", n, seed=seed)
    return found.pop("music"), [text for texts in found.values() for text in texts]


@pytest.fixture(scope="module")
def music(mix):
    return fit_condition(mix, *topics(80, 1), ["resid_post[0]", "resid_post[1]"], fpr=0.05, seed=2)


def test_it_tells_topics_apart(mix, music):
    report, condition = music.report, music.condition
    assert report.auc.value > 0.97
    assert report.auc.low <= report.auc.value <= report.auc.high
    # a quarter of each side is reported on
    assert (len(report.yes), len(report.no)) == (20, 60)
    assert report.sites == ("resid_post[0]", "resid_post[1]")
    assert str(condition.site) == report.sites[report.chosen]
    assert report.chosen == int(report.choosing_auc.argmax())
    assert condition.threshold == report.threshold
    assert report.tpr.value == float((report.yes > report.threshold).double().mean())
    assert report.tpr.value > 0.7
    # the rate that was asked for, on prompts of another draw
    yes, no = topics(100, 77)
    scores = [score_gates(mix, [condition], side)[0] for side in (yes, no)]
    assert float((scores[1] > condition.threshold).float().mean()) < 0.12
    assert float((scores[0] > condition.threshold).float().mean()) > 0.7


def test_a_seed_makes_it_and_makes_it_again(mix, music):
    prompts = topics(80, 1)
    sites = ["resid_post[0]", "resid_post[1]"]
    again, other = (fit_condition(mix, *prompts, sites, fpr=0.05, seed=seed) for seed in (2, 3))
    assert torch.equal(again.condition.direction, music.condition.direction)
    assert again.condition.threshold == music.condition.threshold
    assert not torch.equal(other.condition.direction, music.condition.direction)


def test_labels_that_say_nothing_are_told_from_nothing(mix):
    """The control: both sides of one kind."""
    yes, no = topics(60, 5)
    mixed = [text for pair in zip(yes, no[:60], strict=True) for text in pair]
    found = fit_condition(mix, mixed[:60], mixed[60:], "resid_post[1]", fpr=0.1)
    assert found.report.auc.low < 0.5 < found.report.auc.high


@pytest.mark.parametrize("pooling", ["max", "last"])
def test_each_pooling_is_scored_as_it_decides(mix, pooling):
    """The report is of the very gate: its decisions on these prompts have these rates."""
    yes, no = topics(24, 3)
    found = fit_condition(mix, yes, no, "resid_post[0]", pooling=pooling, similarity="dot")
    assert found.condition.pooling == pooling
    assert found.report.provenance.method == f"mean-difference, {pooling} dot"
    assert found.report.target == "best F1"
    everything = score_gates(mix, [found.condition], yes)[0]
    missing = [float(score) for score in found.report.yes if not bool(torch.isclose(everything, score).any())]
    assert not missing


def planted(seed: int, n: int, first: int) -> Tensor:
    """Prompts that begin with one token."""
    tokens = torch.randint(3, 53, (n, 6), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = first
    return tokens


def test_token_tensors_all_layers_and_the_site_that_holds_it():
    """Position 0 tells the sides apart everywhere, the last position of layer 0 hardly."""
    model = interp.load_model(make_hf_model("gpt2", init=0.4))
    sides = planted(0, 40, 1), planted(1, 40, 2)
    found = fit_condition(model, *sides, "resid_post@0")
    assert found.report.sites == ("resid_post[0]@0", "resid_post[1]@0")
    assert found.report.auc.value == 1.0
    assert found.report.tpr.value == 1.0
    assert found.report.fpr.value == 0.0
    both = fit_condition(model, *sides, ["resid_pre[0]@-1", "resid_pre[0]@0"])
    assert str(both.condition.site) == "resid_pre[0]@0"
    assert float(both.report.choosing_auc[0]) < 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(fpr=0.02), r"rate of 0.02 needs at least 49"),
        (dict(fpr=1.5), "between 0 and 1"),
        (dict(confidence=95), "confidence lies between 0 and 1"),
        (dict(method="mean-diference"), "mean-difference"),
        (dict(sites="resid_post[1]@gen"), "generated tokens"),
        (dict(sites="pattern"), "vectors of tokens"),
        (dict(yes_prompts=planted(0, 7, 1)), "at least 8 yes prompts"),
        (dict(no_prompts=[]), "no prompts"),
    ],
)
def test_what_cannot_be_fitted(changes, message):
    model = interp.load_model(make_hf_model("gpt2"))
    given = dict(yes_prompts=planted(0, 40, 1), no_prompts=planted(1, 40, 2), sites="resid_post[1]")
    with pytest.raises(SteeringError, match=message):
        fit_condition(model, **given | changes)
