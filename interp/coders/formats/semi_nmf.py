"""Semi-NMF dictionaries between memory and files."""

from __future__ import annotations

from collections.abc import Mapping

from interp.coders.formats.stored import FACTS, NOTE, Stored, check_arrays, check_metadata
from interp.coders.semi_nmf.dictionary import SemiNMF
from interp.errors import DataFileError

SEMI_NMF = "interp_semi_nmf"
"""Its architecture in cfg.json."""


def pack_semi_nmf(coder: SemiNMF) -> Stored:
    """What its files hold. Raises :class:`CoderError` for metadata that JSON cannot hold."""
    facts = {"sites": list(coder.sites), "losses": list(coder.losses), "metadata": coder.metadata}
    check_metadata(facts)
    cfg = {
        "architecture": SEMI_NMF,
        "d_in": coder.d_in,
        "d_sae": coder.d_sae,
        "dtype": str(coder.W_dec.dtype).removeprefix("torch."),
        "note": NOTE,
        "metadata": {FACTS: facts},
    }
    return Stored(cfg, dict(coder.state_dict()))


def unpack_semi_nmf(stored: Stored, where: str) -> SemiNMF:
    """The dictionary of :func:`pack_semi_nmf`; ``where`` names it in errors.

    Raises :class:`DataFileError` for contents that do not fit each other.
    """
    cfg = stored.cfg
    metadata = cfg.get("metadata")
    facts = metadata.get(FACTS) if isinstance(metadata, Mapping) else None
    if not isinstance(facts, Mapping):
        raise DataFileError(f"{where}: metadata/{FACTS} does not describe a coder; save the coder again.")
    try:
        check_arrays(stored.weights, {"W_dec": (cfg["d_sae"], cfg["d_in"])}, where)
        return SemiNMF(
            stored.weights["W_dec"],
            sites=facts["sites"],
            losses=[float(loss) for loss in facts["losses"]],
            metadata=facts["metadata"],
        ).eval()
    except (KeyError, TypeError, ValueError) as error:
        raise DataFileError(
            f"{where} does not describe a semi-NMF ({type(error).__name__}: {error}). Save the coder again."
        ) from error
