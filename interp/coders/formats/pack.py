"""From a coder to what its files hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.encoders import BatchTopKEncoder, GatedEncoder, JumpReLUEncoder
from interp.coders.formats.hook_names import find_hook
from interp.coders.formats.stored import FACTS, NOTE, SAELENS_FORMAT, Facts, Stored, check_metadata
from interp.results.provenance import installed_versions

_AUTOENCODERS = {
    "standard": "standard",
    "discrete": "standard",
    "gated": "gated",
    "topk": "topk",
    "gradient": "topk",
    "jumprelu": "jumprelu",
    "batch-topk": "jumprelu",
    "matryoshka": "jumprelu",
}
_TRANSCODERS = {
    "standard": "transcoder",
    "jumprelu": "jumprelu_transcoder",
    "batch-topk": "jumprelu_transcoder",
}


def saelens_name(config: CoderConfig) -> str | None:
    """Name of the SAELens architecture that computes the same in use; ``None`` without one."""
    if config.architecture == "transcoder":
        return _TRANSCODERS.get(config.firing)
    if config.architecture == "skip-transcoder":
        name = _TRANSCODERS.get(config.firing)
        return name and name.replace("transcoder", "skip_transcoder")
    return _AUTOENCODERS.get(config.architecture)


def own_name(config: CoderConfig) -> str:
    """Name of the architecture in cfg.json where SAELens has none."""
    return f"interp_{config.architecture.replace('-', '_')}"


def pack(coder: Coder) -> Stored:
    """What the files of a coder hold; the tensors are views of its weights where they can be.

    Raises :class:`CoderError` for metadata that JSON cannot hold.
    """
    name = saelens_name(coder.config)
    common: dict[str, Any] = {
        "architecture": name or own_name(coder.config),
        "d_in": coder.d_in,
        "d_sae": coder.d_sae,
        "dtype": str(coder.b_dec.dtype).removeprefix("torch."),
        "device": "cpu",
    }
    if name is None:
        cfg = {**common, "d_out": coder.d_out, "note": NOTE, "metadata": _metadata(coder)}
        return Stored(cfg, dict(coder.state_dict()))
    heads = coder.sites[:1] and find_hook(coder.sites[0])
    cfg = {
        **common,
        "apply_b_dec_to_input": coder.centres_input,
        "normalize_activations": "none",
        "reshape_activations": "hook_z"
        if heads and heads[0].endswith("hook_z") and heads[1] is None
        else "none",
        "metadata": _metadata(coder),
    }
    if coder.is_transcoder:
        cfg["d_out"] = coder.d_out
    if name == "topk":
        cfg |= {"k": coder.config.k, "rescale_acts_by_decoder_norm": False}
    return Stored(cfg, _weights(coder), _exact(coder))


@torch.no_grad()
def _weights(coder: Coder) -> dict[str, Tensor]:
    encoder = coder.encoder
    weights: dict[str, Tensor] = {"W_enc": encoder.W_enc.T, "W_dec": coder.W_dec, "b_dec": coder.b_dec}
    if isinstance(encoder, GatedEncoder):
        weights |= {"b_gate": encoder.b_enc, "b_mag": encoder.b_mag, "r_mag": encoder.r_mag}
    else:
        weights["b_enc"] = encoder.b_enc
    if isinstance(encoder, JumpReLUEncoder | BatchTopKEncoder):
        weights["threshold"] = encoder.threshold.expand(coder.d_sae)
    if coder.W_skip is not None:
        weights["W_skip"] = coder.W_skip.T
    return weights


def _exact(coder: Coder) -> dict[str, Tensor]:
    # the logarithm of a rounded exponential is not always the number itself
    encoder = coder.encoder
    return {"log_threshold": encoder.log_threshold} if isinstance(encoder, JumpReLUEncoder) else {}


def _metadata(coder: Coder) -> dict[str, Any]:
    facts = Facts.of(coder).to_dict()
    check_metadata(facts)
    read = coder.metadata.get("saelens")
    found: dict[str, Any] = {
        **(read if isinstance(read, dict) else {}),
        "sae_lens_version": SAELENS_FORMAT,
        "sae_lens_training_version": None,
        "interp_version": installed_versions()["interp"],
        "model_name": coder.metadata.get("model"),
        FACTS: facts,
    }
    for key, sites in (("", coder.sites), ("_out", coder.target_sites if coder.is_transcoder else ())):
        if len(sites) == 1:
            found["hook_name" + key], found["hook_head_index" + key] = find_hook(sites[0])
    return found
