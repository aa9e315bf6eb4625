"""``interp.patch`` beside one intervention at a time, on every family, and what it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task
from torch import Tensor

import interp
from interp.errors import InterpError, MetricError, PatchError, SiteError
from interp.models.cache import ActivationCache
from interp.models.interventions import Intervention
from interp.models.model import Model
from interp.patching import hooked
from interp.patching.readout import Readout
from interp.results import SiteScores
from interp.tasks.base import PromptPairs
from interp.types import PATTERN_COMPONENTS, Site, SiteLike, parse_site

FAMILIES = ("gpt2", "gpt_neox", "llama", "gemma2", "qwen3", "plain")
DIRECTIONS = ("denoise", "noise")
ABLATIONS = ("source", "zero", "mean", "mean-per-position", "resample")
SEED = 3
# narrower than the activation, so that what is left of it matters too
SPAN = torch.randn(3, 36, generator=torch.Generator().manual_seed(8))
SITES: tuple[SiteLike, ...] = (
    "embed",
    "embed@all",
    "resid_pre",
    "resid_mid@all",
    "resid_mid@S",
    "resid_post[0]@END",
    "resid_post[0]@1:3",
    "attn_out",
    "attn_out[1]@-2",
    "mlp_out",
    "mlp_out@all",
    "z",
    "z@pos",
    "z[1.2]@S,END",
    "q",
    "k@pos",
    "v",
    "pattern",
    "pattern@pos",
    "attn_scores[1.0]@END",
    "result",
    "result@S",
    "mlp_in",
    "mlp_in[1]@S",
    "mlp_pre@S",
    "mlp_post",
    "mlp_post.n*",
    "mlp_post[1].n5,7@END",
    Site("resid_pre", positions=("S",)).within(SPAN),
    Site("resid_post", 0).within(SPAN[:1]),
    Site("mlp_in", 1, positions=("S",)).within(SPAN[1:]),
    Site("mlp_post", 0, neurons=(2, 9, 4)).within(SPAN[:2, :3]),
)


def make_task(lengths: Sequence[int] = (7, 7, 7), side: str = "right") -> PromptPairs:
    """Random prompts, padded where they differ in length; ``S`` is another position in every row."""
    draw = torch.Generator().manual_seed(4)
    rows, width = len(lengths), max(lengths)
    clean, corrupted = (torch.randint(1, 53, (rows, width), generator=draw) for _ in range(2))
    column = torch.arange(width)
    n = torch.tensor(lengths)[:, None]
    mask = column < n if side == "right" else column >= width - n
    return PromptPairs(
        clean,
        corrupted,
        torch.tensor([7, 11, 2]),
        torch.tensor([4, 5, 30]),
        attention_mask=None if bool(mask.all()) else mask,
        labels={"S": torch.tensor([1, 3, 2])},
    )


def alone(task: PromptPairs, row: int) -> PromptPairs:
    """One prompt without its padding."""
    one = task.select([row])
    real = one.mask[0]
    return replace(one, clean=one.clean[:, real], corrupted=one.corrupted[:, real], attention_mask=None)


def difference(task: PromptPairs, logits: Tensor) -> Tensor:
    rows = torch.arange(len(task))
    last = logits[rows, task.end]
    return last[rows, task.answers[:, 0]] - last[rows, task.wrong[:, 0]]


def cell_site(site: Site, scores: SiteScores, index: Sequence[int]) -> Site:
    """The place of one entry of a sweep, with nothing left to sweep over."""
    changes: dict[str, Any] = {}
    for axis, i in zip(scores.axes, index, strict=True):
        if axis == "layer":
            changes["layer"] = i
        elif axis in ("head", "kv_head"):
            changes["head"] = i
        elif axis == "neuron":
            changes["neurons"] = (i,)
        else:
            changes["positions"] = (i,)
    return replace(site, **changes)


def intervention_for(site: Site, ablation: str, source: ActivationCache) -> Intervention:
    if ablation == "source":
        return interp.replace(site, source)
    if ablation == "zero":
        return interp.zero(site)
    if ablation == "resample":
        return interp.resample(site, source, seed=SEED)
    return interp.mean(site, source, per_position=ablation == "mean-per-position")


@cache
def sites_of(family: str) -> tuple[Site, ...]:
    """Every kind of site that this family has."""
    model = specimen(family).model
    sites = [site for site in map(parse_site, SITES) if site.component in model.components]
    return (*sites, Site("z", 1, 1).within(SPAN[:2, : model.traits.d_head]))


def sites_for(family: str, direction: str, ablation: str) -> list[Site]:
    """A quarter of a family's sites, another for every direction and ablation."""
    shift = FAMILIES.index(family) + 5 * DIRECTIONS.index(direction) + ABLATIONS.index(ablation)
    return [
        site
        for number, site in enumerate(sites_of(family))
        if (number + shift) % 4 == 0
        # a mean over destinations of unlike sources is refused
        and not (site.component in PATTERN_COMPONENTS and ablation == "mean")
        # -inf where a later token is
        and not (site.component == "attn_scores" and ablation == "mean-per-position")
    ]


def test_every_kind_of_site_is_drawn() -> None:
    kinds = {str(site) for family in FAMILIES for site in sites_of(family)}
    for direction in DIRECTIONS:
        drawn = {str(site) for f in FAMILIES for a in ABLATIONS for site in sites_for(f, direction, a)}
        assert drawn == kinds


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_is_one_intervention_at_a_time(family: str, direction: Any, ablation: Any) -> None:
    model, task, rng = specimen(family).model, make_task(), random.Random(f"{family}{direction}{ablation}")
    sites = sites_for(family, direction, ablation)
    given, base = (task.clean, task.corrupted) if direction == "denoise" else (task.corrupted, task.clean)
    with torch.no_grad():
        source = interp.capture(model, given, {site.component for site in sites})
    found = interp.patch(
        model, task, sites, direction=direction, ablation=ablation, seed=SEED, progress=False
    )
    for site in sites:
        scores = found[str(site)]
        assert scores.per_prompt is not None
        torch.testing.assert_close(scores.raw, scores.per_prompt.mean(-1))
        for _ in range(2 if scores.axes else 1):
            place = tuple(rng.randrange(n) for n in scores.raw.shape)
            change = intervention_for(cell_site(site, scores, place), ablation, source)
            with torch.no_grad(), interp.intervene(model, change, labels=task.labels):
                expected = difference(task, model(base))
            torch.testing.assert_close(
                scores.per_prompt[place], expected, atol=1e-5, rtol=1e-5, msg=lambda m, c=change: f"{c}: {m}"
            )
    with torch.no_grad():
        for tokens, baseline in ((task.clean, scores.clean), (task.corrupted, scores.corrupted)):
            assert baseline == pytest.approx(float(difference(task, model(tokens)).mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("family", "side"), [*((family, "left") for family in FAMILIES), ("gpt2", "right"), ("gemma2", "right")]
)
def test_padded_prompts_equal_each_alone(family: str, side: str) -> None:
    model, task = specimen(family).model, make_task((4, 7, 5), side)
    sites = ["resid_pre", "z", "z@pos", "v@pos", "pattern", "pattern@pos", "mlp_out@S", "z[1]@-2"]
    for options in ({}, {"ablation": "zero", "direction": "noise"}):
        together = interp.patch(model, task, sites, progress=False, **options)
        for row in range(3):
            single = interp.patch(model, alone(task, row), sites, progress=False, **options)
            n = int(task.lengths[row])
            base = single["z"].corrupted if not options else single["z"].clean
            for site, scores in single.items():
                ours = together[site].per_prompt[..., row]
                if scores.axes[-1].endswith("pos"):
                    # positions that this prompt does not have change nothing
                    assert float((ours[..., n:] - base).abs().max() if n < 7 else 0.0) < 1e-5
                    ours = ours[..., :n]
                torch.testing.assert_close(
                    ours, scores.raw, atol=1e-5, rtol=1e-5, msg=lambda m, s=site: f"{s} {m}"
                )


def test_a_mean_over_other_prompts() -> None:
    model, task = specimen("llama").model, make_task((4, 7, 5), "left")
    tokens = torch.randint(1, 53, (6, 8), generator=torch.Generator().manual_seed(6))
    reference = PromptPairs(tokens, tokens.flip(0), tokens[:, 0], tokens[:, 1])
    with torch.no_grad():
        data = interp.capture(model, tokens, "resid_post")
    for ablation in ("mean", "mean-per-position"):
        with_task, with_tokens = (
            interp.patch(model, task, "resid_post", ablation=ablation, reference=given, progress=False)
            for given in (reference, tokens)
        )
        assert torch.equal(with_task["resid_post"].raw, with_tokens["resid_post"].raw)
        change = interp.mean("resid_post[1]@3", data, per_position=ablation != "mean")
        with torch.no_grad(), interp.intervene(model, change):
            expected = difference(task, model(task.corrupted, task.mask))
        torch.testing.assert_close(with_task["resid_post"].per_prompt[1, 3], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("budget", [1, 100_000, 1 << 34])
def test_the_memory_budget_changes_nothing(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gemma2").model, make_task((4, 7, 5), "left")
    sizes: list[int] = []
    run = hooked._run_chunk
    monkeypatch.setattr(hooked, "_run_chunk", lambda *a: sizes.append(len(a[3])) or run(*a))
    sites = ["z", "resid_pre", "result"]
    usual = interp.patch(model, task, sites, backend="hooked", progress=False)
    sizes.clear()
    found = interp.patch(model, task, sites, backend="hooked", memory_budget=budget, progress=False)
    if budget == 1:
        assert set(sizes) == {1}
    for site in sites:
        torch.testing.assert_close(found[site].raw, usual[site].raw, atol=1e-5, rtol=0)


def test_running_out_of_memory_halves_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gpt2").model, make_task()
    usual = interp.patch(model, task, ["z", "resid_pre"], backend="hooked", progress=False)
    sizes: list[int] = []
    run = hooked._run_chunk

    def too_small(*args: Any) -> Tensor:
        sizes.append(len(args[3]))
        if len(args[3]) > 5:
            raise torch.OutOfMemoryError("no room for that many")
        return run(*args)

    monkeypatch.setattr(hooked, "_run_chunk", too_small)
    found = interp.patch(model, task, ["z", "resid_pre"], backend="hooked", progress=False)
    # 22 cells: 22, 11 fail; then fives
    assert sizes == [22, 11, 5, 5, 5, 5, 2]
    for site in usual:
        torch.testing.assert_close(found[site].raw, usual[site].raw, atol=1e-5, rtol=0)
    monkeypatch.setattr(hooked, "_run_chunk", _always_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        interp.patch(model, task, "z", backend="hooked", progress=False)


def _always_out_of_memory(*args: Any) -> Tensor:
    raise torch.OutOfMemoryError("none at all")


def test_a_function_and_a_name_are_the_same_metric() -> None:
    model, task = specimen("qwen3").model, make_task((4, 7, 5), "right")
    by_name = interp.patch(model, task, ["z", "resid_pre"], metric="logit_diff", progress=False)
    by_rows = interp.patch(
        model, task, ["z", "resid_pre"], metric=lambda logits: difference(task, logits), progress=False
    )
    by_mean = interp.patch(
        model, task, ["z", "resid_pre"], metric=lambda logits: difference(task, logits).mean(), progress=False
    )
    for site in by_name:
        for other in (by_rows, by_mean):
            torch.testing.assert_close(other[site].raw, by_name[site].raw, atol=1e-5, rtol=0)
            torch.testing.assert_close(other[site].values, by_name[site].values, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(by_rows[site].per_prompt, by_name[site].per_prompt, atol=1e-5, rtol=0)


def test_a_metric_that_compares_with_the_clean_run() -> None:
    model, task = specimen("gpt2").model, make_task()
    scores = interp.patch(model, task, "resid_pre", metric="kl", progress=False)["resid_pre"]
    with torch.no_grad():
        source = interp.capture(model, task.clean, "resid_pre")
        with interp.intervene(model, interp.replace("resid_pre[1]@6", source)):
            patched = model(task.corrupted)[:, -1].log_softmax(-1)
        clean = model(task.clean)[:, -1].log_softmax(-1)
    expected = (clean.exp() * (clean - patched)).sum(-1)
    torch.testing.assert_close(scores.per_prompt[1, 6], expected, atol=1e-5, rtol=1e-5)
    assert scores.clean == pytest.approx(0, abs=1e-6) and scores.corrupted > 0.1


def test_equal_baselines_are_undefined_and_said_so() -> None:
    model, task = specimen("gpt2").model, make_task()
    same = replace(task, corrupted=task.clean)
    scores = interp.patch(model, same, "z", progress=False)
    assert bool(scores["z"].values.isnan().all())
    assert any("undefined" in note for note in scores.provenance.notes)


@pytest.mark.parametrize("where", ["metric", "hook", "forward"])
def test_an_interrupt_leaves_no_hook(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = specimen("gemma2").model, make_task()
    before = model(task.clean).detach()

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    if where == "metric":
        score, calls = Readout.score, iter(range(99))
        monkeypatch.setattr(Readout, "score", lambda *a: interrupt() if next(calls) > 2 else score(*a))
    elif where == "hook":
        monkeypatch.setattr(hooked, "write_cell", interrupt)
    else:
        monkeypatch.setattr(hooked, "head_results", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interp.patch(model, task, ["result", "resid_pre"], backend="hooked", memory_budget=1, progress=False)
    assert model.active_edits == [] and model.edit_handles == {}
    assert not any(point._forward_hooks for point in model.hook_points.values())
    assert torch.equal(model(task.clean).detach(), before)


def test_axes_and_labels() -> None:
    model, task = specimen("llama").model, make_task()
    words = tuple(tuple(f"w{int(t)}" for t in row) for row in task.corrupted)
    named = replace(task, corrupted_str_tokens=words, clean_str_tokens=words[::-1])
    scores = interp.patch(
        model, named, ["k", "z[1]@pos", "pattern@pos", "mlp_post.n*", "resid_pre"], progress=False
    )
    assert scores["k"].axes == ("layer", "kv_head") and scores["k"].raw.shape == (2, 2)
    assert scores["z"].axes == ("head", "pos") and scores["z"].raw.shape == (4, 7)
    assert scores["pattern"].axes == ("layer", "head", "dest_pos")
    assert scores["mlp_post"].axes == ("layer", "neuron") and scores["mlp_post"].raw.shape == (2, 52)
    assert scores["resid_pre"].labels["pos"] == words[0]
    noised = interp.patch(model, named, "resid_pre", direction="noise", progress=False)
    assert noised["resid_pre"].labels["pos"] == words[2]
    assert noised.provenance.direction == "noise" and noised.provenance.n_prompts == 3


def _patch(model: Model, task: PromptPairs, sites: Any = "z", **options: Any) -> Callable[[], object]:
    return lambda: interp.patch(model, task, sites, progress=False, **options)


REFUSED: dict[str, tuple[dict[str, Any], type[InterpError], str]] = {
    "direction": (
        {"direction": "denoised"},
        PatchError,
        r"unknown direction 'denoised'; did you mean 'denoise'",
    ),
    "method": ({"method": "exakt"}, PatchError, r"unknown method 'exakt'; did you mean 'exact'"),
    "backend": ({"backend": "hookd"}, PatchError, r"unknown backend 'hookd'; did you mean 'hooked'"),
    "ablation": ({"ablation": "means"}, PatchError, r"unknown ablation 'means'; did you mean 'mean'"),
    "metric": ({"metric": "logit_dif"}, MetricError, r"did you mean 'logit_diff'"),
    "component": ({"sites": "resid_prr"}, SiteError, r"did you mean 'resid_pre'"),
    "layer": ({"sites": "z[2.0]"}, SiteError, r"layer 2, but this gpt2 model has 2"),
    "rows": ({"sites": "z#0"}, PatchError, r"batch rows.*task\.select"),
    "outside": ({"sites": "z@20"}, PatchError, r"outside every prompt"),
    "label": ({"sites": "z@T"}, InterpError, r"position label.*'T'"),
    "mean pattern": ({"sites": "pattern", "ablation": "mean"}, PatchError, r"mean-per-position"),
    "budget": ({"memory_budget": 0}, PatchError, r"positive number of bytes; got 0"),
    "short reference": (
        {"ablation": "mean-per-position", "reference": torch.ones(2, 3, dtype=torch.long)},
        PatchError,
        r"at most 3 tokens long, the patched ones 7",
    ),
    "pattern reference": (
        {
            "sites": "pattern",
            "ablation": "mean-per-position",
            "reference": torch.ones(2, 3, dtype=torch.long),
        },
        PatchError,
        r"reference prompts of the same length",
    ),
    "subspace": ({"sites": Site("z", 0, 1).within(SPAN)}, PatchError, r"36 entries; the activation has 9"),
    "metric shape": ({"metric": lambda logits: logits[0]}, MetricError, r"one number"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what: str) -> None:
    options, error, message = REFUSED[what]
    model = specimen("gpt2").model
    with pytest.raises(error, match=message):
        _patch(model, make_task(), **options)()
    assert model.active_edits == []


def test_resampling_needs_prompts_of_one_length() -> None:
    model, task = specimen("gpt2").model, make_task((4, 7, 5))
    with pytest.raises(PatchError, match="single prompt"):
        _patch(model, alone(task, 1), ablation="resample")()
    with pytest.raises(PatchError, match="unequal length"):
        _patch(model, task, ablation="resample")()


def test_two_sites_that_are_written_alike_are_refused_and_one_twice_is_one():
    model, task = specimen("gpt2").model, random_task([6, 6], "right", [1, 2], seed=1)
    within = interp.Site("z").within(torch.ones(1, 9))
    with pytest.raises(PatchError, match="written 'z'"):
        interp.patch(model, task, ["z", within], progress=False)
    assert list(interp.patch(model, task, ["z", "z"], progress=False)) == ["z"]


@pytest.mark.parametrize("component", ["pattern", "attn_scores"])
def test_a_subspace_of_source_positions_is_patched_by_both_backends(component):
    model, task = specimen("gpt2").model, random_task([6, 6], "right", [1, 2], seed=1)
    site = interp.Site(component, 1, 2).within(torch.eye(6)[:2])
    raw = [
        interp.patch(model, task, site, backend=backend, progress=False)
        for backend in ("hooked", "wavefront")
    ]
    first, second = (next(iter(scores.values())).raw for scores in raw)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)
    assert not raw[0].reports
