"""A coder in its model while it is trained there: it reads the tokens that count, and keeps what it made of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.coders.coder import Coder
from interp.coders.cross_layer import CrossLayerTranscoder
from interp.coders.encoders import DecoderView, Fired, StepState
from interp.coders.train.start import Scales


class CoderInPlace(nn.Module):
    """A coder in training units, as :func:`interp.substitute` takes one, in units of the model's activations.

    Only tokens of ``counted`` reach the coder, so that padding and first tokens neither compete for the latents
    of a batch nor teach it anything; its output is zero elsewhere, where nothing is to be replaced by it.
    """

    def __init__(self, coder: Coder, scales: Scales) -> None:
        super().__init__()
        self.coder, self.scales = coder, scales
        self.shape = coder.shape
        self.d_in, self.d_out, self.d_sae = coder.d_in, coder.d_out, coder.d_sae
        self.sites, self.target_sites = coder.sites, coder.target_sites
        self.is_transcoder = coder.is_transcoder
        self.counted: Bool[Tensor, "batch pos"] = torch.zeros(0, 0, dtype=torch.bool)
        self.fired: dict[int, Fired] = {}
        self.outputs: dict[int, Float[Tensor, "row d_out"]] = {}
        """Of each site, in training units."""

    def begin(self, counted: Bool[Tensor, "batch pos"]) -> None:
        """Forget the last forward; the next one is of prompts whose tokens count where ``counted`` says."""
        self.counted = counted
        self.fired.clear()
        self.outputs.clear()

    def forward(self, x: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_out"]:
        rows = self._fire(x, 0)
        self.outputs[0] = self.coder.decode(self.fired[0].latents, rows)
        return self._spread(self.outputs[0] / self.scales.outputs)

    def encode(self, x: Float[Tensor, "batch pos d_in"]) -> Float[Tensor, "batch pos d_sae"]:
        """Latents in training units."""
        self._fire(x, 0)
        return self._spread(self.fired[0].latents.to_dense())

    def decode(
        self, latents: Float[Tensor, "batch pos d_sae"], x: Float[Tensor, "batch pos d_in"] | None = None
    ) -> Float[Tensor, "batch pos d_out"]:
        """The output of latents in training units."""
        x = None if x is None else x * self.scales.inputs
        return self.coder.decode(latents, x) / self.scales.outputs

    def penalty(self) -> Float[Tensor, ""] | None:
        """The encoders' sparsity penalties, added up; ``None`` for kinds that have none."""
        found = [
            self.coder.encoder_list[number].penalty(fired, self._view(number))
            for number, fired in self.fired.items()
        ]
        parts = [part for part in found if part is not None]
        return torch.stack(parts).sum() if parts else None

    def count_active(self) -> int:
        """Latents that fired, over tokens and encoders."""
        return sum(int(fired.latents.active_counts().sum()) for fired in self.fired.values())

    def _fire(self, x: Float[Tensor, "batch pos d_in"], number: int) -> Float[Tensor, "row d_in"]:
        rows = x[self.counted] * self.scales.inputs
        centred = rows - self.coder.b_dec if self.coder.centres_input else rows
        encoder = self.coder.encoder_list[number]
        self.fired[number] = encoder.fire(centred, self._view(number), StepState())
        return rows

    def _view(self, number: int) -> DecoderView:
        return DecoderView(partial(self.coder.decoder_norms, number), self.coder.decoder_weights()[number])

    def _spread(self, rows: Float[Tensor, "row d"]) -> Float[Tensor, "batch pos d"]:
        empty = rows.new_zeros(*self.counted.shape, rows.shape[1])
        return empty.index_put((self.counted,), rows)


class LayersInPlace(CoderInPlace):
    """The same of a cross-layer transcoder, which is run layer by layer."""

    coder: CrossLayerTranscoder

    def encode_layer(
        self, x: Float[Tensor, "batch pos d_in"], layer: int
    ) -> Float[Tensor, "batch pos d_sae"]:
        """One layer's latents, in training units."""
        self._fire(x, layer)
        return self._spread(self.fired[layer].latents.to_dense())

    def decode_layer(
        self, latents: Mapping[int, Float[Tensor, "batch pos d_sae"]], layer: int
    ) -> Float[Tensor, "batch pos d_out"]:
        """One layer's output."""
        out = self.coder.decode_layer(latents, layer)
        self.outputs[layer] = out[self.counted]
        return out / self.scales.outputs


def put_in_place(coder: Coder, scales: Scales) -> CoderInPlace:
    """A coder, given in units of activations, brought into training units and made ready for its model."""
    coder.scale_units(1 / scales.inputs, 1 / scales.outputs)
    kind = LayersInPlace if isinstance(coder, CrossLayerTranscoder) else CoderInPlace
    return kind(coder, scales)
