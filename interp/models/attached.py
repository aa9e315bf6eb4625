"""Latents of coders that are attached to a model: where they can be read and edited.

This package knows no coder. Whoever attaches one makes its latents pass a point here, by which
capturing, intervening and patching reach them as any other activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.model import Model
from interp.models.sites import latent_hook

Place = tuple[str, int]
"""A component and its layer."""


class LatentPoint(nn.Module):
    """The hook point of one coder's latents."""

    def __init__(self, d_sae: int) -> None:
        super().__init__()
        self.d_sae = d_sae

    @property
    def is_watched(self) -> bool:
        """Whether anything reads or edits the latents now."""
        return bool(self._forward_hooks)

    def forward(self, latents: Float[Tensor, "batch pos d_sae"]) -> Float[Tensor, "batch pos d_sae"]:
        """The latents as they are after all edits; a node of its own in autograd's graph."""
        return latents.view_as(latents)


@contextmanager
def attached_latents(model: Model, sizes: Mapping[Place, int]) -> Iterator[dict[Place, LatentPoint]]:
    """Points for the latents of coders at these places, for as long as the block lasts.

    ``sizes`` are the numbers of latents. Raises :class:`ModelError` where a coder is attached already.
    """
    taken = [f"{component}[{layer}]" for component, layer in sizes if (component, layer) in model.attached]
    if taken:
        raise ModelError(f"a coder is attached at {', '.join(taken)} already; attach one at a place.")
    points = {place: LatentPoint(d_sae) for place, d_sae in sizes.items()}
    try:
        model.attached.update(sizes)
        model.hook_points.update({latent_hook(*place): point for place, point in points.items()})
        yield points
    finally:
        for place in sizes:
            model.attached.pop(place, None)
            model.hook_points.pop(latent_hook(*place), None)
