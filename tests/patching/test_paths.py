"""Path patching: in flight beside hooks, and against what paths must do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_zoo import specimen
from random_tasks import random_task

import interp
from interp.errors import PatchError
from interp.tasks.base import PromptPairs

FAMILIES = ("gpt2", "gpt_neox", "llama", "gemma2", "qwen3", "neox_sequential", "attention_only", "gated")
SENDERS = (
    "z",
    "z[0.1]@pos",
    "mlp_out",
    "attn_out@S",
    "resid_pre",
    "embed",
    "q[0]",
    "pattern[0]",
    "mlp_post[0].n3",
    "resid_mid@all",
    "result[0]",
)
RECEIVERS = (
    ["q[1.1]"],
    ["k[1.0]", "v[1.0]@S"],
    ["q[1.2]@END", "k[1.1]", "mlp_pre[1]"],
    ["resid_post[1]"],
    ["resid_post[1]@END", "q[1]"],
    ["resid_pre[1]@S"],
    ["mlp_pre[0]", "q[1.0]"],
    ["q[0.1]", "k[1.1]"],
    ["resid_post[0]"],
    ["mlp_pre[1].n5,6"],
)


def task_of(lengths: list[int], side: str = "left") -> PromptPairs:
    return random_task(lengths, side, [1] * len(lengths), seed=3)


def component(site: str) -> str:
    return interp.parse_site(site).component


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_flight_is_through_hooks(family: str, mlps: str) -> None:
    model = specimen(family).model
    senders = [site for site in SENDERS if component(site) in model.components]
    choices = [r for r in RECEIVERS if all(component(site) in model.components for site in r)]
    kinds: list[dict[str, Any]] = [
        {"direction": "denoise"},
        {"direction": "noise", "ablation": "zero"},
        {"direction": "noise", "ablation": "mean-per-position"},
    ]
    # half of them for each family and kind of MLPs, another half for the next
    shift = (FAMILIES.index(family) + (mlps == "frozen")) % 2
    for number, receivers in list(enumerate(choices))[shift::2]:
        kind = kinds[(number // 2) % 3]
        padded = number % 4 < 2 and "per-position" not in kind.get("ablation", "")
        task = task_of([4, 7, 5] if padded else [6, 6, 6])
        ours, theirs = (
            interp.patch_paths(
                model, task, senders, receivers, mlps=mlps, backend=backend, progress=False, **kind
            )
            for backend in ("wavefront", "hooked")
        )
        assert ours.provenance.backend == "wavefront" and theirs.provenance.backend == "hooked"
        for site in ours:
            torch.testing.assert_close(
                ours[site].per_prompt,
                theirs[site].per_prompt,
                atol=3e-5,
                rtol=1e-5,
                msg=lambda m, s=site, r=receivers: f"{s} -> {r}: {m}",
            )


def test_the_direct_path_to_the_logits_written_out() -> None:
    """A head's direct path: its change goes into the final norm and nothing else."""
    model = specimen("llama").model
    task = task_of([6, 6])
    found = interp.patch_paths(model, task, "z", "resid_post[1]", progress=False)["z"]
    with torch.no_grad():
        clean, corrupted = (
            interp.capture(model, t, ["z", "resid_post[1]"]) for t in (task.clean, task.corrupted)
        )
        weights = model.weights
        for layer in (0, 1):
            for head in range(4):
                change = clean["z"][layer, :, :, head] - corrupted["z"][layer, :, :, head]
                resid = (corrupted["resid_post[1]"] + change @ weights.layers[layer].W_O[head])[:, -1]
                gain = weights.ln_final.w
                x = resid * torch.rsqrt(resid.pow(2).mean(-1, keepdim=True) + model.traits.norm_eps) * gain
                logits = x @ weights.W_U
                rows = torch.arange(2)
                expected = logits[rows, task.answers[:, 0]] - logits[rows, task.wrong[:, 0]]
                torch.testing.assert_close(found.per_prompt[layer, head], expected, atol=2e-5, rtol=1e-4)


def test_all_receivers_at_once_are_the_whole_patch() -> None:
    """Patched along every path out of it, a sender does what patching it does."""
    model = specimen("attention_only").model
    task = task_of([6, 6])
    every = ["q[1]", "k[1]", "v[1]", "resid_post[1]"]
    along = interp.patch_paths(model, task, "z[0]", ["resid_pre[1]"], progress=False)
    whole = interp.patch(model, task, "z[0]", progress=False)
    torch.testing.assert_close(along["z"].per_prompt, whole["z"].per_prompt, atol=2e-5, rtol=1e-5)
    part = interp.patch_paths(model, task, "z[0]", every[:3], progress=False)
    assert float((part["z"].raw - whole["z"].raw).abs().max()) > 1e-2


def test_a_sender_after_its_receiver_does_nothing() -> None:
    model, task = specimen("gpt2").model, task_of([6, 6])
    scores = interp.patch_paths(model, task, ["z[1]", "mlp_out[1]"], "q[1.0]", progress=False)
    for site in scores.values():
        assert torch.equal(site.raw, torch.full_like(site.raw, site.corrupted))


def test_an_induction_head_reads_the_previous_token_head_through_its_keys() -> None:
    model = interp.load_model("induction-2l")
    task = interp.tasks.load("induction", model, n=8, seed=1)
    heads = interp.patch(model, task, "z", progress=False)["z"].values
    layer, reader = (int(i) for i in torch.unravel_index(heads[1].argmax() + heads.shape[1], heads.shape))
    keys = interp.patch_paths(model, task, "z[0]", f"k[{layer}.{reader}]", direction="noise", progress=False)
    queries = interp.patch_paths(
        model, task, "z[0]", f"q[{layer}.{reader}]", direction="noise", progress=False
    )
    assert float(keys.effects("z[0]").abs().max()) > 3 * float(queries.effects("z[0]").abs().max())


@pytest.mark.parametrize("budget", [1, 1 << 19])
def test_any_memory_budget(budget: int) -> None:
    model, task = specimen("gemma2").model, task_of([4, 7, 5])
    usual, small = (
        interp.patch_paths(model, task, "z", ["q[1.0]", "mlp_pre[1]"], progress=False, memory_budget=b)
        for b in (1 << 30, budget)
    )
    torch.testing.assert_close(small["z"].per_prompt, usual["z"].per_prompt, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"receivers": "z[1.0]"}, r"does not read the residual stream.*q, k and v"),
        ({"receivers": "q"}, r"must name one layer"),
        ({"receivers": "q[1.0]@pos"}, r"must name one layer"),
        ({"receivers": "q[1.0]", "mlps": "free"}, r"unknown mlps 'free'.*frozen"),
        ({"receivers": "q[1.0]", "ablation": "means"}, r"unknown ablation"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PatchError, match=message):
        interp.patch_paths(specimen("gpt2").model, task_of([6, 6]), "z", progress=False, **options)
