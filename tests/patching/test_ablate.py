"""``check_ablation``: the chosen sites together, beside random sets of as many others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import interp
from interp.errors import PatchError
from interp.models.bundled.planted import planted_task
from interp.models.model import Model
from interp.patching import check_ablation
from interp.tasks.base import PromptPairs


@pytest.fixture(scope="module")
def micro() -> Model:
    return interp.load_model("micro")


@pytest.fixture(scope="module")
def pairs() -> PromptPairs:
    return planted_task("micro", n=16, seed=2)


@pytest.fixture(scope="module")
def mix() -> Model:
    return interp.load_model("mix-4l")


def difference_of(model: Model, task: PromptPairs, interventions: list[object]) -> float:
    """Mean logit difference of the clean prompts under interventions."""
    with torch.no_grad(), interp.intervene(model, interventions, labels=task.labels):  # type: ignore[arg-type]
        logits = model(task.clean, task.attention_mask)
    rows = torch.arange(len(task))
    last: Tensor = logits[rows, task.end]
    return float((last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]).mean())


def site_of(name: str) -> str:
    """``L1H2`` -> ``z[1.2]``; ``mlp_out L1`` -> ``mlp_out[1]``."""
    if name.startswith("L"):
        layer, head = name[1:].split("H")
        return f"z[{layer}.{head}]"
    component, layer = name.split(" L")
    return f"{component}[{layer}]"


@pytest.mark.parametrize("ablation", ["mean", "mean-per-position", "zero", "source"])
def test_every_set_equals_interventions_made_together(
    micro: Model, pairs: PromptPairs, ablation: str
) -> None:
    chosen = ["z[0.0]", "z[1.2]", "mlp_out[1]@all"]
    check = check_ablation(micro, pairs, chosen, n_random=6, ablation=ablation, progress=False)
    assert check.names == ("L0H0", "L1H2", "mlp_out L1")
    sites = ["z", "mlp_out"]
    with torch.no_grad():
        cache = interp.capture(micro, pairs.corrupted, sites)

    def make(site: str) -> object:
        if ablation == "source":
            return interp.replace(site, cache)
        if ablation == "zero":
            return interp.zero(site)
        return interp.mean(site, cache, per_position=ablation == "mean-per-position")

    groups = [check.names, *check.random_names]
    expected = [difference_of(micro, pairs, [make(site_of(name)) for name in names]) for names in groups]
    found = [check.ablated, *check.random.tolist()]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), atol=1e-5, rtol=0)
    assert abs(check.ablated - check.clean) > 1
    assert check.provenance.ablation == ablation


def test_another_reference_gives_the_mean(micro: Model, pairs: PromptPairs) -> None:
    other = planted_task("micro", n=5, seed=9)
    found = [
        check_ablation(
            micro, pairs, "z[1.0]", n_random=1, ablation="mean", reference=given, progress=False
        ).ablated
        for given in (other, other.clean)
    ]
    with torch.no_grad():
        cache = interp.capture(micro, other.clean, "z")
    expected = difference_of(micro, pairs, [interp.mean("z[1.0]", cache)])
    assert found == pytest.approx([expected, expected], abs=1e-5)


def test_random_sets_leave_the_chosen_out_and_follow_the_seed(micro: Model, pairs: PromptPairs) -> None:
    chosen = ["z[0.0]", "z[1.0]", "z[1.1]"]
    first, again, other = (
        check_ablation(micro, pairs, chosen, n_random=30, seed=seed, progress=False) for seed in (4, 4, 5)
    )
    assert first.names == ("L0H0", "L1H0", "L1H1") and len(first.random_names) == len(first.random) == 30
    for names in first.random_names:
        assert len(set(names)) == 3 and not set(names) & set(first.names)
    heads = {f"L{layer}H{head}" for layer in range(2) for head in range(4)}
    assert {name for names in first.random_names for name in names} == heads - set(first.names)
    assert first.random_names == again.random_names and torch.equal(first.random, again.random)
    assert first.random_names != other.random_names
    assert first.ablated == other.ablated


def test_scores_choose_the_strongest(micro: Model, pairs: PromptPairs) -> None:
    scores = interp.patch(micro, pairs, "z", progress=False)
    check = check_ablation(micro, pairs, scores, k=4, n_random=3, progress=False)
    assert set(check.names) == {row.name for row in scores.top(4)}
    by_site = check_ablation(micro, pairs, [site_of(n) for n in check.names], n_random=3, progress=False)
    assert by_site.ablated == pytest.approx(check.ablated, abs=1e-6)


def test_too_few_others(micro: Model, pairs: PromptPairs) -> None:
    with pytest.raises(PatchError, match="6 sites are ablated, but only 2 others"):
        check_ablation(micro, pairs, [f"z[{i}]" for i in ("0", "1.0", "1.1")], progress=False)


def test_the_strongest_heads_carry_ioi(mix: Model) -> None:
    task = interp.tasks.load("ioi", mix, n=16, template="ABBA")
    scores = interp.patch(mix, task, "z", progress=False)
    check = check_ablation(mix, task, scores, k=5, n_random=20, progress=False)
    assert check.clean > 5 and check.corrupted < -5
    distances = (check.random - check.corrupted).abs()
    assert abs(check.ablated - check.corrupted) < float(distances.min())
    assert check.random_as_strong == 0
    # measured: clean 7.67, corrupted -8.25, top five -2.51, random sets 3.56 to 14.58
    assert check.recovered < 0.5 < float(check.random_recovered.min())
