"""SAELens' own coders: taken over, handed back, and fetched from the hub. The only module that imports sae_lens."""

from __future__ import annotations

import json
from typing import Any

import torch

from interp.coders.coder import Coder
from interp.coders.formats.pack import pack, saelens_name
from interp.coders.formats.stored import Stored
from interp.coders.formats.unpack import unpack
from interp.errors import CoderError, suggest_names


def from_saelens(sae: Any) -> Coder:
    """A coder with the weights of a ``sae_lens.SAE`` (or ``TrainingSAE``), copied, on the same device.

    Options that only move numbers between weights are folded, as :func:`interp.load_coder` does.
    Raises :class:`CoderError` for another object, and for architectures and options that coders here do not
    have (``layer_norm``: no weights can take in what changes with every input).
    """
    if not hasattr(getattr(sae, "cfg", None), "to_dict") or not hasattr(sae, "state_dict"):
        raise CoderError(
            f"from_saelens takes a loaded sae_lens.SAE; got {type(sae).__name__}. "
            "For folders and hub ids there is interp.load_coder."
        )
    # metadata may hold anything; what is no JSON is kept as text
    cfg = json.loads(json.dumps(sae.cfg.to_dict(), default=str))
    weights = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    return unpack(Stored(cfg, weights), f"the SAELens coder {type(sae).__name__}")


def to_saelens(coder: Coder) -> Any:
    """A ``sae_lens.SAE`` with the same outputs, its weights copied.

    Batch-top-k and matryoshka coders become JumpReLU with one threshold, gradient coders TopK, discrete ones
    standard. Raises :class:`CoderError` for architectures that SAELens has not.
    """
    if not isinstance(coder, Coder):
        raise CoderError(f"SAELens has no architecture for a {type(coder).__name__}.")
    if saelens_name(coder.config) is None:
        rule = f" with {coder.config.firing}" if coder.config.firing != coder.config.architecture else ""
        raise CoderError(f"SAELens has no architecture for a {coder.config.architecture} coder{rule}.")
    stored = pack(coder)
    kind = _sae_class()
    name, cfg = stored.cfg["architecture"], {**stored.cfg, "device": str(coder.b_dec.device)}
    sae = kind.get_sae_class_for_architecture(name)(
        kind.get_sae_config_class_for_architecture(name).from_dict(cfg)
    )
    with torch.no_grad():
        sae.load_state_dict({key: value.detach() for key, value in stored.weights.items()})
    return sae


def load_from_hub(name: str) -> Coder:
    """A coder of SAELens' directory, ``release/sae_id``, or of a hub repository, ``owner/repository/folder``.

    Raises :class:`CoderError` where it cannot be fetched, saying what was tried.
    """
    kind = _sae_class()
    release, sae_id = _split(name)
    try:
        sae = kind.from_pretrained(release, sae_id)
    # the loaders of so many formats raise anything, from the network's errors to KeyError
    except Exception as error:
        raise CoderError(
            f"no coder {name!r}: there is no such folder and no such bundled coder, and as a hub id, "
            f"sae_lens.SAE.from_pretrained({release!r}, {sae_id!r}) failed with {type(error).__name__}: {error}"
        ) from error
    return from_saelens(sae)


def _split(name: str) -> tuple[str, str]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    releases = get_pretrained_saes_directory()
    first, _, rest = name.partition("/")
    if first in releases:
        return first, rest
    owner, *parts = name.split("/", 2)
    if len(parts) < 2:
        raise CoderError(
            f"no coder {name!r}: there is no such folder and no such bundled coder, and SAELens knows no release "
            f"{first!r}{suggest_names(first, releases) or '.'} A hub id is 'release/sae_id' or "
            "'owner/repository/folder'."
        )
    return f"{owner}/{parts[0]}", parts[1]


def _sae_class() -> Any:
    try:
        from sae_lens import SAE
    except ImportError as error:
        raise CoderError(
            f"sae_lens cannot be imported ({error}); it is needed for its own coders and for hub ids. Install "
            "sae-lens with a transformer-lens that it supports (below 4). Folders are read without it."
        ) from error
    return SAE
