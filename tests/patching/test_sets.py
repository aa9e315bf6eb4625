"""Sets of sites beside several interventions at once, and searches beside brute force."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from model_zoo import specimen
from torch import Tensor

import interp
from interp.errors import InterpError, PatchError, SiteError
from interp.models.model import Model
from interp.patching import patch_sets, search_sets, set_runs
from interp.tasks.base import PromptPairs
from interp.types import Site

SETS: tuple[tuple[str, ...], ...] = (
    ("z[0.1]", "z[0.3]"),  # one layer
    ("z[0.1]", "z[1.0]"),  # two layers
    ("z[1.2]", "z[0.0]", "z[1.3]"),
    ("z[0.2]", "mlp_out[0]", "resid_pre[1]@END"),
    ("z[0.3]", "z[1.0]", "resid_mid[1]@S"),
    ("v[0.1]@S,END", "q[1.0]", "mlp_post[1].n3,5"),
    ("resid_pre[1]@2", "resid_pre[1]@4", "attn_out[1]@END"),
    ("pattern[0.1]", "z[0.1]@3", "k[1.1]"),
    ("z[1.1]",),
)


def make_task() -> PromptPairs:
    draw = torch.Generator().manual_seed(4)
    clean, corrupted = (torch.randint(1, 53, (3, 7), generator=draw) for _ in range(2))
    return PromptPairs(
        clean,
        corrupted,
        torch.tensor([7, 11, 2]),
        torch.tensor([4, 5, 30]),
        labels={"S": torch.tensor([1, 3, 2])},
    )


def difference(task: PromptPairs, logits: Tensor) -> Tensor:
    rows = torch.arange(len(task))
    last = logits[rows, task.end]
    return last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]


@torch.no_grad()
def expected(model: Model, task: PromptPairs, sites: Any, direction: str) -> Tensor:
    """The metric of every prompt with these sites replaced in one intervened forward."""
    given, base = (task.clean, task.corrupted) if direction == "denoise" else (task.corrupted, task.clean)
    source = interp.capture(model, given, {interp.parse_site(site).component for site in sites})
    changes = [interp.replace(site, source) for site in sites]
    with interp.intervene(model, changes, labels=task.labels):
        return difference(task, model(base))


@pytest.mark.parametrize("backend", ["auto", "hooked"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "llama"])
def test_a_set_is_its_interventions_made_together(family: str, direction: Any, backend: str) -> None:
    model, task = specimen(family).model, make_task()
    sets = [sites for sites in SETS if all(interp.parse_site(s).component in model.components for s in sites)]
    scores = patch_sets(model, task, sets, direction=direction, backend=backend, progress=False)
    assert scores.per_prompt is not None
    assert len(scores.sets) == len(sets) >= len(SETS) - 1
    for index, sites in enumerate(sets):
        found = scores.per_prompt[index]
        wanted = expected(model, task, sites, direction)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5, msg=lambda m, s=sites: f"{s}: {m}")
    torch.testing.assert_close(scores.raw, scores.per_prompt.mean(1))
    for site in ("z[0.1]", "mlp_out[0]", "resid_pre[1]@END", "v[0.1]@S,END", "mlp_post[1].n3,5"):
        alone = patch_sets(model, task, [site], direction=direction, progress=False)
        wanted = expected(model, task, [site], direction).mean()
        assert float(scores.single_raw[scores.members.index(alone.members[0])]) == pytest.approx(
            float(wanted), abs=1e-5
        )
    # a set of one is its member
    assert float(scores.interaction[-1]) == pytest.approx(0, abs=1e-5)


def test_members_are_distinct_and_in_the_order_of_the_model() -> None:
    model, task = specimen("gpt2").model, make_task()
    sets = [["z[1.0]", "z[0.2]"], "z[1.0,1.0]", ["z[1.0]@0:7", "mlp_out[0]"], ["z[1.0]@END", "z[1.0]@-1"]]
    scores = patch_sets(model, task, sets, progress=False)
    assert scores.members == ("L0H2", "mlp_out L0", "L1H0", "L1H0 @ END")
    assert scores.sets.tolist() == [[2, 0], [2, -1], [2, 1], [3, -1]]
    assert scores.name_at(0) == "L1H0 + L0H2"


def test_a_site_that_sweeps_gives_all_of_its_cells() -> None:
    model, task = specimen("gpt2").model, make_task()
    scores = patch_sets(model, task, ["z[1]", ["resid_pre", "z[0.1]"], "z[0.0]@pos"], progress=False)
    assert scores.members_at(0) == ("L1H0", "L1H1", "L1H2", "L1H3")
    assert scores.members_at(1) == ("resid_pre L0", "resid_pre L1", "L0H1")
    assert len(scores.members_at(2)) == 7
    assert all(name.startswith("L0H0 @ ") for name in scores.members_at(2))
    wanted = expected(model, task, [f"z[1.{h}]" for h in range(4)], "denoise")
    torch.testing.assert_close(scores.per_prompt[0], wanted, atol=1e-5, rtol=1e-5)
    whole = expected(model, task, ["z[0.0]"], "denoise")
    torch.testing.assert_close(scores.per_prompt[2], whole, atol=1e-5, rtol=1e-5)


def test_one_site_alone_is_one_set() -> None:
    model, task = specimen("gpt2").model, make_task()
    for sets in ("z[0.1,1.0]", [["z[0.1]", "z[1.0]"]], [["z[0.1,1.0]"]]):
        scores = patch_sets(model, task, sets, progress=False)
        assert (scores.sets.tolist(), scores.members) == ([[0, 1]], ("L0H1", "L1H0"))
    assert patch_sets(model, task, Site("z", 0, 1), progress=False).members == ("L0H1",)


def test_subspaces_of_one_activation_have_names_of_their_own() -> None:
    model, task = specimen("gpt2").model, make_task()
    first, second = torch.eye(36)[:2]
    sites = [Site("resid_pre", 1).within(first), Site("resid_pre", 1).within(second)]
    both = Site("resid_pre", 1).within(torch.eye(36)[:2])
    scores = patch_sets(model, task, [sites, [both]], progress=False)
    assert len(set(scores.members)) == 3
    torch.testing.assert_close(scores.per_prompt[0], scores.per_prompt[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_all_pairs_of_heads(direction: Any) -> None:
    model, task = specimen("gemma2").model, make_task()
    scores = search_sets(model, task, direction=direction, progress=False)
    singles = interp.patch(model, task, "z", direction=direction, progress=False)["z"]
    n = singles.raw.numel()
    assert scores.sets.tolist() == [list(pair) for pair in itertools.combinations(range(n), 2)]
    torch.testing.assert_close(scores.single_raw, singles.raw.flatten(), atol=1e-5, rtol=1e-5)
    assert (scores.clean, scores.corrupted) == pytest.approx((singles.clean, singles.corrupted), abs=1e-5)
    for index in (0, 5, n, -1):
        sites = [f"z[{name[1]}.{name[3]}]" for name in scores.members_at(index)]
        wanted = expected(model, task, sites, direction)
        torch.testing.assert_close(scores.per_prompt[index], wanted, atol=1e-5, rtol=1e-5)
    assert scores.provenance.direction == direction
    assert any("exhaustive search for sets of 2" in note for note in scores.provenance.notes)


@pytest.mark.parametrize("ablation", ["source", "resample", "mean-per-position"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_greedy_is_greedy(direction: Any, ablation: Any) -> None:
    model, task = specimen("gpt_neox").model, make_task()
    options: dict[str, Any] = {"direction": direction, "ablation": ablation, "seed": 3, "progress": False}
    scores = search_sets(model, task, ("z", "mlp_out"), 4, how="greedy", **options)
    n = len(scores.members)
    every = {
        frozenset(row): effect
        for size in range(2, 5)
        for search in [search_sets(model, task, ("z", "mlp_out"), size, **options)]
        for row, effect in zip(search.sets.tolist(), search.effects.tolist(), strict=True)
    } | {frozenset([i]): effect for i, effect in enumerate(scores.single_effects.tolist())}
    chosen: frozenset[int] = frozenset()
    for step in range(4):
        chosen = max(
            (chosen | {new} for new in range(n) if new not in chosen), key=lambda members: abs(every[members])
        )
        row = scores.sets[scores.path[step]]
        assert frozenset(row[row >= 0].tolist()) == chosen
    assert len(scores.sets) == 1 + (n - 1) + (n - 2) + (n - 3)
    for row, effect in zip(scores.sets.tolist(), scores.effects.tolist(), strict=True):
        assert effect == pytest.approx(every[frozenset(i for i in row if i >= 0)], abs=1e-4)
    # each chosen set is the one before it and one member more, named last
    for before, after in itertools.pairwise(scores.path.tolist()):
        assert scores.members_at(after)[:-1] == scores.members_at(before)


def test_candidates_by_effect_and_by_name() -> None:
    model, task = specimen("llama").model, make_task()
    every = search_sets(model, task, progress=False)
    few = search_sets(model, task, candidates=3, progress=False)
    strongest = every.single_effects.abs().argsort(descending=True)[:3].sort().values
    assert few.members == tuple(every.members[i] for i in strongest)
    torch.testing.assert_close(few.single_raw, every.single_raw[strongest])
    torch.testing.assert_close(few.matrix("value"), every.matrix("value")[strongest][:, strongest])
    assert any("the 3 of 8 cells" in note for note in few.provenance.notes)
    named = search_sets(model, task, candidates=["z[0.1]", "mlp_out[1]", "z[1.3]"], progress=False)
    assert named.members == ("L0H1", "L1H3", "mlp_out L1")
    wanted = expected(model, task, ["z[0.1]", "mlp_out[1]"], "denoise")
    torch.testing.assert_close(named.per_prompt[1], wanted, atol=1e-5, rtol=1e-5)
    greedy = search_sets(model, task, size=3, candidates=3, how="greedy", progress=False)
    assert set(greedy.members) == set(few.members)
    assert search_sets(model, task, candidates=99, progress=False).members == every.members


def test_sets_are_planned_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, make_task()
    whole = search_sets(model, task, progress=False)
    monkeypatch.setattr(set_runs, "_RUNS_AT_ONCE", 16)
    parts = search_sets(model, task, progress=False)
    assert torch.equal(parts.sets, whole.sets)
    torch.testing.assert_close(parts.per_prompt, whole.per_prompt, atol=1e-5, rtol=0)


SEARCH_REFUSED: dict[str, tuple[dict[str, Any], type[InterpError], str]] = {
    "how": ({"how": "greed"}, PatchError, "unknown search 'greed'; did you mean 'greedy'"),
    "size": ({"size": 1}, PatchError, r"2 members or more; got size=1"),
    "members": ({"size": 9}, PatchError, r"sets of 9 cannot be drawn from 8 cells"),
    "candidates": ({"size": 4, "candidates": 3}, PatchError, r"from 3 candidates of 8 cells"),
    "many": (
        {"site": "mlp_post.n*", "size": 4},
        PatchError,
        r"104 cells make 4,598,126 sets of 4, more than 2,000,000.*candidates=20.*how='greedy'",
    ),
    "direction": ({"direction": "denoised"}, PatchError, "did you mean 'denoise'"),
    "ablation": ({"ablation": "means"}, PatchError, "did you mean 'mean'"),
    "backend": ({"backend": "hookd"}, PatchError, "did you mean 'hooked'"),
    "site": ({"site": "zz"}, SiteError, "component"),
    "rows": ({"site": "z#0"}, PatchError, "batch rows"),
}


@pytest.mark.parametrize("what", SEARCH_REFUSED)
def test_what_a_search_refuses(what: str) -> None:
    options, error, message = SEARCH_REFUSED[what]
    with pytest.raises(error, match=message):
        search_sets(specimen("gpt2").model, make_task(), progress=False, **options)


def test_what_sets_are_refused() -> None:
    model, task = specimen("gpt2").model, make_task()
    with pytest.raises(PatchError, match="no set given"):
        patch_sets(model, task, [], progress=False)
    with pytest.raises(SiteError, match="no site given"):
        patch_sets(model, task, ["z[0.1]", []], progress=False)
    with pytest.raises(SiteError, match="layer 2, but this gpt2 model has 2"):
        patch_sets(model, task, [["z[0.1]", "z[2.0]"]], progress=False)
    with pytest.raises(PatchError, match="did you mean 'noise'"):
        patch_sets(model, task, ["z[0.1]"], direction="nois", progress=False)  # type: ignore[arg-type]
