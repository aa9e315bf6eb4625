"""From a config to the coder it describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig
from interp.coders.cross_layer import CrossLayerTranscoder
from interp.coders.crosscoder import Crosscoder
from interp.coders.discrete import DiscreteCoder
from interp.coders.matryoshka import MatryoshkaCoder
from interp.coders.shape import CoderShape

_KINDS: Mapping[str, type[Coder]] = {
    "cross-layer-transcoder": CrossLayerTranscoder,
    "crosscoder": Crosscoder,
    "matryoshka": MatryoshkaCoder,
    "discrete": DiscreteCoder,
}


def make_coder(
    config: CoderConfig,
    shape: CoderShape,
    *,
    sites: Sequence[str] = (),
    target_sites: Sequence[str] | None = None,
    seed: int = 0,
) -> Coder:
    """An untrained coder, its decoder rows drawn from ``seed``.

    Raises :class:`CoderError` for inputs and outputs that the architecture cannot have.
    """
    kind = _KINDS.get(config.architecture, Coder)
    return kind(config, shape, sites=sites, target_sites=target_sites, seed=seed)
