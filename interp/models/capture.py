"""Capture: run a model and keep the activations at chosen sites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import SiteError
from interp.models.cache import ActivationCache, select_part
from interp.models.hooks import Edit, HookEdit, installed_edits, tracked_forwards
from interp.models.model import Model
from interp.models.positions import Columns
from interp.models.sites import Tap, expand
from interp.models.text_data import read_batches
from interp.types import Site, SiteLike, parse_sites

WRITE = "write:"
EDITED = "edited:"

Tokens = Int[Tensor, "batch pos"] | Int[Tensor, " pos"] | str | Sequence[str]


def capture(
    model: Model,
    tokens: Tokens,
    sites: SiteLike | Iterable[SiteLike],
    *,
    attention_mask: Bool[Tensor, "batch pos"] | None = None,
    labels: Mapping[str, Int[Tensor, "batch"]] | None = None,
    device: torch.device | str | None = None,
    gradients_of: Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor] | None = None,
    unembed: bool = True,
) -> ActivationCache:
    """Run ``tokens`` through ``model`` once and return the activations at ``sites``.

    ``sites`` are strings or :class:`Site`; only they are kept, on ``device`` (default: where they
    were made). ``labels`` gives the positions behind names like ``S2``. With ``gradients_of``, a
    function of the logits to a scalar (or one number a row, summed), ``cache.grads`` holds its gradient
    at every site; without it nothing is differentiated, unless you are already recording
    gradients, in which case the captured tensors stay in the graph. With ``unembed=False``
    ``cache.logits`` is ``None``, and what neither a site nor a gradient needs is not computed: layers above the
    last site do not run, unless interventions are active, which may lie there.

    Example::

        cache = interp.capture(model, tokens, sites=["resid_pre", "z"])
        cache["z"].shape  # [layer, batch, pos, head, d_head]

    Raises :class:`SiteError` for a site this model does not have.
    """
    asked = parse_sites(sites)
    tokens, attention_mask = _as_tokens(model, tokens, attention_mask)
    labels = dict(labels or {})
    keep_graph = gradients_of is not None
    taps = {
        tap_key(tap): tap
        for site in asked
        for tap in expand(site, model.family, model.traits, model.attached)
    }
    store: dict[tuple[str, int], Tensor] = {}
    edits = [edit for tap in taps.values() for edit in _reading_edits(model, tap, store, keep_graph)]
    if not unembed and not keep_graph and not model.active_edits:
        # edits of others may lie above the last site, and must act
        edits += [HookEdit(tap.read, _stop_when(store, set(taps)), _LAST) for tap in taps.values()]
    if keep_graph:
        edits.insert(0, HookEdit(model.family.hook_names(model.traits)["embed"], _require_grad))
    grad_mode = torch.enable_grad() if keep_graph else nullcontext()
    with grad_mode, tracked_forwards(model) as tracker, installed_edits(model, edits):
        last = None if unembed or keep_graph else torch.tensor([tokens.shape[1] - 1])
        logits: Any = None
        with suppress(_AllThereError):
            logits = model(tokens, attention_mask, last)
        columns = tracker.columns
    missing = [key for key in taps if key not in store]
    if missing:
        raise SiteError(f"hooks of {missing} did not fire in model {model.name!r}; it does not use them.")

    def collect(store: Mapping[tuple[str, int], Tensor], gradients: bool = False) -> dict[Site, Tensor]:
        return {site: _assemble(model, site, store, columns, labels, device, gradients) for site in asked}

    grads = None
    if gradients_of is not None:
        with torch.enable_grad():
            found = _gradients(taps, store, gradients_of(logits).sum())
        grads = ActivationCache(collect(found, gradients=True), tokens, attention_mask, labels)
        store = {key: value.detach() for key, value in store.items()}
        logits = logits.detach()
        with torch.no_grad():
            tensors = collect(store)
    else:
        tensors = collect(store)
    return ActivationCache(tensors, tokens, attention_mask, labels, logits if unembed else None, grads)


_LAST = 99
"""A stage after all others at a hook point."""


class _AllThereError(Exception):
    """Ends a forward that has passed the last site."""


def _stop_when(store: Mapping[tuple[str, int], Tensor], wanted: set[tuple[str, int]]) -> Edit:
    def stop(value: Tensor) -> None:
        if wanted <= set(store):
            raise _AllThereError

    return stop


def capture_stream(
    model: Model,
    batches: Iterable[Any],
    sites: SiteLike | Iterable[SiteLike],
    *,
    batch_size: int = 8,
    device: torch.device | str | None = "cpu",
    text_column: str = "text",
    progress: bool = True,
) -> Iterator[ActivationCache]:
    """Captures of a data set, one batch after another; nothing of a batch is kept by this function.

    ``batches`` is a tensor [n, pos], a ``datasets.Dataset`` (its ``tokens`` / ``input_ids`` column,
    else its ``text_column``), or an iterable of token tensors, texts or (tokens, mask) pairs; single
    examples are grouped by ``batch_size``, padded on the right where lengths differ.
    """
    from tqdm.auto import tqdm

    sites = parse_sites(sites)
    for tokens, mask in tqdm(
        read_batches(model, batches, batch_size, text_column), disable=not progress, desc="capture"
    ):
        # not around the yield: the caller's own code must keep its gradients
        with torch.no_grad():
            cache = capture(model, tokens, sites, attention_mask=mask, device=device)
        yield cache


def tap_key(tap: Tap) -> tuple[str, int]:
    """What identifies a tap within one model."""
    return tap.component, tap.layer


def split_heads(value: Tensor, tap: Tap) -> Tensor:
    """[batch, pos, head * d] as [batch, pos, head, d] where a hook carries heads flat."""
    if tap.n_heads is None or value.ndim != 3:
        return value
    return rearrange(value, "batch pos (head d) -> batch pos head d", head=tap.n_heads)


def head_results(
    model: Model, z: Float[Tensor, "*rest head d_head"], layer: int
) -> Float[Tensor, "*rest head d_model"]:
    """Each head's own contribution to the attention output: ``z[head] @ W_O[head]``."""
    return torch.einsum("...hd,hdm->...hm", z, model.weights.layers[layer].W_O)


def _reading_edits(
    model: Model, tap: Tap, store: dict[tuple[str, int], Tensor], gradients: bool
) -> list[HookEdit]:
    def keep(value: Tensor) -> None:
        store[tap_key(tap)] = value

    def keep_write(value: Tensor) -> None:
        store[WRITE + tap.component, tap.layer] = value

    def keep_edited(value: Tensor) -> None:
        if tap.layer in model.edited_results:
            store[EDITED + tap.component, tap.layer] = model.edited_results[tap.layer]

    edits = [HookEdit(tap.read, keep)]
    if tap.how == "through_o":
        edits.append(HookEdit(tap.write, keep_edited, tap.stage))
    if gradients and tap.how != "direct":
        edits.append(HookEdit(tap.write, keep_write, tap.stage))
    return edits


def _require_grad(value: Tensor) -> Tensor | None:
    return None if value.requires_grad else value.detach().requires_grad_(True)


def _gradients(
    taps: Mapping[tuple[str, int], Tap], store: Mapping[tuple[str, int], Tensor], target: Tensor
) -> dict[tuple[str, int], Tensor]:
    """Gradient at every tap. Where an edit acts elsewhere than a value is read, the gradient is
    taken where it acts: it is the same number, of the sum that the value is a part of."""
    wanted = [store.get((WRITE + component, layer), store[component, layer]) for component, layer in taps]
    found = torch.autograd.grad(target, wanted, allow_unused=True)
    return {
        key: torch.zeros_like(tensor) if grad is None else grad
        for key, tensor, grad in zip(taps, wanted, found, strict=True)
    }


def _assemble(
    model: Model,
    site: Site,
    store: Mapping[tuple[str, int], Tensor],
    columns: Columns,
    labels: Mapping[str, Tensor],
    device: torch.device | str | None,
    gradients: bool,
) -> Tensor:
    parts = []
    for tap in expand(site, model.family, model.traits, model.attached):
        value = store[tap_key(tap)]
        if tap.how == "through_o" and gradients:
            value = value.unsqueeze(2).expand(-1, -1, model.traits.n_heads, -1)
        elif tap.how == "through_o":
            edited = store.get((EDITED + tap.component, tap.layer))
            value = head_results(model, split_heads(value, tap), tap.layer) if edited is None else edited
        else:
            value = split_heads(value, tap)
        value = select_part(value, site, None, columns, labels)
        parts.append(value if device is None else value.to(device))
    return parts[0] if site.layer is not None or site.component == "embed" else torch.stack(parts)


def _as_tokens(model: Model, tokens: Tokens, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if isinstance(tokens, Tensor):
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        return tokens.to(model.device), mask
    return model.to_padded_tokens([tokens] if isinstance(tokens, str) else tokens)
