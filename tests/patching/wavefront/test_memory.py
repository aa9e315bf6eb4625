"""The planner's prediction beside what is really held at once."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import make_hf_model

import interp
from interp.kernels import use_kernels
from interp.models.memory_meter import MemoryMeter
from interp.patching.wavefront import sweep
from interp.tasks.base import PromptPairs

SIZES = {"n_layers": 3, "n_heads": 4, "d_model": 32, "d_mlp": 96, "d_vocab": 307, "n_ctx": 32}


def task_of(n: int = 6, d_vocab: int = 307, length: int = 14, same: int = 8) -> PromptPairs:
    draw = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(1, d_vocab, (n, length), generator=draw) for _ in range(2))
    corrupted[:, :same] = clean[:, :same]
    return interp.tasks.from_tokens(clean, corrupted, clean[:, 0], clean[:, 1])


def measure(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, list[str]]:
    """Predicted and measured peak of a sweep, and its notes."""
    answers: list[Any] = []
    run_all = sweep.BlockSweep.run_all

    def watched(self: Any, *args: Any) -> Any:
        answers.append(run_all(self, *args))
        return answers[-1]

    monkeypatch.setattr(sweep.BlockSweep, "run_all", watched)
    gc.collect()
    with MemoryMeter() as meter:
        run()
    monkeypatch.undo()
    return answers[-1].predicted_peak, meter.peak, list(answers[-1].notes)


CASES: list[tuple[str, Any, str]] = [
    ("gpt2", ["z", "resid_pre"], "logit_diff"),
    ("gpt2", ["mlp_post.n*"], "kl"),
    ("gpt2", "edges", "logit_diff"),
    ("gpt2", "paths", "logit_diff"),
    ("gpt_neox", ["k", "pattern@pos"], "kl"),
    ("gpt_neox", "edges", "kl"),
    ("gemma2", ["z", "mlp_post", "mlp_out"], "logit_diff"),
    ("gemma2", ["mlp_post.n*"], "logit_diff"),
    ("qwen3", ["q", "v", "attn_out"], "prob_diff"),
    ("llama", ["resid_mid", "result"], "logit_diff"),
]


@pytest.mark.parametrize(("family", "sites", "metric"), CASES, ids=str)
def test_the_prediction_bounds_the_peak_closely(
    family: str, sites: Any, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = interp.load_model(make_hf_model(family, **SIZES)), task_of()
    for budget in (1 << 26, 1 << 20):
        options: dict[str, Any] = {"metric": metric, "memory_budget": budget, "progress": False}
        runs: dict[str, Callable[[], Any]] = {
            "edges": lambda options=options: interp.score_edges(model, task, method="exact", **options),
            "paths": lambda options=options: interp.patch_paths(model, task, "z[0]", ["q[2]"], **options),
        }
        run = runs.get(str(sites), lambda options=options: interp.patch(model, task, sites, **options))
        predicted, measured, notes = measure(run, monkeypatch)
        assert measured <= predicted <= max(budget, 2.6 * measured)
        assert predicted <= 2.6 * measured and predicted <= budget and not notes


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_scores_and_patterns_of_long_prompts_are_counted(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many heads and columns attention is most of what a row holds."""
    model = interp.load_model(make_hf_model(family, **SIZES | {"n_heads": 8, "n_ctx": 96, "d_mlp": 32}))
    task = task_of(3, length=90, same=2)
    predicted, measured, _ = measure(
        lambda: interp.patch(model, task, ["z"], memory_budget=1 << 26, progress=False), monkeypatch
    )
    assert measured <= predicted <= 2.6 * measured


def test_sets_written_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = interp.load_model(make_hf_model("gpt2", **SIZES)), task_of()
    for sites in (["z"], ["mlp_post"], ["pattern"]):
        prepared = interp.patching.prepared.prepare(
            model, task, [(sites[0], layer) for layer in range(3)], direction="denoise"
        )
        (site,) = [interp.parse_site(name) for name in sites]
        cells = interp.patching.cells.plan_sweep(model, task, site, "denoise").cells
        groups = [(cells[i], cells[-1 - i]) for i in range(len(cells) // 2)] * 4
        predicted, measured, _ = measure(
            lambda prepared=prepared, groups=groups: prepared.scores(groups, 1 << 26, False), monkeypatch
        )
        assert measured <= predicted <= 3.5 * measured


@pytest.mark.interpreter
def test_kernels_stay_within_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "d_model": 16, "d_mlp": 24, "d_vocab": 67}
    model, task = interp.load_model(make_hf_model("llama", **sizes)), task_of(2, 67)
    for metric in ("logit_diff", "kl"):
        with use_kernels("triton"):
            predicted, measured, _ = measure(
                lambda metric=metric: interp.patch(
                    model, task, ["z", "resid_pre"], metric=metric, progress=False
                ),
                monkeypatch,
            )
        assert measured <= predicted
