"""cfg.json of all versions of SAELens, as of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.errors import CoderError, DataFileError

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_OF_METADATA = (
    "model_name",
    "hook_name",
    "hook_name_out",
    "hook_head_index",
    "hook_head_index_out",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "prepend_bos",
    "exclude_special_tokens",
    "neuronpedia_id",
    "context_size",
    "seqpos_slice",
    "dataset_path",
    "sae_lens_version",
    "sae_lens_training_version",
)


def upgrade_cfg(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of today; before version 6 those of the model lay between those of the coder.

    Raises :class:`CoderError` for an activation function that coders here do not have.
    """
    cfg = {_RENAMED.get(key, key): value for key, value in found.items()}
    nested = cfg.get("metadata") or {}
    if not isinstance(nested, Mapping):
        raise DataFileError(f"{where}: metadata in cfg.json must be an object; got {type(nested).__name__}.")
    metadata = {key: cfg[key] for key in _OF_METADATA if cfg.get(key) is not None} | dict(nested)
    hook, layer = metadata.get("hook_name"), cfg.get("hook_layer")
    if isinstance(hook, str) and layer is not None:
        metadata["hook_name"] = hook.replace("{layer}", str(layer))
    cfg["metadata"] = metadata
    cfg.setdefault("architecture", "standard")
    cfg.setdefault("apply_b_dec_to_input", "transcoder" not in str(cfg["architecture"]))
    _upgrade_activation(cfg, where)
    norm = cfg.get("normalize_activations")
    if norm is None or isinstance(norm, bool):
        cfg["normalize_activations"] = "expected_average_only_in" if norm else "none"
    return cfg


def _upgrade_activation(cfg: dict[str, Any], where: str) -> None:
    name = cfg.get("activation_fn", "relu")
    if name == "topk" and cfg["architecture"] in ("standard", "topk"):
        cfg["architecture"] = "topk"
        cfg.setdefault("k", (cfg.get("activation_fn_kwargs") or {}).get("k"))
    elif name not in ("relu", "topk"):
        raise CoderError(f"{where}: activation_fn={name!r} is not supported; known are relu and topk.")
