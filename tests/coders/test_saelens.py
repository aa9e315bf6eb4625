"""Coders and SAELens' own classes must give the same outputs, whichever wrote the files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from coder_cases import D_IN, D_OUT, D_SAE, OWN, SHARED, K, assert_equal, make_random
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.files import load_coder, save_coder
from interp.coders.formats import folder as layout
from interp.coders.make import make_coder
from interp.coders.saelens import from_saelens, load_from_hub, to_saelens
from interp.coders.semi_nmf import SemiNMF
from interp.coders.shape import CoderShape
from interp.errors import CoderError, DataFileError


def sample(*leading: int) -> Tensor:
    return torch.randn(*leading, D_IN, generator=torch.Generator().manual_seed(7))


def assert_same(coder: Coder, sae: Any, x: Tensor, sae_x: Tensor | None = None) -> None:
    """Latents, decoder and forward agree, and some latents fire while others do not."""
    sae_x = x if sae_x is None else sae_x
    with torch.no_grad():
        latents = coder.encode(x)
        assert 0.02 < (latents > 0).float().mean() < 0.9
        torch.testing.assert_close(sae.encode(sae_x), latents, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(sae(sae_x).reshape(coder(x).shape), coder(x), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(
            sae.decode(latents).reshape(coder(x).shape),
            coder.decode(latents, x) - (0 if coder.W_skip is None else x @ coder.W_skip),
            atol=1e-6,
            rtol=1e-6,
        )


@pytest.mark.parametrize(("kind", "name"), SHARED.items(), ids=lambda value: str(value))
def test_ours_is_read_by_saelens(kind: tuple[str, str | None], name: str, tmp_path: Path) -> None:
    from sae_lens import SAE

    coder = make_random(*kind)
    sae = SAE.load_from_disk(save_coder(coder, tmp_path / "coder"))
    assert sae.cfg.architecture() == name
    assert sae.cfg.metadata.hook_name == "blocks.2.hook_mlp_out"
    assert_same(coder, sae, sample(40))
    assert_same(coder, to_saelens(coder), sample(3, 11))


@pytest.mark.parametrize("kind", SHARED, ids=str)
def test_saelens_hands_ours_back_to_the_bit(kind: tuple[str, str | None], tmp_path: Path) -> None:
    from sae_lens import SAE

    coder = make_random(*kind)
    sae = SAE.load_from_disk(save_coder(coder, tmp_path / "ours"))
    sae.save_model(tmp_path / "theirs")
    for found in (load_coder(tmp_path / "theirs"), from_saelens(sae)):
        if coder.config.firing == "jumprelu":
            # SAELens has no logarithms of thresholds
            ours, theirs = found.encoder.log_threshold, coder.encoder.log_threshold
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
            found.encoder.log_threshold.data.copy_(theirs.data)  # type: ignore[operator,union-attr]
        assert_equal(found, coder)


def _fill(sae: Any) -> Any:
    """Random weights, as a trained coder's would be; thresholds of both signs."""
    generator = torch.Generator().manual_seed(11)
    for value in sae.state_dict().values():
        value.copy_(0.5 * torch.randn(value.shape, generator=generator))
    return sae


def make_saelens(name: str, **options: Any) -> Any:
    from sae_lens import SAE

    cfg = {"architecture": name, "d_in": D_IN, "d_sae": D_SAE, **options}
    if "transcoder" in name:
        cfg |= {"d_out": D_OUT, "apply_b_dec_to_input": False}
    return _fill(SAE.from_dict(cfg))


THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {}),
    "standard, input not centred": ("standard", {"apply_b_dec_to_input": False}),
    "gated": ("gated", {}),
    "gated, input not centred": ("gated", {"apply_b_dec_to_input": False}),
    "topk": ("topk", {"k": K}),
    "topk, input not centred": ("topk", {"k": K, "apply_b_dec_to_input": False}),
    "topk, rescaled": ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "topk, both": ("topk", {"k": K, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False}),
    "jumprelu": ("jumprelu", {}),
    "jumprelu, input not centred": ("jumprelu", {"apply_b_dec_to_input": False}),
    "transcoder": ("transcoder", {}),
    "skip_transcoder": ("skip_transcoder", {}),
    "jumprelu_transcoder": ("jumprelu_transcoder", {}),
    "jumprelu_skip_transcoder": ("jumprelu_skip_transcoder", {}),
}


@pytest.mark.parametrize(("name", "options"), THEIRS.values(), ids=THEIRS)
def test_theirs_is_read_by_us(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    sae = make_saelens(name, **options)
    sae.save_model(tmp_path)
    for coder in (load_coder(tmp_path), from_saelens(sae)):
        assert not coder.training
        x, latents = sample(60), coder.encode(sample(60))
        with torch.no_grad():
            torch.testing.assert_close(coder(x), sae(x), atol=2e-6, rtol=1e-6)
            torch.testing.assert_close(latents, sae.encode(x), atol=2e-6, rtol=1e-6)
        assert 0.02 < (latents > 0).float().mean() < 0.9


TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {}),
    "gated": ("gated", {}),
    "jumprelu": ("jumprelu", {}),
    "topk": ("topk", {"k": K}),
    "topk, rescaled": ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "batchtopk": ("batchtopk", {"k": K, "rescale_acts_by_decoder_norm": False}),
    "batchtopk, rescaled": ("batchtopk", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "matryoshka": ("matryoshka_batchtopk", {"k": K, "matryoshka_widths": [5, 11, D_SAE]}),
}


@pytest.mark.parametrize(("name", "options"), TRAINED.values(), ids=TRAINED)
def test_checkpoints_of_their_trainer_equal_what_they_save_for_use(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    from sae_lens import SAE, TrainingSAE

    sae = _fill(TrainingSAE.from_dict({"architecture": name, "d_in": D_IN, "d_sae": D_SAE, **options}))
    if name.endswith("batchtopk"):
        sae.topk_threshold.fill_(0.7)
    sae.save_model(tmp_path / "training")
    sae.save_inference_model(tmp_path / "use")
    coder = load_coder(tmp_path / "training")
    assert_same(coder, SAE.load_from_disk(tmp_path / "use"), sample(60))
    assert coder.config.widths == tuple(options.get("matryoshka_widths", ()))


def test_input_scales_beside_a_checkpoint_are_folded(tmp_path: Path) -> None:
    sae = make_saelens("jumprelu", normalize_activations="expected_average_only_in")
    sae.save_model(tmp_path)
    with pytest.raises(CoderError, match="expected_average_only_in"):
        load_coder(tmp_path)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 2.5}))
    coder = load_coder(tmp_path)
    sae.fold_activation_norm_scaling_factor(2.5)
    assert_same(coder, sae, sample(40))


def test_one_input_scale_does_not_say_a_transcoder_s_two(tmp_path: Path) -> None:
    make_saelens("transcoder", normalize_activations="expected_average_only_in").save_model(tmp_path)
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 2.5}))
    with pytest.raises(CoderError, match="or not the output's"):
        load_coder(tmp_path)


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm_rescale", "covariance_whitening"])
def test_what_cannot_be_folded_is_refused_by_name(norm: str, tmp_path: Path) -> None:
    sae = make_saelens("standard", normalize_activations=norm)
    sae.save_model(tmp_path)
    for load in (lambda: load_coder(tmp_path), lambda: from_saelens(sae)):
        with pytest.raises(CoderError, match=norm):
            load()


def test_head_outputs_keep_their_heads(tmp_path: Path) -> None:
    from sae_lens import SAE

    config = CoderConfig(architecture="topk", d_sae=D_SAE, k=K)
    coder = make_coder(config, CoderShape(12, 12), sites=["z[1]"], seed=2).eval()
    sae = SAE.load_from_disk(save_coder(coder, tmp_path / "a"))
    assert sae.cfg.reshape_activations == "hook_z"
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    assert_same(coder, sae, x.flatten(2), x)
    sae.save_model(tmp_path / "b")
    assert load_coder(tmp_path / "b").sites == ("z[1]",)
    one_head = make_coder(config, CoderShape(12, 12), sites=["z[1.3]"])
    cfg = to_saelens(one_head).cfg
    assert (cfg.reshape_activations, cfg.metadata.hook_head_index) == ("none", 3)


def test_changed_thresholds_are_not_taken_for_the_old(tmp_path: Path) -> None:
    from sae_lens import SAE

    for architecture in ("batch-topk", "jumprelu"):
        coder = make_random(architecture, None)
        folder = save_coder(coder, tmp_path / architecture)
        sae = SAE.load_from_disk(folder)
        sae.fold_W_dec_norm()
        # over our own files, of which one is not SAELens'
        sae.save_model(folder)
        found = load_coder(folder)
        assert found.config.architecture == "jumprelu"
        assert found.metadata["tokens"] == 1_000
        assert_same(found, sae, sample(40))


def test_a_changed_k_counts(tmp_path: Path) -> None:
    from sae_lens import SAE

    folder = save_coder(make_random("topk", None), tmp_path / "coder")
    sae = SAE.load_from_disk(folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**cfg, "k": 2}))
    assert sae.cfg.k == K
    assert load_coder(folder).config.k == 2


@pytest.mark.parametrize("kind", OWN, ids=str)
def test_saelens_refuses_what_it_has_not_by_name(kind: tuple[str, str | None], tmp_path: Path) -> None:
    from sae_lens import SAE

    coder = make_random(*kind)
    folder = save_coder(coder, tmp_path / "coder")
    name = f"interp_{kind[0].replace('-', '_')}"
    with pytest.raises(KeyError, match=name):
        SAE.load_from_disk(folder)
    assert "interp.load_coder" in json.loads((folder / "cfg.json").read_text())["note"]
    with pytest.raises(CoderError, match=kind[0]):
        to_saelens(coder)


OLD_CFG = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.{layer}.hook_resid_pre",
    "hook_point_layer": 8,
    "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext",
    "d_in": D_IN,
    "d_sae": D_SAE,
    "dtype": "torch.float32",
    "device": "cuda",
    "activation_fn_str": "relu",
    "normalize_activations": False,
}


def _change_to_topk(cfg: dict[str, Any], weights: dict[str, Tensor]) -> None:
    cfg |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}


def _change_to_scaled(cfg: dict[str, Any], weights: dict[str, Tensor]) -> None:
    cfg["finetuning_scaling_factor"] = True
    weights["scaling_factor"] = torch.rand(D_SAE, generator=torch.Generator().manual_seed(1)) + 0.5


@pytest.mark.parametrize("change", [None, _change_to_topk, _change_to_scaled])
def test_folders_of_before_version_6(change: Callable[..., None] | None, tmp_path: Path) -> None:
    cfg = dict(OLD_CFG)
    weights = {k: v.clone() for k, v in make_saelens("standard").state_dict().items()}
    if change is not None:
        change(cfg, weights)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    save_file(weights, tmp_path / "sae_weights.safetensors")
    coder, x = load_coder(tmp_path), sample(30)
    pre = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    latents = pre.relu()
    if change is _change_to_topk:
        latents = latents * (pre >= pre.topk(K).values[:, -1:])
    torch.testing.assert_close(coder.encode(x), latents, atol=1e-6, rtol=1e-6)
    out = (latents * weights.get("scaling_factor", 1)) @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(coder(x), out, atol=1e-6, rtol=1e-6)
    assert coder.sites == coder.target_sites == ("resid_pre[8]",)
    assert coder.metadata["model"] == "gpt2-small"


def test_scaling_factors_that_nobody_announced_are_refused(tmp_path: Path) -> None:
    cfg, weights = dict(OLD_CFG), dict(make_saelens("standard").state_dict())
    _change_to_scaled(cfg, weights)
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "finetuning_scaling_factor": False}))
    save_file(weights, tmp_path / "sae_weights.safetensors")
    with pytest.raises(CoderError, match="finetuning_scaling_factor"):
        load_coder(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "matching_pursuit"}, "unknown architecture 'matching_pursuit'"),
        ({"activation_fn": "tanh-relu"}, "activation_fn='tanh-relu'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"architecture": "topk"}, "k in cfg.json.* got None"),
        ({"architecture": "topk", "k": "many"}, "k in cfg.json.* got 'many'"),
        ({"architecture": "topk", "k": 99}, "k must be an integer in 1..23"),
    ],
)
def test_options_that_coders_here_have_not(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    make_saelens("standard").save_model(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, **change}))
    with pytest.raises(CoderError, match=says):
        load_coder(tmp_path)


def test_arrays_that_do_not_fit_are_named(tmp_path: Path) -> None:
    make_saelens("skip_transcoder").save_model(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    whole = load_file(path)
    changes: list[tuple[dict[str, Tensor], str]] = [
        ({k: v for k, v in whole.items() if k != "W_skip"}, "lacks W_skip"),
        ({k: v for k, v in whole.items() if k != "W_enc"}, "lacks a matrix W_enc"),
        ({**whole, "b_gate": whole["b_enc"]}, "has unknown b_gate"),
        ({**whole, "W_skip": whole["W_skip"].T.contiguous()}, r"W_skip must be \[5, 7\]; got \[7, 5\]"),
        ({**whole, "W_enc": whole["W_enc"][:3].contiguous()}, "d_in=7, its weights have 3"),
    ]
    for weights, says in changes:
        save_file({k: v.clone() for k, v in weights.items()}, path)
        with pytest.raises(DataFileError, match=says):
            load_coder(tmp_path)


def test_unknown_hooks_are_no_sites_but_kept(tmp_path: Path) -> None:
    sae = make_saelens("transcoder")
    sae.cfg.metadata.hook_name = "blocks.3.ln2.hook_normalized"
    sae.cfg.metadata.hook_name_out = "blocks.3.hook_mystery"
    sae.cfg.metadata.context_size = 128
    coder = from_saelens(sae)
    assert (coder.sites, coder.target_sites) == (("mlp_in[3]",), ())
    assert coder.metadata["unknown_hooks"] == {"hook_name_out": "blocks.3.hook_mystery"}
    assert_equal(load_coder(save_coder(coder, tmp_path / "coder")), coder)
    back = to_saelens(coder).cfg.metadata
    assert (back.hook_name_out, back.context_size) == ("blocks.3.hook_mystery", 128)


def test_from_saelens_copies_and_takes_nothing_else() -> None:
    sae = make_saelens("standard")
    coder, x = from_saelens(sae), sample(4)
    before = coder(x)
    sae.W_dec.data.zero_()
    assert torch.equal(coder(x), before)
    with pytest.raises(CoderError, match="got Linear"):
        from_saelens(torch.nn.Linear(2, 2))
    with pytest.raises(CoderError, match="no architecture for a SemiNMF"):
        to_saelens(SemiNMF(torch.ones(2, 3)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt2-small-res-jb/blocks.8.hook_resid_pre", r"from_pretrained\('gpt2-small-res-jb', 'blocks"),
        ("somebody/some-repo/some/folder", r"from_pretrained\('somebody/some-repo', 'some/folder'\)"),
        ("gpt2-small-res-jbb/blocks.8", "did you mean 'gpt2-small-res-jb'"),
    ],
)
def test_a_hub_that_is_out_of_reach(name: str, says: str) -> None:
    with pytest.raises(CoderError, match=says):
        load_from_hub(name)
    with pytest.raises(CoderError, match="no such folder"):
        load_coder(name)


def test_names_are_those_that_saelens_uses() -> None:
    from sae_lens import constants

    assert layout.CFG == constants.SAE_CFG_FILENAME
    assert layout.WEIGHTS == constants.SAE_WEIGHTS_FILENAME
    assert layout.SCALER == constants.ACTIVATION_SCALER_CFG_FILENAME
