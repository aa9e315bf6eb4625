"""The softmax recomputed for replaced queries, keys and scores: AtP*'s QK fix.

Only what comes after the attention pattern is then taken to first order (Kramár et al. 2024,
arXiv 2403.00745, section 3.1.1). A key that is replaced at one position changes one score in every
row; the row's new pattern follows from its old one in closed form (their algorithm 4), so all keys
of a head cost as much as one softmax.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.models.blocks.block import Block as LayerBlock
from interp.models.blocks.geometry import Geometry
from interp.patching.attribution.reduce import Part, Slab

Scores = Float[Tensor, "prompt head dest src"]


class SoftmaxFix:
    """Attention of one layer at the base run, in fp64, and how its pattern moves."""

    def __init__(
        self,
        block: LayerBlock,
        geometry: Geometry,
        q: Float[Tensor, "prompt pos head d_head"],
        k: Float[Tensor, "prompt pos kv_head d_head"],
    ) -> None:
        self._block = block
        self._geometry = geometry
        self._q, self._k = q.double(), k.double()
        self._scores = self._score(self._q, self._k)
        self._pattern = self._scores.softmax(-1)

    def _score(self, q: Tensor, k: Tensor) -> Scores:
        block, geometry = self._block, self._geometry
        q, k = (
            turn(x, geometry.cos, geometry.sin) for turn, x in ((block.turn_queries, q), (block.turn_keys, k))
        )
        group = q.shape[2] // k.shape[2]
        grouped = q.unflatten(2, (-1, group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        visible: Bool[Tensor, "#prompt dest src"] = geometry.visible[block.window]
        return block.score(grouped @ k.permute(0, 2, 3, 1), visible.unsqueeze(1), group)

    def queries(self, part: Part, change: Tensor, gradient: Scores) -> Slab:
        """Effects of replacing queries, by way of the pattern's ``gradient``; each moves one row."""
        moved = self._score(self._q + part.narrow(change.double()), self._k).softmax(-1)
        return self._by_row(part, moved - self._pattern, gradient)

    def scores(self, part: Part, own: Scores, change: Tensor, gradient: Scores) -> Slab:
        """Effects of replacing attention scores themselves."""
        own = own.double()
        moved = (own + part.narrow(change.double())).softmax(-1)
        return self._by_row(part, moved - own.softmax(-1), gradient)

    def _by_row(self, part: Part, moved: Scores, gradient: Scores) -> Slab:
        by_row = (moved * gradient.double()).sum(-1)
        return part.arrange(by_row.transpose(1, 2)[..., None])

    def keys(self, part: Part, change: Tensor, gradient: Scores) -> Slab:
        """Effects of replacing keys."""
        change, gradient = part.narrow(change.double()), gradient.double()
        if part.wheres.single is not None:
            one = self._one_key_each(self._score(self._q, self._k + change) - self._scores, gradient)
            by_column = self._to_kv_heads(one.sum(2))
            return part.arrange(by_column.transpose(1, 2)[..., None])
        heads = [head for head in part.of.heads if head is not None]
        effects = []
        for where in part.wheres.masks:
            moved = self._score(self._q, self._k + change * where[..., None, None]).softmax(-1)
            total = ((moved - self._pattern) * gradient).sum((2, 3))
            effects.append(self._to_kv_heads(total[..., None])[:, heads, 0].T)
        return torch.stack(effects, 1)[:, None]

    def _one_key_each(self, change: Scores, gradient: Scores) -> Scores:
        """Effect in each row of moving its score of one key alone, for every key.

        With ``p`` the pattern and ``Z = 1 - p + p exp(change)``, that key's entry becomes
        ``p exp(change) / Z`` and every other is divided by ``Z``. What the others come to is taken
        from them where the key is its row's largest: it may be all but 1, and they all but 0.
        """
        p, scores = self._pattern, self._scores
        lse = scores.logsumexp(-1, keepdim=True)
        largest = scores.argmax(-1, keepdim=True)
        without = scores.scatter(-1, largest, torch.finfo(scores.dtype).min)
        whole = (p * gradient).sum(-1, keepdim=True)
        # 1 - p of each key, in logarithms, and the others' mean gradient
        log_rest = torch.log1p(-p).scatter(-1, largest, without.logsumexp(-1, keepdim=True) - lse)
        mean_rest = (whole - p * gradient) / (1 - p)
        mean_rest = mean_rest.scatter(-1, largest, (without.softmax(-1) * gradient).sum(-1, keepdim=True))
        log_raised = scores - lse + change
        log_z = torch.logaddexp(log_rest, log_raised)
        return (log_raised - log_z).exp() * gradient + (log_rest - log_z).exp() * mean_rest - whole

    def _to_kv_heads(self, x: Float[Tensor, "prompt head k"]) -> Float[Tensor, "prompt kv_head k"]:
        return x.unflatten(1, (self._k.shape[2], -1)).sum(2)
