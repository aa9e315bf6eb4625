"""A search on the bundled model: what gradients predict, brute force confirms, and the steering does."""

from __future__ import annotations

import pytest
import torch

import interp
from interp.errors import SteeringError
from interp.steering.search import attribute_objective, search_steering
from interp.steering.search.objective import measure_objective, read_rows
from interp.steering.world import attribute_prompts, attribute_token_ids


@pytest.fixture(scope="module")
def setting():
    prompts = attribute_prompts("sentiment", 32, seed=1)
    return interp.load_model("mix-4l"), prompts, attribute_prompts("sentiment", 12, seed=2)["negative"]


def search(setting, method, **options):
    model, prompts, held = setting
    return search_steering(
        model, prompts["positive"], prompts["negative"], method=method, objective="sentiment=positive",
        prompts=held, n_neutral=4, paired=False, **options,
    )  # fmt: skip


def test_gradients_choose_what_steers(setting):
    model, _, held = setting
    found = search(setting, "gradient", sites="resid_post[1-2]")
    assert found.best.position == "all"
    tried = {c.position: c for c in reversed(found.ranked()) if c.site == found.best.site}
    brute = search(setting, "brute-force", sites=found.best.site)
    measured = {c.position: c.score for c in brute.ranked()}
    assert tried["all"].score > tried["-1"].score
    assert measured["all"] > measured["-1"]
    objective = attribute_objective(model, "sentiment", "positive")
    rows = read_rows(model, held, "held out")
    base = measure_objective(model, rows, objective).mean()
    with found.steering().apply(model, dose=0.3):
        risen = measure_objective(model, rows, objective).mean() - base
    assert float(risen) == pytest.approx(measured["all"], rel=0.1)
    assert float(risen) > 2.0


def test_the_objective_counts_words(setting):
    model, _, held = setting
    ids = attribute_token_ids(model, "sentiment")
    with torch.no_grad():
        p = model(held[0])[0].softmax(-1)
    wanted = (p[:, ids["positive"]].sum(-1) / p[:, ids["negative"]].sum(-1)).log().mean()
    objective = attribute_objective(model, "sentiment", "positive")
    found = measure_objective(model, read_rows(model, held[:1], "one"), objective)
    assert float(found) == pytest.approx(float(wanted), abs=1e-4)
    with pytest.raises(SteeringError, match="positive"):
        attribute_objective(model, "sentiment", "positives")
