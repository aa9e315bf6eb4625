"""Which heads the latents of an attention-output coder come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RecordError
from interp.results.provenance import Provenance
from interp.results.record import Record
from interp.results.views import draw

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class HeadAttribution(Record):
    """What every head adds to the latents of a coder that reads all heads of a layer side by side.

    Raises :class:`RecordError` when the fields do not agree.
    """

    AXES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "contribution": ("d_sae", "head"),
        "decoder_share": ("d_sae", "head"),
        "n_fired": ("d_sae",),
    }

    site: str
    layer: int
    contribution: Float[Tensor, "d_sae head"]
    """``z_head . W_enc[latent, head]``, averaged over the tokens where the latent fires: over heads, and with the
    encoder's bias, it adds up to the latent's mean pre-activation there. NaN for latents that never fire."""
    decoder_share: Float[Tensor, "d_sae head"]
    """Share of the squared length of the latent's decoder row that lies in each head (Kissane et al. 2024,
    arXiv 2406.17759, by lengths)."""
    n_fired: Int[Tensor, " d_sae"]
    """Tokens on which each latent fires."""
    n_tokens: int
    provenance: Provenance

    def __post_init__(self) -> None:
        self._check_axes()

    @property
    def share(self) -> Float[Tensor, "d_sae head"]:
        """Each head's share of what all heads contribute; negative where a head works against the latent."""
        return self.contribution / self.contribution.sum(1, keepdim=True)

    def __repr__(self) -> str:
        alive = int((self.n_fired > 0).sum())
        return (
            f"HeadAttribution({self.site}: {alive} of {len(self.n_fired)} latents fire on {self.n_tokens:,} tokens; "
            f"{self.provenance.summary()})"
        )

    def top(self, head: int, n: int = 10) -> tuple[int, ...]:
        """The latents of which ``head`` has the largest share, the largest first.

        Raises :class:`RecordError` for a head that the layer does not have.
        """
        n_heads = self.contribution.shape[1]
        if not 0 <= head < n_heads:
            raise RecordError(f"layer {self.layer} has heads 0 to {n_heads - 1}; got {head}.")
        ranked = self.share[:, head].nan_to_num(-torch.inf).argsort(descending=True, stable=True)
        alive = ranked[self.n_fired[ranked] > 0]
        return tuple(alive[:n].tolist())

    def to_frame(self) -> pd.DataFrame:
        """One row a latent and head."""
        import pandas as pd

        n, heads = self.contribution.shape
        return pd.DataFrame(
            {
                "latent": torch.arange(n).repeat_interleave(heads).numpy(),
                "head": torch.arange(heads).repeat(n).numpy(),
                "contribution": self.contribution.flatten().numpy(),
                "share": self.share.flatten().numpy(),
                "decoder_share": self.decoder_share.flatten().numpy(),
                "n_fired": self.n_fired.repeat_interleave(heads).numpy(),
            }
        )

    def plot(self, latents: tuple[int, ...] | None = None, n: int = 40) -> go.Figure:
        """Shares of latents by head (``interp.plots.plot_head_attribution``)."""
        return draw("plot_head_attribution", self, latents, n)
