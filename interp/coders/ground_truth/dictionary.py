"""What a dictionary must offer to be measured, and the plain ones that others are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import CoderError


class Dictionary(Protocol):
    """Latents with a direction each: sparse autoencoders, transcoders, semi-NMF, bases."""

    @property
    def d_sae(self) -> int:
        """Latents."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_out"]:
        """Each latent's direction in the output."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents [*rest, d_sae] of activations [*rest, d_in]."""

    def decode(self, latents: Any) -> Tensor:
        """Output [*rest, d_out] of latents [*rest, d_sae]."""


@dataclass(frozen=True, eq=False)
class LinearDictionary:
    """Latents ``relu(x @ W_enc.T + b_enc)``, of which the ``k`` largest of each row are kept.

    All are kept where ``k`` is ``None``. Raises :class:`CoderError` for parts that do not fit.
    """

    W_enc: Float[Tensor, "d_sae d_in"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_enc: Float[Tensor, " d_sae"] | None = None
    b_dec: Float[Tensor, " d_out"] | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        if len(self.W_enc) != len(self.W_dec):
            raise CoderError(
                f"W_enc and W_dec have a row a latent; got {len(self.W_enc)} and {len(self.W_dec)} rows."
            )
        if self.k is not None and not 1 <= self.k <= self.d_sae:
            raise CoderError(f"k lies between 1 and {self.d_sae} latents; got {self.k}.")

    @property
    def d_sae(self) -> int:
        """Latents."""
        return len(self.W_dec)

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        """Width of the output."""
        return self.W_dec.shape[1]

    def encode(self, x: Float[Tensor, "*rest d_in"]) -> Float[Tensor, "*rest d_sae"]:
        """The latents, none below 0."""
        pre = x @ self.W_enc.T
        latents = (pre if self.b_enc is None else pre + self.b_enc).relu()
        if self.k is None:
            return latents
        values, chosen = latents.topk(self.k, dim=-1)
        return torch.zeros_like(latents).scatter(-1, chosen, values)

    def decode(
        self, latents: Float[Tensor, "*rest d_sae"], x: Tensor | None = None
    ) -> Float[Tensor, "*rest d_out"]:
        """Sum of the directions, each as large as its latent; the input ``x`` plays no part."""
        out = latents @ self.W_dec
        return out if self.b_dec is None else out + self.b_dec


def random_dictionary(
    x: Float[Tensor, "row d_in"],
    d_sae: int,
    k: int,
    generator: torch.Generator,
    target: Float[Tensor, "row d_out"] | None = None,
) -> LinearDictionary:
    """A dictionary of random unit directions: what figures are worth without any learning.

    Latents are the ``k`` largest of ``gain (x - mean) @ W.T``; the mean and the one gain are fitted to ``x``
    by least squares, so that its error is no worse than it must be. With a ``target`` decoder rows are random
    directions of their own.
    """
    x = x.detach()
    d_in = x.shape[1]
    rows = _unit_rows(d_sae, d_in, generator).to(x)
    out = x if target is None else target
    written = rows if target is None else _unit_rows(d_sae, target.shape[1], generator).to(x)
    centre = x.mean(0)
    plain = LinearDictionary(rows, written, -rows @ centre, None, k)
    made, wanted = plain.decode(plain.encode(x)), out - out.mean(0)
    energy = float((made * made).sum())
    gain = float((made * wanted).sum()) / energy if energy else 0.0
    # a gain that is not positive would silence every latent
    gain = gain if gain > 0 else 1e-6
    return LinearDictionary(gain * rows, written, -gain * rows @ centre, out.mean(0), k)


def reconstruct(dictionary: Dictionary, x: Float[Tensor, "row d_in"]) -> tuple[Tensor, Tensor]:
    """[row, d_sae] latents and [row, d_out] output, a skip connection included; no gradients."""
    with torch.no_grad():
        latents = dictionary.encode(x)
        if getattr(dictionary, "W_skip", None) is not None:
            skipping: Any = dictionary
            return latents, skipping.decode(latents, x)
        return latents, dictionary.decode(latents)


def unit_rows(directions: Float[Tensor, "row d"]) -> Float[Tensor, "row d"]:
    """Rows of length 1; rows of zeros stay."""
    lengths = directions.norm(dim=1, keepdim=True)
    return directions / torch.where(lengths > 0, lengths, torch.ones_like(lengths))


def _unit_rows(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "row d"]:
    return unit_rows(torch.randn(n, d, generator=generator))
