"""A sparse coder: an encoder that fires few latents, and a decoder that adds up their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.coders.batch import CoderBatch
from interp.coders.config import CoderConfig
from interp.coders.encoders import DecoderView, Encoder, Fired, StepState, make_encoder
from interp.coders.revival import revival_loss
from interp.coders.shape import CoderShape, check_shape
from interp.errors import CoderError
from interp.kernels.coder_step import SparseLatents, sparse_decode
from interp.results.coder_history import CoderHistory


@dataclass(frozen=True)
class CoderLoss:
    """The loss of one step and what it is made of; everything is a mean over rows."""

    loss: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    """Detached; ``reconstruction`` is the squared error, summed over the output."""
    fired: tuple[SparseLatents, ...]
    """Latents of every encoder, detached."""
    error: Float[Tensor, "row d_out"]
    """``target - output``, detached; several sites in one row."""


class Coder(nn.Module):
    """A dictionary: sparse autoencoder, transcoder or skip transcoder.

    ``latents = encode(x)``, ``out = latents @ W_dec + b_dec (+ x @ W_skip)``. An autoencoder's input is centred
    by ``b_dec``. All in units of the model's activations: scales used in training are taken in when it ends.
    Made by :func:`interp.train_coder` or :func:`interp.load_coder`.
    """

    def __init__(
        self,
        config: CoderConfig,
        shape: CoderShape,
        *,
        sites: Sequence[str] = (),
        target_sites: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        """A coder with random unit decoder rows, drawn from ``seed``.

        Raises :class:`CoderError` for inputs and outputs that the architecture cannot have.
        """
        super().__init__()
        check_shape(config, shape)
        self.config = config
        self.shape = shape
        self.sites = tuple(sites)
        self.target_sites = self.sites if target_sites is None else tuple(target_sites)
        self.metadata: dict[str, Any] = {}
        self.history: CoderHistory | None = None
        """Curves of the training that made it; a loaded coder has none."""
        self.centres_input = not config.reads_another_site
        """Whether ``b_dec`` is taken off the input."""
        self.encoders = nn.ModuleList(make_encoder(width, config) for width in self._encoder_widths())
        self.W_skip: nn.Parameter | None = None
        self._add_decoder()
        self._draw(torch.Generator().manual_seed(seed))

    def _encoder_widths(self) -> list[int]:
        return [self.shape.flat_in]

    def _add_decoder(self) -> None:
        self.W_dec = nn.Parameter(torch.zeros(self.config.d_sae, self.shape.flat_out))
        self.b_dec = nn.Parameter(torch.zeros(self.shape.flat_out))
        if self.config.architecture == "skip-transcoder":
            self.W_skip = nn.Parameter(torch.zeros(self.shape.d_in, self.shape.d_out))

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        for encoder, decoder in zip(self.encoder_list, self.decoder_weights(), strict=True):
            decoder.copy_(torch.randn(decoder.shape, generator=generator))
            decoder.div_(decoder.norm(dim=1, keepdim=True))
            if self.config.tied_start and decoder.shape == encoder.W_enc.shape:
                encoder.W_enc.copy_(decoder)
            else:
                encoder.W_enc.copy_(torch.randn(encoder.W_enc.shape, generator=generator))
                encoder.W_enc.div_(encoder.W_enc.norm(dim=1, keepdim=True))

    # what it is

    @property
    def encoder_list(self) -> list[Encoder]:
        """Its encoders: one, or one a layer."""
        return list(self.encoders)  # type: ignore[arg-type]

    @property
    def encoder(self) -> Encoder:
        """The only encoder. Raises :class:`CoderError` where there is one a layer."""
        if len(self.encoders) > 1:
            raise CoderError(f"this coder has {len(self.encoders)} encoders, one a layer; use encoder_list.")
        return self.encoder_list[0]

    @property
    def d_in(self) -> int:
        return self.shape.d_in

    @property
    def d_out(self) -> int:
        return self.shape.d_out

    @property
    def d_sae(self) -> int:
        return self.config.d_sae

    @property
    def W_enc(self) -> nn.Parameter:
        """[d_sae, d_in], one row a latent."""
        return self.encoder.W_enc

    @property
    def b_enc(self) -> nn.Parameter:
        """[d_sae]."""
        return self.encoder.b_enc

    @property
    def is_transcoder(self) -> bool:
        """Whether it predicts another activation than the one it reads."""
        return self.config.reads_another_site

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Architecture, sizes and sites."""
        size = f"{list(self.shape.input_axes)} -> {self.d_sae} -> {list(self.shape.output_axes)}"
        where = ", ".join(self.sites) or "no site"
        return f"{self.config.architecture}, {size}, {where}"

    # use

    def latents(
        self, x: Float[Tensor, "*rest d_in"], grad: Float[Tensor, "*rest d_in"] | None = None
    ) -> SparseLatents:
        """Latents of every row of ``x``, all leading axes flattened.

        ``grad``, the gradient of the model's loss with respect to x, is used by gradient coders only.
        Raises :class:`CoderError` for another width than the coder's.
        """
        rows = self._rows(x)
        fired = self._fire(rows, None if grad is None else self._rows(grad), StepState())
        return fired[0].latents

    def encode(
        self, x: Float[Tensor, "*rest d_in"], grad: Float[Tensor, "*rest d_in"] | None = None
    ) -> Float[Tensor, "*rest d_sae"]:
        """Latents as a dense tensor; as :meth:`latents`."""
        return self.latents(x, grad).to_dense().view(*self._leading(x), self.d_sae)

    def decode(
        self,
        latents: Float[Tensor, "*rest d_sae"] | SparseLatents,
        x: Float[Tensor, "*rest d_in"] | None = None,
    ) -> Float[Tensor, "*rest d_out"]:
        """Output from latents; a skip transcoder needs its input ``x`` too.

        Raises :class:`CoderError` for another number of latents, and without ``x`` where it is needed.
        """
        if self.W_skip is not None and x is None:
            raise CoderError("a skip transcoder's output needs its input too: decode(latents, x).")
        if isinstance(latents, SparseLatents):
            return self._output((latents,), None if x is None else self._rows(x))
        if latents.shape[-1] != self.d_sae:
            raise CoderError(f"latents must be [..., d_sae={self.d_sae}]; got shape {list(latents.shape)}.")
        out = latents @ self.W_dec + self.b_dec
        if self.W_skip is not None and x is not None:
            out = out + x @ self.W_skip
        return out.view(*latents.shape[:-1], *self.shape.output_axes)

    def forward(self, x: Float[Tensor, "*rest d_in"]) -> Float[Tensor, "*rest d_out"]:
        """What it makes of ``x``: the reconstruction, or the prediction of its target."""
        rows = self._rows(x)
        out = self._output(tuple(fired.latents for fired in self._fire(rows, None, StepState())), rows)
        return out.view(*self._leading(x), *self.shape.output_axes)

    def save(self, folder: str | Path) -> Path:
        """Write the coder to a folder, in SAELens' format where it has the architecture.

        See :func:`interp.load_coder`.
        """
        from interp.coders.files import save_coder

        return save_coder(self, folder)

    # training

    def loss(self, batch: CoderBatch, state: StepState) -> CoderLoss:
        """The loss of one step, on a batch in training units.

        Raises :class:`CoderError` for a batch of another shape, or without the gradients that a gradient
        coder learns from.
        """
        if self.is_transcoder and batch.is_reconstruction:
            raise CoderError(
                f"a {self.config.architecture} predicts another activation than it reads, but the batch's target is "
                "its input; give a target: stream_activations(model, data, 'mlp_in[2]', target='mlp_out[2]')."
            )
        x, target = self._rows(batch.x), self._targets(batch)
        grad = None
        if self.config.firing == "gradient":
            if batch.grad is None:
                raise CoderError(
                    "a gradient coder learns from batches with gradients: stream_activations(..., gradients=True)."
                )
            grad = self._rows(batch.grad)
        fired = self._fire(x, grad, state)
        latents = tuple(part.latents for part in fired)
        out = self._output(latents, x)
        parts = self._losses(x, target, out, fired, state)
        return CoderLoss(
            loss=torch.stack(list(parts.values())).sum(),
            parts={name: part.detach() for name, part in parts.items()},
            fired=tuple(part.with_values(part.values.detach()) for part in latents),
            error=(target - out).detach(),
        )

    def _losses(
        self, x: Tensor, target: Tensor, out: Tensor, fired: Sequence[Fired], state: StepState
    ) -> dict[str, Tensor]:
        parts = {"reconstruction": self._reconstruction(target, out, fired, x)}
        views = self._views(None)
        for number, (encoder, part, view) in enumerate(zip(self.encoder_list, fired, views, strict=True)):
            penalty = encoder.penalty(part, view)
            if penalty is not None:
                _add(parts, "sparsity", state.sparsity * penalty)
            if part.wider is not None:
                wide = self._output((part.wider,), x)
                _add(parts, "multi_k", _squared(target - wide) / 8)
            if part.gates is not None:
                gated = sparse_decode(part.gates, self.decoder_weights()[number].detach())
                centre = self.part_of_output(number, target) - self.part_of_output(
                    number, self.b_dec.detach()
                )
                _add(parts, "gates", _squared(centre - gated))
            if state.dead is not None and state.revival != "none":
                error = self.part_of_output(number, (target - out).detach())
                inputs = self.encoder_input(x, number)
                weights = self.decoder_weights()[number]
                revived = revival_loss(encoder, weights, inputs, part.pre, error, state.dead[number], state)
                if revived is not None:
                    _add(parts, state.revival, revived)
        return parts

    def _reconstruction(self, target: Tensor, out: Tensor, fired: Sequence[Fired], x: Tensor) -> Tensor:
        return _squared(target - out)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring every decoder row to length 1."""
        for weights in self.decoder_weights():
            weights.div_(weights.norm(dim=1, keepdim=True).clamp(min=1e-12))

    @torch.no_grad()
    def project_gradients(self) -> None:
        """Take out of the decoder's gradient what would only change the length of rows."""
        for weights in self.decoder_weights():
            if weights.grad is not None:
                along = (weights.grad * weights).sum(1, keepdim=True)
                along /= weights.norm(dim=1, keepdim=True).square().clamp(min=1e-24)
                weights.grad.addcmul_(along, weights, value=-1)

    @torch.no_grad()
    def scale_units(self, inputs: float, outputs: float) -> None:
        """Take the scales of training in: read activations that are not multiplied by ``inputs`` any more, and
        predict ones that are not multiplied by ``outputs``."""
        for encoder in self.encoder_list:
            encoder.scale_units(inputs, outputs)
        self.b_dec.div_(outputs)
        if self.W_skip is not None:
            self.W_skip.mul_(inputs / outputs)

    # parts that other wirings have otherwise

    def decoder_weights(self) -> list[nn.Parameter]:
        """The decoder of every encoder, [d_sae, outputs that it reaches]."""
        return [self.W_dec]

    def decoder_norms(self, number: int = 0) -> Float[Tensor, " d_sae"]:
        """Length of the decoder rows of encoder ``number``, as the sparsity penalty weighs them."""
        return self.decoder_weights()[number].norm(dim=1)

    def part_of_output(self, number: int, out: Float[Tensor, "*rest d_out"]) -> Float[Tensor, "*rest d_part"]:
        """Those outputs that encoder ``number`` reaches."""
        return out

    def encoder_input(self, rows: Float[Tensor, "row d_in"], number: int) -> Float[Tensor, "row d_part"]:
        """What encoder ``number`` reads of inputs."""
        return rows - self.b_dec if self.centres_input else rows

    def _fire(
        self, rows: Float[Tensor, "row d_in"], grad: Tensor | None, state: StepState
    ) -> tuple[Fired, ...]:
        views = self._views(grad)
        return tuple(
            encoder.fire(self.encoder_input(rows, number), view, state)
            for number, (encoder, view) in enumerate(zip(self.encoder_list, views, strict=True))
        )

    def _output(
        self, latents: Sequence[SparseLatents], rows: Float[Tensor, "row d_in"] | None
    ) -> Float[Tensor, "row d_out"]:
        out = sparse_decode(latents[0], self.W_dec) + self.b_dec
        return out if self.W_skip is None or rows is None else out + rows @ self.W_skip

    def _views(self, grad: Tensor | None) -> list[DecoderView]:
        return [
            DecoderView(partial(self.decoder_norms, number), weights, grad)
            for number, weights in enumerate(self.decoder_weights())
        ]

    def _leading(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[: x.ndim - len(self.shape.input_axes)])

    def _rows(self, x: Tensor) -> Float[Tensor, "row d_in"]:
        axes = self.shape.input_axes
        if tuple(x.shape[-len(axes) :]) != axes:
            where = f" of {', '.join(self.sites)}" if self.sites else ""
            raise CoderError(
                f"this coder reads activations [..., {', '.join(map(str, axes))}]{where}; got shape {list(x.shape)}."
            )
        return x.reshape(-1, self.shape.flat_in)

    def _targets(self, batch: CoderBatch) -> Float[Tensor, "row d_out"]:
        axes = self.shape.output_axes
        if tuple(batch.target.shape[1:]) != axes:
            raise CoderError(
                f"this coder predicts [row, {', '.join(map(str, axes))}]; the batch's target is "
                f"{list(batch.target.shape)}."
            )
        return batch.target.reshape(-1, self.shape.flat_out)


def _squared(error: Float[Tensor, "row d_out"]) -> Float[Tensor, ""]:
    return error.square().sum(1).mean()


def _add(parts: dict[str, Tensor], name: str, value: Tensor) -> None:
    parts[name] = parts[name] + value if name in parts else value
