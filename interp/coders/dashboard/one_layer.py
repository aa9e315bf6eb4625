"""One layer of a cross-layer transcoder, as a dictionary of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from jaxtyping import Float
from torch import Tensor

from interp.coders.dashboard.prompts import Encoder
from interp.errors import CoderError


class LayeredEncoder(Protocol):
    """What is needed of a dictionary whose latents read several layers, each its own."""

    config: Any
    sites: tuple[str, ...]
    target_sites: tuple[str, ...]

    @property
    def n_layers(self) -> int:
        """Layers that it reads."""

    @property
    def d_in(self) -> int:
        """Width of one layer's input."""

    @property
    def d_sae(self) -> int:
        """Latents of one layer."""

    def encode_layer(self, x: Tensor, layer: int) -> Tensor:
        """Latents of one layer, from its own input."""

    def decoder_weights(self) -> Sequence[Tensor]:
        """The decoder of every layer."""


class LayerOfTranscoder:
    """The latents that read one layer; their decoder rows reach the outputs of that layer and all later ones."""

    is_transcoder = True

    def __init__(self, coder: LayeredEncoder, layer: int) -> None:
        n = coder.n_layers
        if not 0 <= layer < n:
            raise CoderError(f"this coder has layers 0 to {n - 1} of its own; got layer={layer}.")
        self.coder, self.layer = coder, layer
        self.config = coder.config
        self.d_in, self.d_sae = coder.d_in, coder.d_sae
        self.sites = tuple(coder.sites[layer : layer + 1])
        self.target_sites = tuple(coder.target_sites[layer:])

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:
        """Rows for all outputs that the layer reaches, one after another."""
        return self.coder.decoder_weights()[self.layer]

    def encode(self, x: Float[Tensor, "*rest d_in"]) -> Float[Tensor, "*rest d_sae"]:
        """Latents of the layer, from its own input."""
        return self.coder.encode_layer(x, self.layer)


def choose_layer(coder: Encoder | LayeredEncoder, layer: int | None) -> Encoder:
    """The coder itself, or one layer of one that has several.

    Raises :class:`CoderError` for a cross-layer coder without a layer, and a layer of another coder.
    """
    if hasattr(coder, "encode_layer"):
        layered = cast(LayeredEncoder, coder)
        if layer is None:
            raise CoderError(
                f"a cross-layer transcoder has latents in every layer; name one of its own: layer=0 to "
                f"{layered.n_layers - 1}."
            )
        return LayerOfTranscoder(layered, layer)
    if layer is not None:
        raise CoderError(
            f"only a cross-layer transcoder has layers; got layer={layer} for a {type(coder).__name__}."
        )
    return coder
