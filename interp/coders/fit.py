"""Sums from which the figures of a coder at one site are made, token by token."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from interp.coders.wiring import Wiring
from interp.results.coder_evaluation import SiteFit


class FitSums:
    """Adds tokens up in fp64, about the first batch's mean, so that large means cancel nothing."""

    def __init__(self) -> None:
        self.n = 0
        self._centre: Tensor | None = None
        self._sums: dict[str, Tensor] = {}

    def add(
        self, x: Float[Tensor, "row d"], out: Float[Tensor, "row d"], latents: Float[Tensor, "row d_sae"]
    ) -> None:
        """Some tokens: the activation, what the coder makes of it, and its latents."""
        if not len(x):
            return
        x, out = x.double(), out.double()
        if self._centre is None:
            self._centre = x.mean(0)
        self.n += len(x)
        moved, error, fires = x - self._centre, x - out, latents != 0
        for name, value in (
            ("x", moved.sum(0)),
            ("x2", moved.square().sum()),
            ("error", error.sum(0)),
            ("error2", error.square().sum()),
            ("cosine", torch.cosine_similarity(x, out, dim=1).sum()),
            ("fires", fires.sum(0)),
        ):
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Of the activations."""
        assert self._centre is not None
        return self._centre + self._sums["x"] / self.n

    def finish(self, wiring: Wiring, slot: int) -> SiteFit:
        """The figures over all tokens."""
        total = float(self._sums["x2"] - self._sums["x"].square().sum() / self.n)
        error2 = float(self._sums["error2"])
        spread = error2 - float(self._sums["error"].square().sum()) / self.n
        config = getattr(wiring.coder, "config", None)
        return SiteFit(
            site=str(wiring.writes[slot]),
            reads=str(wiring.reads[slot]),
            architecture=getattr(config, "architecture", type(wiring.coder).__name__),
            n_tokens=self.n,
            l0=float(self._sums["fires"].sum()) / self.n,
            fvu=error2 / total if total else float("nan"),
            explained_variance=1 - spread / total if total else float("nan"),
            cosine=float(self._sums["cosine"]) / self.n,
            density=(self._sums["fires"].double() / self.n).float().cpu(),
        )
