"""Cross-layer transcoders: latents read one layer's MLP input and write to the outputs of all later MLPs.

Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models", Transformer Circuits
Thread. Layer l's prediction is the sum of what the latents of layers up to l write to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.coders.coder import Coder
from interp.coders.encoders import StepState
from interp.errors import CoderError
from interp.kernels.coder_step import SparseLatents, sparse_decode


class CrossLayerTranscoder(Coder):
    """One encoder a layer; ``decoders[l]`` [d_sae, (n_layers - l) * d_out] writes to layers l and later.

    ``encode`` gives [..., layer, d_sae], and ``decode`` takes it. Layers count the coder's own sites, the first
    of which is 0 whatever the model's layer.
    """

    def _encoder_widths(self) -> list[int]:
        return [self.shape.d_in] * self.shape.n_inputs

    def _add_decoder(self) -> None:
        n, d = self.shape.n_inputs, self.shape.d_out
        self.decoders = nn.ParameterList(
            nn.Parameter(torch.zeros(self.config.d_sae, (n - layer) * d)) for layer in range(n)
        )
        self.b_dec = nn.Parameter(torch.zeros(n * d))

    @property
    def n_layers(self) -> int:
        """Layers that it reads, and writes to."""
        return self.shape.n_inputs

    def decoder_weights(self) -> list[nn.Parameter]:
        return list(self.decoders)

    def part_of_output(self, number: int, out: Float[Tensor, "*rest d_out"]) -> Float[Tensor, "*rest d_part"]:
        return out[..., number * self.shape.d_out :]

    def encoder_input(self, rows: Float[Tensor, "row d_in"], number: int) -> Float[Tensor, "row d_part"]:
        d = self.shape.d_in
        return rows[:, number * d : (number + 1) * d]

    def _output(
        self, latents: Sequence[SparseLatents], rows: Float[Tensor, "row d_in"] | None
    ) -> Float[Tensor, "row d_out"]:
        d = self.shape.d_out
        parts: list[Any] = list(self.b_dec.view(self.n_layers, d))
        for layer, (found, weights) in enumerate(zip(latents, self.decoders, strict=True)):
            written = sparse_decode(found, weights).unflatten(1, (-1, d))
            for later in range(layer, self.n_layers):
                parts[later] = parts[later] + written[:, later - layer]
        return torch.cat(parts, dim=1)

    def latents(self, x: Float[Tensor, "*rest layer d_in"], grad: Tensor | None = None) -> SparseLatents:
        """Latents of every row, those of all layers side by side: latent ``layer * d_sae + i``."""
        fired = self._fire(self._rows(x), None, StepState())
        dense = torch.stack([part.latents.to_dense() for part in fired], dim=1).flatten(1)
        return SparseLatents.from_dense(dense)

    def encode(
        self, x: Float[Tensor, "*rest layer d_in"], grad: Tensor | None = None
    ) -> Float[Tensor, "*rest layer d_sae"]:
        fired = self._fire(self._rows(x), None, StepState())
        dense = torch.stack([part.latents.to_dense() for part in fired], dim=1)
        return dense.view(*self._leading(x), self.n_layers, self.d_sae)

    def encode_layer(self, x: Float[Tensor, "*rest d_in"], layer: int) -> Float[Tensor, "*rest d_sae"]:
        """Latents of one layer, from its own input. Raises :class:`CoderError` for a layer it has not."""
        self._check_layer(layer)
        if x.shape[-1] != self.shape.d_in:
            raise CoderError(
                f"layer {layer} of this coder reads activations [..., {self.shape.d_in}]; got shape {list(x.shape)}."
            )
        encoder, view = self.encoder_list[layer], self._views(None)[layer]
        fired = encoder.fire(x.reshape(-1, x.shape[-1]), view, StepState())
        return fired.latents.to_dense().view(*x.shape[:-1], self.d_sae)

    def decode_layer(
        self, latents: Mapping[int, Float[Tensor, "*rest d_sae"]], layer: int
    ) -> Float[Tensor, "*rest d_out"]:
        """One layer's prediction, from the latents of all layers up to it.

        Raises :class:`CoderError` where latents of one of these are missing.
        """
        self._check_layer(layer)
        missing = sorted(set(range(layer + 1)) - set(latents))
        if missing:
            raise CoderError(
                f"layer {layer} is written to by layers 0 to {layer}; latents of {missing} are missing."
            )
        d = self.shape.d_out
        out: Tensor = self.b_dec.view(self.n_layers, d)[layer]
        for source in range(layer + 1):
            out = (
                out
                + latents[source] @ self.decoders[source][:, (layer - source) * d : (layer - source + 1) * d]
            )
        return out

    def decode(
        self, latents: Float[Tensor, "*rest layer d_sae"] | SparseLatents, x: Tensor | None = None
    ) -> Float[Tensor, "*rest layer d_out"]:
        """Predictions of all layers from ``encode``'s or ``latents``' result."""
        dense = latents
        if isinstance(latents, SparseLatents):
            dense = latents.to_dense().unflatten(1, (self.n_layers, self.d_sae))
        assert isinstance(dense, Tensor)
        if tuple(dense.shape[-2:]) != (self.n_layers, self.d_sae):
            raise CoderError(
                f"latents must be [..., layer={self.n_layers}, d_sae={self.d_sae}]; got {list(dense.shape)}."
            )
        by_layer = dict(enumerate(dense.unbind(-2)))
        return torch.stack([self.decode_layer(by_layer, layer) for layer in range(self.n_layers)], dim=-2)

    def _check_layer(self, layer: int) -> None:
        if not 0 <= layer < self.n_layers:
            raise CoderError(f"this coder has layers 0 to {self.n_layers - 1}; got {layer}.")
