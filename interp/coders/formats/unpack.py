"""From what files hold to the coder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.formats.foreign import Plain, read_plain
from interp.coders.formats.pack import own_name, saelens_name
from interp.coders.formats.stored import FACTS, Facts, Stored, build
from interp.errors import DataFileError

_ONE_THRESHOLD = ("batch-topk", "matryoshka")


def unpack(stored: Stored, where: str) -> Coder:
    """The coder that :func:`pack` or SAELens put into ``stored``; ``where`` names it in errors.

    Raises :class:`DataFileError` for contents that do not fit each other, and :class:`CoderError` for an
    architecture or an option that is not supported.
    """
    metadata = stored.cfg.get("metadata")
    ours = metadata.get(FACTS) if isinstance(metadata, Mapping) else None
    if ours is None:
        return _build_plain(read_plain(stored, where), stored, where)
    if not isinstance(ours, Mapping):
        raise DataFileError(f"{where}: metadata/{FACTS} does not describe a coder; save the coder again.")
    facts = Facts.from_dict(ours, where)
    if stored.cfg.get("architecture") == own_name(facts.config):
        return build(facts, stored.weights, where)
    plain = read_plain(stored, where)
    if _still_that(facts, plain):
        return build(facts, _to_state(facts.config, plain.weights, stored.exact), where)
    coder = _build_plain(plain, stored, where)
    coder.metadata = {**facts.metadata, **coder.metadata}
    return coder


def _still_that(facts: Facts, plain: Plain) -> bool:
    """Whether the files still hold the coder of ``facts``; SAELens may have changed one and written it."""
    config, read = facts.config, plain.facts.config
    same = saelens_name(config) == plain.architecture and facts.shape == plain.facts.shape
    if not same or config.d_sae != read.d_sae:
        return False
    if config.firing in _ONE_THRESHOLD:
        return len(plain.weights["threshold"].unique()) == 1
    return read.firing != "topk" or config.k == read.k


def _build_plain(plain: Plain, stored: Stored, where: str) -> Coder:
    return build(plain.facts, _to_state(plain.facts.config, plain.weights, stored.exact), where)


def _to_state(
    config: CoderConfig, weights: Mapping[str, Tensor], exact: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights under the names that they have in a coder's ``state_dict``."""
    names = {"W_enc": "W_enc", "b_enc": "b_enc", "b_gate": "b_enc", "b_mag": "b_mag", "r_mag": "r_mag"}
    state = {f"encoders.0.{ours}": weights[name] for name, ours in names.items() if name in weights}
    state["encoders.0.W_enc"] = weights["W_enc"].T
    state |= {name: weights[name] for name in ("W_dec", "b_dec")}
    if "W_skip" in weights:
        state["W_skip"] = weights["W_skip"].T
    if config.firing in _ONE_THRESHOLD:
        state["encoders.0.threshold"] = weights["threshold"][0].clone()
    elif "threshold" in weights:
        state["encoders.0.log_threshold"] = _logarithm(weights["threshold"], exact.get("log_threshold"))
    return state


def _logarithm(threshold: Tensor, exact: Tensor | None) -> Tensor:
    # another program may have written other thresholds beside the old logarithms
    if exact is not None and torch.equal(exact.exp(), threshold):
        return exact
    # nothing fires below zero, whatever the threshold
    return threshold.clamp(min=0).log()
