"""Activations of a run, read back by site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import SiteError
from interp.models.positions import Columns, Prompt
from interp.types import ALL, EACH, Site, SiteLike, parse_site


@dataclass(frozen=True)
class ActivationCache(Mapping[SiteLike, Tensor]):
    """What :func:`interp.capture` returns: one tensor a site that was asked for.

    ``cache["z"]`` is [layer, batch, pos, head, d_head]; ``cache["z[9.6]"]`` [batch, pos, d_head];
    ``cache["resid_pre[4]@END"]`` [batch, d_model]. Any part of a captured site can be read by its
    own name. ``grads`` holds gradients in the same shapes when they were asked for.
    """

    tensors: dict[Site, Tensor]
    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"] | None = None
    labels: Mapping[str, Int[Tensor, "batch"]] = field(default_factory=dict)
    logits: Tensor | None = None
    grads: ActivationCache | None = None

    def __getitem__(self, key: SiteLike) -> Tensor:
        site = parse_site(key)
        if site in self.tensors:
            return self.tensors[site]
        for stored, value in self.tensors.items():
            if _covers(stored, site):
                return self._narrow(stored, value, site)
        known = ", ".join(f"{s}{' in a subspace' * (s.subspace is not None)}" for s in self.tensors)
        raise SiteError(f"site {site} was not captured. Captured: {known}. Add it to sites=[...].")

    def __iter__(self) -> Iterator[SiteLike]:
        # a subspace has no spelling
        return (str(site) if site.subspace is None else site for site in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, key: object) -> bool:
        try:
            self[key]  # type: ignore[index]
        except SiteError:
            return False
        return True

    @property
    def columns(self) -> Columns:
        """The captured columns as positions."""
        batch, n = self.tokens.shape
        return Columns(Prompt.from_mask(batch, n, self.attention_mask), 0, n)

    def _narrow(self, stored: Site, value: Tensor, site: Site) -> Tensor:
        if stored.layer is None and site.layer is not None:
            value = value[site.layer]
        by_layer = site.layer is None and site.component != "embed"
        return select_part(value, site, stored, self.columns, self.labels, lead=int(by_layer))

    def to(self, device: torch.device | str) -> ActivationCache:
        """The same cache with every tensor on ``device``."""
        return ActivationCache(
            tensors={site: value.to(device) for site, value in self.tensors.items()},
            tokens=self.tokens.to(device),
            attention_mask=None if self.attention_mask is None else self.attention_mask.to(device),
            labels=self.labels,
            logits=None if self.logits is None else self.logits.to(device),
            grads=None if self.grads is None else self.grads.to(device),
        )

    def nbytes(self) -> int:
        """Bytes held by the captured tensors."""
        return sum(value.numel() * value.element_size() for value in self.tensors.values())


def _covers(stored: Site, site: Site) -> bool:
    """Whether ``site`` is a part of what was stored as ``stored``."""
    return (
        stored.component == site.component
        and stored.layer in (None, site.layer)
        and stored.head in (None, site.head)
        and stored.neurons in (None, site.neurons)
        and (stored.latents is None) == (site.latents is None)
        and stored.latents in (None, (), site.latents)
        and stored.rows in (None, site.rows)
        and (
            stored.positions is None
            or stored.positions in ((ALL,), (EACH,))
            or stored.positions == site.positions
        )
        and stored.subspace is None
    )


def select_part(
    value: Tensor,
    site: Site,
    stored: Site | None,
    columns: Columns,
    labels: Mapping[str, Tensor],
    lead: int = 0,
) -> Tensor:
    """Cut a site's rows, positions, head, neurons and subspace out of a whole activation.

    ``value`` has the component's axes after ``lead`` further ones. What ``stored`` has already been
    cut to is not cut again. One position a row drops the pos axis; the same number in every row
    keeps it; differing numbers raise :class:`SiteError`.
    """
    has = stored or Site(site.component)
    axes = list(site.axes)
    if site.head is not None and has.head is None:
        axis = lead + next(i for i, a in enumerate(axes) if a in ("head", "kv_head"))
        value = value.select(axis, site.head)
        axes.remove("head" if "head" in axes else "kv_head")
    elif has.head is not None:
        axes.remove("head" if "head" in axes else "kv_head")
    if site.entries and not has.entries:
        value = value[..., list(site.entries)]
    if site.subspace is not None:
        value = value @ site.subspace.T.to(value)
    if site.positions is not None and has.positions != site.positions:
        pos = "dest_pos" if "dest_pos" in axes else "pos"
        value = _select_positions(value, site, columns, labels, lead, lead + axes.index(pos))
    if site.rows is not None and has.rows is None:
        value = value.index_select(lead, torch.tensor(site.rows, device=value.device))
    return value


def _select_positions(
    value: Tensor, site: Site, columns: Columns, labels: Mapping[str, Tensor], batch_axis: int, pos_axis: int
) -> Tensor:
    if site.positions in ((ALL,), (EACH,)):
        return value
    chosen = columns.select(Site(site.component, positions=site.positions), labels)
    counts = chosen.sum(dim=1)
    if bool((counts != counts[0]).any()) or int(counts[0]) == 0:
        raise SiteError(
            f"site {site} covers {counts.tolist()} positions in the rows of this batch; a cache needs the same "
            "number, at least one, in every row."
        )
    index = chosen.nonzero()[:, 1].view(columns.batch, -1).to(value.device)
    shape = [1] * value.ndim
    shape[batch_axis], shape[pos_axis] = index.shape
    size = list(value.shape)
    size[pos_axis] = index.shape[1]
    cut = value.gather(pos_axis, index.view(shape).expand(size))
    return cut.squeeze(pos_axis) if index.shape[1] == 1 and _is_single(site) else cut


def _is_single(site: Site) -> bool:
    return (
        site.positions is not None and len(site.positions) == 1 and isinstance(site.positions[0], (int, str))
    )
