"""Direct logit attribution: which parts of a model wrote the answer's logit difference.

Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021). What it can't show: a
part that acts through later layers (a query, a key, a head that moves what others wrote) has no
share of its own here; patching finds those.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import LensError
from interp.lenses.prompts import (
    PromptBatch,
    Prompts,
    Run,
    TokenChoice,
    read_prompts,
    read_token_choice,
    site_at,
)
from interp.lenses.provenance import describe_run
from interp.lenses.readout import Readout
from interp.models.cache import ActivationCache
from interp.models.capture import capture
from interp.models.model import Model
from interp.models.norms import pull_back, widen
from interp.results import LogitAttribution
from interp.types import Site, Span

STREAM = ("resid_pre", "resid_mid", "resid_post")


@torch.no_grad()
def direct_logit_attribution(
    model: Model,
    prompts: Prompts,
    *,
    position: int | str = "END",
    answers: TokenChoice | None = None,
    wrong: TokenChoice | None = None,
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
    labels: Mapping[str, Int[Tensor, " batch"]] | None = None,
    run: Run = "clean",
    n_neurons: int = 20,
    batch_size: int = 8,
) -> LogitAttribution:
    """Split the logit difference at ``position`` into what each part of the model wrote.

    The difference is the mean logit of the answers less that of the wrong ones, the task's or those
    given (one token, or one a prompt). Parts are the token and the positional embedding, every
    attention and MLP layer, and ``bias``: the final norm's and the unembedding's. ``by_head`` splits
    each attention layer into its heads, and ``head_bias`` is its output bias. ``by_neuron`` holds the
    ``n_neurons`` MLP neurons with the largest mean share in magnitude. ``accumulated`` reads the
    residual stream itself between the parts.

    Norms are frozen at their scale in the run, so that all shares add up to ``actual``: the final
    norm (centring and gain folded in exactly) and, where a family has them, the norms after
    each sublayer. A final soft cap is left out: what is split is the difference before it.

    Example::

        interp.direct_logit_attribution(model, task).plot()

    Raises :class:`LensError` where the answers are missing or a position is not one token.
    """
    started = time.perf_counter()
    batch = read_prompts(model, prompts, attention_mask=attention_mask, labels=labels, run=run)
    place = _read_position(batch, position)
    right_ids = _read_answers(model, batch, answers, "answers")
    wrong_ids = _read_answers(model, batch, wrong, "wrong")
    splitter = _Splitter(model, place)
    parts = [
        splitter.split(*each)
        for each in zip(
            batch.split(batch_size), right_ids.split(batch_size), wrong_ids.split(batch_size), strict=True
        )
    ]
    found = _join(parts)
    top = found.by_neuron.mean(1).abs().argsort(descending=True)[: max(n_neurons, 0)].tolist()
    return LogitAttribution(
        components=splitter.components,
        points=tuple(f"{site.component} {site.layer}" for site in splitter.points),
        provenance=describe_run(
            model,
            batch,
            "direct logit attribution",
            started,
            metric=f"logit difference at {position}",
            notes=_notes(model),
        ),
        by_component=found.by_component,
        actual=found.actual,
        by_head=found.by_head,
        head_bias=found.head_bias,
        neurons=tuple(f"L{i // model.traits.d_mlp} n{i % model.traits.d_mlp}" for i in top),
        by_neuron=found.by_neuron[top] if top else None,
        accumulated=found.accumulated,
    )


def _read_position(batch: PromptBatch, position: int | str) -> int | str:
    batch.one_column(position)
    found = site_at(position).positions
    if found is None or isinstance(found[0], Span):
        raise LensError(f"position must be one index or label, such as -1 or 'END'; got {position!r}.")
    return found[0]


def _read_answers(
    model: Model, batch: PromptBatch, given: TokenChoice | None, what: str
) -> Int[Tensor, "batch k"]:
    if given is None:
        if batch.task is None:
            raise LensError(
                f"direct logit attribution splits a difference of two logits; without a task give {what}=..."
            )
        given = getattr(batch.task, what)
    return read_token_choice(model, given, len(batch), what)


def _notes(model: Model) -> tuple[str, ...]:
    traits, notes = model.traits, []
    if traits.norm is not None:
        notes.append("the final norm's scale is frozen at its value in the run")
    if traits.post_norms:
        notes.append("heads: the scale of the norm after attention is frozen too")
    if traits.final_soft_cap is not None:
        notes.append(f"logits before the final soft cap of {traits.final_soft_cap:g}")
    return tuple(notes)


@dataclass(frozen=True)
class _Shares:
    """Shares of some prompts' logit differences."""

    by_component: Float[Tensor, "component batch"]
    actual: Float[Tensor, " batch"]
    by_head: Float[Tensor, "layer head batch"]
    head_bias: Float[Tensor, "layer batch"]
    by_neuron: Float[Tensor, "neuron batch"]
    """Every neuron, layer after layer."""
    accumulated: Float[Tensor, "point batch"]


def _join(parts: list[_Shares]) -> _Shares:
    names = [field.name for field in fields(_Shares)]
    return _Shares(**{name: torch.cat([getattr(p, name) for p in parts], dim=-1).cpu() for name in names})


class _Splitter:
    """Splits logit differences of one model at one position."""

    def __init__(self, model: Model, position: int | str) -> None:
        self.model = model
        self.traits = model.traits
        self.weights = model.weights
        self.readout = Readout(model)
        self.position = position
        layers = range(self.traits.n_layers)
        self.sublayers = ("attn_out", "mlp_out") if self.traits.d_mlp else ("attn_out",)
        self.points = [Site(c, layer) for layer in layers for c in STREAM if c in model.components]
        embeds = ("embed",) if self.weights.W_pos is None else ("embed", "pos_embed")
        blocks = (f"{s.removesuffix('_out')} {layer}" for layer in layers for s in self.sublayers)
        self.components = (*embeds, *blocks, "bias")

    def split(
        self, batch: PromptBatch, answers: Int[Tensor, "batch k"], wrong: Int[Tensor, "batch j"]
    ) -> _Shares:
        """The shares of each prompt's logit difference."""
        neurons = ("mlp_post",) if self.traits.d_mlp else ()
        names = (
            "embed",
            "z",
            *neurons,
            *self.sublayers,
            *dict.fromkeys(site.component for site in self.points),
        )
        sites = [Site(name).at(self.position) for name in names]
        cache = capture(
            self.model, batch.tokens, sites, attention_mask=batch.attention_mask, labels=batch.labels
        )
        final = self._at(cache, "resid_post", self.traits.n_layers - 1)
        readout = self.readout
        unembedding = readout.unembedding(answers) - readout.unembedding(wrong)
        bias = readout.unembedding_bias(answers) - readout.unembedding_bias(wrong)
        direction = readout.direction_in_stream(unembedding, final)
        written = self._embeddings(batch, cache)
        for layer in range(self.traits.n_layers):
            written += [self._at(cache, sublayer, layer) for sublayer in self.sublayers]
        heads, head_bias = self._heads(cache, direction)
        stream = torch.stack([self._at(cache, p.component, p.layer) for p in self.points])
        constant = readout.norm_bias(unembedding) + bias
        return _Shares(
            by_component=torch.stack([*((part * direction).sum(-1) for part in written), constant]),
            actual=self._actual(cache, batch, answers, wrong, final),
            by_head=heads,
            head_bias=head_bias,
            by_neuron=self._neurons(cache, direction),
            accumulated=(stream * direction).sum(-1) + constant,
        )

    def _at(self, cache: ActivationCache, component: str, layer: int | None) -> Float[Tensor, "batch *d"]:
        value = cache[Site(component).at(self.position)]
        return widen(value if layer is None else value[layer])

    def _embeddings(self, batch: PromptBatch, cache: ActivationCache) -> list[Float[Tensor, "batch d_model"]]:
        found = [self._at(cache, "embed", None)]
        if self.weights.W_pos is not None:
            column = batch.one_column(self.position)
            at = batch.columns.positions.gather(1, column[:, None])[:, 0]
            found.append(widen(self.weights.W_pos.detach())[at.to(found[0].device)])
        return found

    def _heads(
        self, cache: ActivationCache, direction: Float[Tensor, "batch d_model"]
    ) -> tuple[Float[Tensor, "layer head batch"], Float[Tensor, "layer batch"]]:
        """Every head's share, and that of the attention layers' biases."""
        heads, biases = [], []
        for layer, w in enumerate(self.weights.layers):
            result = torch.einsum("bhd,hdm->bhm", self._at(cache, "z", layer), widen(w.W_O.detach()))
            b_O = torch.zeros_like(direction) if w.b_O is None else widen(w.b_O.detach()).expand_as(direction)
            before_norm, after_norm = direction, torch.zeros_like(direction[..., 0])
            if self.traits.post_norms:
                before_norm = pull_back(direction, result.sum(1) + b_O, w.ln1_post, self.traits)
                if w.ln1_post is not None and w.ln1_post.b is not None:
                    after_norm = direction @ widen(w.ln1_post.b.detach())
            heads.append(torch.einsum("bhm,bm->hb", result, before_norm))
            biases.append((b_O * before_norm).sum(-1) + after_norm)
        return torch.stack(heads), torch.stack(biases)

    def _neurons(
        self, cache: ActivationCache, direction: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "neuron batch"]:
        """Every MLP neuron's share, layer after layer."""
        shares = [direction.new_zeros(0, len(direction))]
        for layer, w in enumerate(self.weights.layers):
            if w.W_out is None:
                continue
            W_out, post, read = widen(w.W_out.detach()), self._at(cache, "mlp_post", layer), direction
            if self.traits.post_norms:
                written = post @ W_out if w.b_out is None else post @ W_out + widen(w.b_out.detach())
                read = pull_back(direction, written, w.ln2_post, self.traits)
            shares.append((post * (read @ W_out.T)).T)
        return torch.cat(shares)

    def _actual(
        self,
        cache: ActivationCache,
        batch: PromptBatch,
        answers: Int[Tensor, "batch k"],
        wrong: Int[Tensor, "batch j"],
        final: Float[Tensor, "batch d_model"],
    ) -> Float[Tensor, " batch"]:
        """The model's own difference; under a soft cap, of the logits that go into it."""
        if self.traits.final_soft_cap is not None or cache.logits is None:
            logits = self.readout.uncapped_logits(final)
        else:
            rows = torch.arange(len(batch), device=cache.logits.device)
            logits = widen(cache.logits[rows, batch.one_column(self.position).to(rows.device)])
        return _mean_of(logits, answers) - _mean_of(logits, wrong)


def _mean_of(logits: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "batch k"]) -> Float[Tensor, " batch"]:
    real = (ids >= 0).to(logits)
    return (logits.gather(1, ids.clamp(min=0)) * real).sum(1) / real.sum(1)
