"""Coders as SAELens writes them, brought to one plain form.

Plain: inputs centred by ``b_dec`` in autoencoders and not in transcoders, no normalisation, no rescaling.
Options that only move numbers between arrays are folded; what changes with every input is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.coders.config import CoderConfig
from interp.coders.formats.hook_names import find_site
from interp.coders.formats.stored import Facts, Stored, check_arrays
from interp.coders.formats.upgrade import upgrade_cfg
from interp.coders.shape import CoderShape
from interp.errors import CoderError, DataFileError, unknown_name

# SAELens' architecture: ours, and its activation
_ARCHITECTURES: dict[str, tuple[str, str | None]] = {
    "standard": ("standard", None),
    "gated": ("gated", None),
    "topk": ("topk", None),
    "jumprelu": ("jumprelu", None),
    "batchtopk": ("batch-topk", None),
    "matryoshka_batchtopk": ("matryoshka", None),
    "transcoder": ("transcoder", "standard"),
    "skip_transcoder": ("skip-transcoder", "standard"),
    "jumprelu_transcoder": ("transcoder", "jumprelu"),
    "jumprelu_skip_transcoder": ("skip-transcoder", "jumprelu"),
}

INPUT_SCALE = "norm_scaling_factor"
"""Key under which the reader of a folder puts what SAELens' trainer multiplied inputs by."""


@dataclass(frozen=True)
class Plain:
    """A coder of SAELens' in plain form."""

    architecture: str
    """SAELens' name."""
    facts: Facts
    weights: dict[str, Tensor]
    """Named and turned as SAELens has them."""


def read_plain(stored: Stored, where: str) -> Plain:
    """Bring a coder to plain form.

    Raises :class:`CoderError` for an architecture or a normalisation that coders here do not have, and
    :class:`DataFileError` for arrays that are missing or of another shape than cfg.json says.
    """
    cfg = upgrade_cfg(stored.cfg, where)
    name = cfg["architecture"]
    if name not in _ARCHITECTURES:
        raise CoderError(f"{where}: {unknown_name('architecture', str(name), _ARCHITECTURES)}")
    weights = _rename(stored.weights, cfg)
    shape = _shape(cfg, weights, where)
    check_arrays(weights, _wanted(name, cfg, shape, weights), where)
    notes = [note for fold in _FOLDS if (note := fold(weights, cfg, where))]
    dtype = _dtype(cfg, where)
    weights = {key: value.to(dtype) for key, value in weights.items()}
    return Plain(name, _facts(cfg, shape, weights, notes, where), weights)


def _rename(found: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    """Older and training folders' arrays under the names of today."""
    weights = dict(found)
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    if "topk_threshold" in weights and "b_enc" in weights:
        weights["threshold"] = weights.pop("topk_threshold").expand(len(weights["b_enc"]))
    if "scaling_factor" in weights:
        weights["finetuning_scaling_factor"] = weights.pop("scaling_factor")
    return weights


def _shape(cfg: Mapping[str, Any], weights: Mapping[str, Tensor], where: str) -> CoderShape:
    for name in ("W_enc", "W_dec"):
        if name not in weights or weights[name].ndim != 2:
            raise DataFileError(f"{where} lacks a matrix {name}; it is no coder, or a damaged one.")
    d_in, d_out = weights["W_enc"].shape[0], weights["W_dec"].shape[1]
    sizes = {"d_in": d_in, "d_sae": weights["W_dec"].shape[0], "d_out": d_out}
    for name, size in sizes.items():
        if cfg.get(name, size) != size:
            raise DataFileError(
                f"{where}: cfg.json says {name}={cfg[name]!r}, its weights have {size}. The files do not belong "
                "together: fetch or save the coder again."
            )
    return CoderShape(d_in, d_out)


def _wanted(
    name: str, cfg: Mapping[str, Any], shape: CoderShape, weights: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    d_sae = weights["W_dec"].shape[0]
    wanted = {"W_enc": (shape.d_in, d_sae), "W_dec": (d_sae, shape.d_out), "b_dec": (shape.d_out,)}
    biases = ["b_gate", "b_mag", "r_mag"] if name == "gated" else ["b_enc"]
    if name.startswith("jumprelu") or name.endswith("batchtopk"):
        biases.append("threshold")
    if "finetuning_scaling_factor" in weights:
        biases.append("finetuning_scaling_factor")
    wanted |= dict.fromkeys(biases, (d_sae,))
    if "skip" in name:
        wanted["W_skip"] = (shape.d_out, shape.d_in)
    return wanted


def _fold_input_scale(weights: dict[str, Tensor], cfg: Mapping[str, Any], where: str) -> str | None:
    norm, factor = cfg["normalize_activations"], cfg.get(INPUT_SCALE)
    if norm == "none":
        return None
    if norm == "expected_average_only_in" and factor and "transcoder" not in cfg["architecture"]:
        weights["W_enc"] = _scale(weights["W_enc"], factor)
        for name in ("W_dec", "b_dec"):
            weights[name] = _scale(weights[name], 1 / factor)
        return norm
    if norm == "expected_average_only_in":
        raise CoderError(
            f"{where} reads activations scaled to a mean norm of sqrt(d_in) (normalize_activations={norm!r}), but its "
            "files do not hold the factor, or not the output's (transcoders). Measure it (sqrt(d_in) over the mean "
            "norm), call sae.fold_activation_norm_scaling_factor(factor) in SAELens, and pass that coder to "
            "interp.from_saelens."
        )
    if norm == "covariance_whitening":
        raise CoderError(
            f"{where} reads whitened activations (normalize_activations={norm!r}). Call "
            "sae.fold_activation_whitening(...) in SAELens, and pass that coder to interp.from_saelens."
        )
    raise CoderError(
        f"{where} normalises every input by itself (normalize_activations={norm!r}), which no weights can take in: "
        "such coders are not supported."
    )


def _fold_finetuning(weights: dict[str, Tensor], cfg: Mapping[str, Any], where: str) -> str | None:
    factors = weights.pop("finetuning_scaling_factor", None)
    if factors is None or bool((factors == 1).all()):
        return None
    if not cfg.get("finetuning_scaling_factor"):
        raise CoderError(
            f"{where} has scaling factors other than 1 but cfg.json does not say finetuning_scaling_factor=true: "
            "it is unclear whether they are meant."
        )
    weights["W_dec"] = _scale(weights["W_dec"], factors.double()[:, None])
    return "finetuning_scaling_factor"


def _fold_decoder_norms(weights: dict[str, Tensor], cfg: Mapping[str, Any], where: str) -> str | None:
    if not cfg.get("rescale_acts_by_decoder_norm"):
        return None
    # SAELens' least length
    norms = weights["W_dec"].double().norm(dim=1).clamp(min=1e-8)
    weights["W_dec"] = _scale(weights["W_dec"], 1 / norms[:, None])
    weights["W_enc"] = _scale(weights["W_enc"], norms)
    weights["b_enc"] = _scale(weights["b_enc"], norms)
    return "rescale_acts_by_decoder_norm"


def _fold_centre(weights: dict[str, Tensor], cfg: Mapping[str, Any], where: str) -> str | None:
    if cfg["apply_b_dec_to_input"] or "transcoder" in cfg["architecture"]:
        return None
    shift = weights["b_dec"].double() @ weights["W_enc"].double()
    for name in ("b_enc", "b_gate", "b_mag"):
        if name in weights:
            scale = weights["r_mag"].double().exp() if name == "b_mag" else 1.0
            weights[name] = (weights[name].double() + shift * scale).to(weights[name].dtype)
    return "apply_b_dec_to_input"


def _scale(weights: Tensor, factor: Tensor | float) -> Tensor:
    return (weights.double() * factor).to(weights.dtype)


# in this order: each expects what those before have folded
_FOLDS = (_fold_input_scale, _fold_finetuning, _fold_decoder_norms, _fold_centre)


def _dtype(cfg: Mapping[str, Any], where: str) -> torch.dtype:
    name = str(cfg.get("dtype", "float32")).removeprefix("torch.")
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise CoderError(f"{where}: dtype={cfg['dtype']!r} is no floating-point type of torch.")
    return dtype


def _facts(
    cfg: Mapping[str, Any], shape: CoderShape, weights: Mapping[str, Tensor], notes: list[str], where: str
) -> Facts:
    architecture, activation = _ARCHITECTURES[cfg["architecture"]]
    norms = weights["W_dec"].float().norm(dim=1)
    options: dict[str, Any] = {
        "architecture": architecture,
        "activation": activation,
        "d_sae": len(norms),
        "unit_decoder": bool(((norms - 1).abs() < 1e-3).all()),
    }
    if architecture in ("topk", "batch-topk", "matryoshka"):
        k = cfg.get("k")
        if not isinstance(k, int | float) or k <= 0:
            raise CoderError(
                f"{where}: k in cfg.json, the number of latents that fire, must be positive; got {k!r}."
            )
        options["k"] = max(round(k), 1)
    if architecture == "matryoshka" and cfg.get("matryoshka_widths"):
        options["widths"] = sorted({*cfg["matryoshka_widths"], len(norms)})
    sites, metadata = _sites(cfg["metadata"])
    metadata["saelens_architecture"] = cfg["architecture"]
    if notes:
        metadata["folded"] = notes
    transcodes = "transcoder" in architecture
    targets = sites["hook_name_out"] if transcodes else sites["hook_name"]
    return Facts(CoderConfig(**options), shape, sites["hook_name"], targets, metadata)


def _sites(found: Mapping[str, Any]) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """Sites by SAELens' key, and metadata; hooks that are no site here stay among these."""
    sites: dict[str, tuple[str, ...]] = {}
    unknown = {}
    for key in ("hook_name", "hook_name_out"):
        hook, head = found.get(key), found.get(key.replace("name", "head_index"))
        site = find_site(hook, head) if isinstance(hook, str) else None
        if hook and site is None:
            unknown[key] = hook
        sites[key] = () if site is None else (site,)
    rest = {key: value for key, value in found.items() if key != "interp" and value is not None}
    metadata: dict[str, Any] = {"model": found.get("model_name"), "saelens": rest}
    if unknown:
        metadata["unknown_hooks"] = unknown
    return sites, metadata
