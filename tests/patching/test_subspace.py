"""Subspace patching, and the illusion it can show, on models built to show it or not."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from model_zoo import specimen
from torch import Tensor

import interp
from interp.bundled_data import data_path
from interp.errors import PatchError
from interp.models.bundled.planted import load_circuit, planted_task
from interp.models.model import Model
from interp.models.plain import PlainConfig, PlainTransformer
from interp.patching import patch_subspace
from interp.tasks.base import PromptPairs
from interp.types import Site

TOKENS = torch.randint(1, 53, (2, 4, 6), generator=torch.Generator().manual_seed(1))
YES, NO = 8, 9


def random_task(rows: slice = slice(None)) -> PromptPairs:
    clean, corrupted = TOKENS[:, rows]
    n = len(clean)
    return PromptPairs(clean, corrupted, torch.arange(10, 10 + n), torch.arange(20, 20 + n))


@cache
def build_switch(honest: bool) -> Model:
    """One MLP of three ReLU neurons; an even token means yes and an odd one no.

    Neuron 0 is on for even tokens. If ``honest``, the output reads it. Otherwise the output reads
    neuron 1, which is always 1 (dormant), and the answer comes from the embedding directly.
    Neuron 2 is on for tokens below 4 and not read.
    """
    config = PlainConfig(
        vocab_size=10, n_ctx=4, n_layers=1, n_heads=1, d_model=4, d_head=4, d_mlp=3, norm=None, act="relu",
        attn_bias=False,
    )  # fmt: skip
    module = PlainTransformer(config).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.zero_()
    even, low, answer, direct = range(4)
    module.embed.W_E[torch.arange(0, 10, 2), even] = 1.0
    module.embed.W_E[:4, low] = 1.0
    mlp = module.blocks[0].mlp
    mlp.W_in[even, 0] = mlp.W_in[low, 2] = 1.0
    mlp.b_in[1] = 1.0
    if honest:
        mlp.W_out[0, answer] = 2.0
    else:
        mlp.W_out[1, answer] = 2.0
        module.embed.W_E[torch.arange(0, 10, 2), direct] = 1.0
    module.unembed.W_U[answer, YES] = module.unembed.W_U[direct, YES] = 1.0
    return interp.load_model(module)


def switch_task() -> PromptPairs:
    clean = torch.tensor([[3, 2], [1, 6], [5, 4], [7, 0]])
    corrupted = torch.tensor([[3, 1], [1, 5], [5, 7], [7, 3]])
    return PromptPairs(clean, corrupted, torch.full((4,), YES), torch.full((4,), NO))


def last_difference(logits: Tensor, task: PromptPairs) -> Tensor:
    rows = torch.arange(len(task))
    return (logits[rows, -1, task.answers[:, 0]] - logits[rows, -1, task.wrong[:, 0]]).mean()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("site", "d"),
    [("resid_pre[1]", 36), ("mlp_in[1]", 36), ("mlp_post[0]", 52), ("z[1.2]", 10), ("k[0.1]", 10)],
)
def test_the_whole_space_is_the_whole_activation(site: str, d: int, direction: str) -> None:
    model, task = specimen("llama").model, random_task()
    whole = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(2)))[0]
    report = patch_subspace(model, task, site, whole, direction=direction)
    plain = interp.patch(model, task, f"{site}@all", direction=direction, progress=False)
    assert float(report.raw[0]) == pytest.approx(float(plain[f"{site}@all"].raw), abs=1e-5)
    assert float(report.raw[3]) == pytest.approx(float(report.raw[0]), abs=1e-5)
    assert report.dimensions == d and report.warning is None
    assert (report.clean, report.corrupted) == (plain[f"{site}@all"].clean, plain[f"{site}@all"].corrupted)


def test_parts_are_patched_one_at_a_time() -> None:
    """Row-space and null-space parts of a direction, split by a pseudo-inverse and patched by hand."""
    model, task = specimen("plain").model, random_task()
    direction = torch.randn(52, generator=torch.Generator().manual_seed(3))
    report = patch_subspace(model, task, "mlp_post[0]@-1", direction)
    W_out = model.weights.layers[0].W_out
    assert W_out is not None
    W_out = W_out.detach()
    assert report.readout == "W_out of layer 0"
    inside = W_out.double() @ torch.linalg.pinv(W_out.double()) @ direction.double()
    for part, expected_direction in ((0, direction), (1, inside.float()), (2, direction - inside.float())):
        place = Site("mlp_post", 0, positions=(-1,)).within(expected_direction)
        with torch.no_grad():
            cache = interp.capture(model, task.clean, "mlp_post")
            with interp.intervene(model, interp.replace(place, cache)):
                expected = last_difference(model(task.corrupted), task)
        assert float(report.raw[part]) == pytest.approx(float(expected), abs=1e-5)
    assert report.row_space_share == pytest.approx(float((inside / direction.norm()).pow(2).sum()), abs=1e-6)


def test_what_the_readout_does_not_see_does_nothing() -> None:
    """d_mlp 52 into d_model 36: 16 dimensions of mlp_post are not read at all."""
    model, task = specimen("gpt2").model, random_task()
    W_out = model.weights.layers[1].W_out
    assert W_out is not None
    null = torch.linalg.svd(W_out.detach().double(), full_matrices=True).U[:, 36:].T
    assert null.shape == (16, 52)
    report = patch_subspace(model, task, "mlp_post[1]", null)
    assert float(report.effect[0].abs()) < 1e-5 and float(report.effect[1]) == 0
    assert report.row_space_share < 1e-10
    assert float((report.effect[3]).abs()) > 1e-2
    assert bool(report.separability[1].isnan())


def test_an_illusion_is_warned_of() -> None:
    model, task = build_switch(honest=False), switch_task()
    # neuron 0 varies and is not read, neuron 1 is read and never varies
    report = patch_subspace(model, task, "mlp_post[0]", torch.tensor([1.0, 1.0, 0.0]))
    assert (report.clean, report.corrupted) == pytest.approx((3.0, 2.0))
    # half of neuron 0's difference of 1 goes into neuron 1, which is read with weight 2
    assert report.effect.tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0], abs=1e-5)
    assert report.row_space_share == pytest.approx(0.5)
    assert report.warning is not None and "1.00" in report.warning and "dormant" in report.warning
    noised = patch_subspace(model, task, "mlp_post[0]", torch.tensor([1.0, 1.0, 0.0]), direction="noise")
    assert noised.effect.tolist() == pytest.approx([-1.0, 0.0, 0.0, 0.0], abs=1e-5)
    assert noised.warning is not None
    assert report.readout_z > 1e3, "a dormant direction that moves is infinitely far out"


def test_an_honest_direction_is_not() -> None:
    model, task = build_switch(honest=True), switch_task()
    report = patch_subspace(model, task, "mlp_post[0]", torch.tensor([1.0, 0.0, 0.0]))
    assert (report.clean, report.corrupted) == pytest.approx((2.0, 0.0))
    assert report.effect.tolist() == pytest.approx([1.0, 1.0, 0.0, 1.0], abs=1e-5)
    assert report.row_space_share == pytest.approx(1.0) and report.warning is None
    assert report.readout_z < 1.2, "the patched readout takes values that clean runs take too"


def test_patch_reports_on_subspaces_too() -> None:
    model, task = build_switch(honest=False), switch_task()
    site = Site("mlp_post", positions=("all",)).within(torch.tensor([1.0, 1.0, 0.0]))
    scores = interp.patch(model, task, site, progress=False)
    (report,) = scores.reports.values()
    single = patch_subspace(model, task, "mlp_post[0]", torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(report.raw, single.raw)
    torch.testing.assert_close(report.raw[0], scores["mlp_post"].raw[0])
    assert report.warning == single.warning


def test_separability_is_the_share_of_pairs_in_order() -> None:
    model, task = specimen("gpt2").model, random_task()
    direction = torch.randn(36, generator=torch.Generator().manual_seed(5))
    report = patch_subspace(model, task, "resid_post[0]@-1", direction)
    with torch.no_grad():
        clean, corrupted = (
            interp.capture(model, tokens, "resid_post[0]@-1")["resid_post[0]@-1"] @ direction
            for tokens in (task.clean, task.corrupted)
        )
    share = float((clean[:, None] > corrupted[None]).double().mean())
    assert float(report.separability[0]) == pytest.approx(max(share, 1 - share))
    switched = patch_subspace(build_switch(honest=True), switch_task(), "mlp_post[0]@-1", torch.eye(3)[0])
    assert switched.separability.tolist()[:2] == [1.0, 1.0]


def test_readout_z_written_out() -> None:
    model, task = specimen("plain").model, random_task()
    direction = torch.randn(52, generator=torch.Generator().manual_seed(7)).double()
    report = patch_subspace(model, task, "mlp_post[1]@-1", direction.float())
    with torch.no_grad():
        source, base = (
            interp.capture(model, tokens, "mlp_post[1]@-1")["mlp_post[1]@-1"].double()
            for tokens in (task.clean, task.corrupted)
        )
    unit = direction / direction.norm()
    W_out = model.weights.layers[1].W_out
    assert W_out is not None
    rows = torch.linalg.eigh(W_out.detach().double() @ W_out.detach().double().T).eigenvectors[:, -36:]
    seen = torch.cat([source, base]) @ rows
    patched = (base + ((source - base) @ unit)[:, None] * unit) @ rows
    expected = ((patched - seen.mean(0)) / seen.std(0)).abs().mean()
    assert report.readout_z == pytest.approx(float(expected), rel=1e-3)


def test_a_readout_of_ones_own_and_held_out_prompts() -> None:
    model, task, held_out = build_switch(honest=False), switch_task(), switch_task().select([0, 2])
    direction = torch.tensor([1.0, 1.0, 0.0])
    report = patch_subspace(
        model, task, "mlp_post[0]", direction, readout=torch.tensor([[1.0], [1.0], [0.0]]), held_out=held_out
    )
    assert report.readout == "the given readout" and report.row_space_share == pytest.approx(1.0)
    assert report.effect.tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=1e-5)
    assert report.held_out_effect is not None
    assert report.held_out_effect.tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=1e-5)


@pytest.mark.parametrize(("norm", "hidden"), [("rmsnorm", torch.eye(12)[3]), ("layernorm", torch.ones(12))])
def test_a_norm_hides_some_directions(norm: str, hidden: Tensor) -> None:
    """Readers of the residual stream see it through their norms: a gain of 0, or the mean of a LayerNorm."""
    sizes = {
        "vocab_size": 53,
        "n_ctx": 8,
        "n_layers": 1,
        "n_heads": 2,
        "d_model": 12,
        "d_head": 6,
        "d_mlp": 9,
    }
    module = PlainTransformer(PlainConfig(norm=norm, **sizes)).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(9)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.5)
    model, task = interp.load_model(module), random_task()
    final = model.weights.ln_final
    assert final is not None
    final.w[3] = 0.0
    report = patch_subspace(model, task, "resid_post[0]", hidden)
    assert report.row_space_share < 1e-10 and report.readout == "everything read from layer 1 on"
    other = torch.eye(12)[5] - torch.eye(12)[6]
    assert patch_subspace(model, task, "resid_post[0]", other).row_space_share == pytest.approx(1.0)
    # the block's own norms have other gains
    early = patch_subspace(model, task, "resid_pre[0]", hidden).row_space_share
    assert early == pytest.approx(1.0 if norm == "rmsnorm" else 0.0, abs=1e-6)


def test_attention_does_not_read_its_own_output() -> None:
    """Layer 1 of planted-gate reads one direction of ``identity`` by its MLP, both by its heads."""
    model, task = interp.load_model("planted-gate"), planted_task("planted-gate", n=6, seed=1)
    start, stop = load_circuit(data_path("models/planted-gate")).spaces["identity"]
    directions = torch.eye(model.traits.d_model)[start:stop]
    shares = {
        site: patch_subspace(model, task, site, directions).row_space_share
        for site in ("resid_pre[1]", "attn_out[1]", "resid_post[1]")
    }
    assert shares == pytest.approx({"resid_pre[1]": 1.0, "attn_out[1]": 0.5, "resid_post[1]": 0.0})


def test_what_is_refused() -> None:
    model, task = specimen("gpt2").model, random_task()
    with pytest.raises(PatchError, match="needs directions"):
        patch_subspace(model, task, "resid_pre[0]")
    with pytest.raises(PatchError, match=r"covers 2\."):
        patch_subspace(model, task, "resid_pre", torch.ones(36))
    with pytest.raises(PatchError, match=r"covers 4\."):
        patch_subspace(model, task, "z[0]", torch.ones(9))
    with pytest.raises(PatchError, match="5 entries; the activation has 36"):
        patch_subspace(model, task, "resid_pre[0]", torch.ones(5))
    assert model.active_edits == []
