"""Activations of a model over a data set, one forward a batch of prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, overload

import torch

from interp.coders.batch import CoderBatch
from interp.coders.sources.layout import SourceLayout, list_differences
from interp.coders.sources.prompts import LongPrompts, PromptReader
from interp.coders.sources.reading import Reading, RowOptions, gather_rows, plan_reading
from interp.errors import CoderError
from interp.models import Model
from interp.models.text_data import Prompts
from interp.models.text_digest import describe_data
from interp.types import SiteLike

Sites = SiteLike | Iterable[SiteLike]


@overload
def stream_activations(  # type: ignore[overload-overlap]  # a mapping is iterable too
    model: Model,
    data: Prompts,
    sites: Mapping[str, Sites],
    *,
    target: Mapping[str, Sites] | None = None,
    gradients: bool = False,
    skip_first: bool = True,
    batch_size: int = 8,
    context: int | None = None,
    long_prompts: LongPrompts = "split",
    text_column: str = "text",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> JointStream: ...


@overload
def stream_activations(
    model: Model,
    data: Prompts,
    sites: Sites,
    *,
    target: Sites | None = None,
    gradients: bool = False,
    skip_first: bool = True,
    batch_size: int = 8,
    context: int | None = None,
    long_prompts: LongPrompts = "split",
    text_column: str = "text",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> ActivationStream: ...


def stream_activations(
    model: Model,
    data: Prompts,
    sites: Sites | Mapping[str, Sites],
    *,
    target: Sites | Mapping[str, Sites] | None = None,
    gradients: bool = False,
    skip_first: bool = True,
    batch_size: int = 8,
    context: int | None = None,
    long_prompts: LongPrompts = "split",
    text_column: str = "text",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> ActivationStream | JointStream:
    """Activations of ``model`` over ``data``, one row a token, a chunk for every ``batch_size`` prompts.

    ``data`` is a tensor of tokens [n, pos], a ``datasets.Dataset`` or ``IterableDataset`` (its ``tokens`` /
    ``input_ids`` column, else its ``text_column``), an iterable of texts, of token lists or tensors and of
    (tokens, mask) pairs, or a function that gives such an iterable anew. A prompt longer than ``context``
    tokens (by default what the model can read) is split into several contexts, each beginning with the BOS
    token where the prompt does; or it is truncated, or an error (``long_prompts``). Padding is left out, and
    so is the first token of every context unless ``skip_first=False``: it is an attention sink, whose
    activations are many times larger than all others. Named positions are taken as they are.

    ``sites`` are one site, [row, d], or several of one width, [row, site, d]; the heads of a site like
    ``"z[0]"`` are concatenated, and a component without a layer means every layer. A transcoder's
    ``target`` is named likewise. A mapping from names to sites (and to targets) gives a :class:`JointStream`:
    the rows of several coders from one forward. Positions (``"mlp_out[2]@-1"``) choose rows, and must be the
    same at all sites.

    ``gradients=True`` adds the gradient of the next-token cross-entropy, summed over the tokens of a context,
    with respect to ``x`` (g-SAE, arXiv 2411.10397), by one backward a chunk. ``dtype`` and ``device`` are those
    of the rows; by default the model's.

    Raises :class:`SiteError` for a site the model does not have, :class:`CoderError` for sites of several
    widths or options that mean nothing, and :class:`ModelError` for data that cannot be read.

    Example::

        rows = interp.stream_activations(model, dataset, "mlp_in[2]", target="mlp_out[2]")
    """
    if isinstance(sites, Mapping):
        _check_names(sites)
        targets: Mapping[str, Any] = {} if target is None else _as_mapping(target, sites)
        readings = {name: plan_reading(model, asked, targets.get(name)) for name, asked in sites.items()}
    else:
        readings = {"": plan_reading(model, sites, target)}
    reader = PromptReader(model, data, batch_size, context, long_prompts, text_column)
    provenance = {
        "revision": model.revision,
        "model_dtype": str(model.dtype).removeprefix("torch."),
        "data": describe_data(data),
        "batch_size": batch_size,
        "context": reader.context,
        "long_prompts": long_prompts,
        "skip_first": skip_first,
    }
    options = RowOptions(gradients, skip_first, dtype, device)
    passes = _Passes(model, reader, readings, options, provenance, progress)
    return JointStream(passes) if isinstance(sites, Mapping) else ActivationStream(passes)


def _check_names(sites: Mapping[str, Any]) -> None:
    wrong = [name for name in sites if not (isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name))]
    if wrong or not sites:
        raise CoderError(
            f"coders are named by letters, digits and . - _ (a cache names files by them); got {wrong or 'no name'}. "
            "Write for example sites={'early': 'mlp_out[0]'}."
        )


def _as_mapping(target: Any, sites: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(target, Mapping) or set(target) - set(sites):
        raise CoderError(
            f"with sites by name, target maps some of the names {sorted(sites)} to sites; got {target!r}."
        )
    return target


class _Passes:
    """The forwards of a stream: rows by name, and the cursor."""

    def __init__(
        self,
        model: Model,
        reader: PromptReader,
        readings: dict[str, Reading],
        options: RowOptions,
        provenance: dict[str, Any],
        progress: bool,
    ) -> None:
        if len({reading.positions for reading in readings.values()}) > 1:
            raise CoderError("all sites of a stream must name the same positions, for coders share its rows.")
        if options.dtype is not None and not options.dtype.is_floating_point:
            raise CoderError(f"dtype must be a floating-point type; got {options.dtype}.")
        self.model, self.reader, self.readings, self.options = model, reader, readings, options
        origin: dict[str, Any] = {
            "has_grad": options.gradients,
            "model": model.name,
            "provenance": provenance,
        }
        self.layouts = {name: SourceLayout(**reading.sizes(), **origin) for name, reading in readings.items()}
        self._progress = progress
        self._bar: Any = None

    def next_rows(self) -> dict[str, CoderBatch] | None:
        while (prompts := self.reader.read()) is not None:
            rows = gather_rows(self.model, prompts, self.readings, self.options)
            n = len(next(iter(rows.values())))
            self._show(n)
            if n:
                return rows
        self._close()
        return None

    def _show(self, n: int) -> None:
        if self._progress and self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(desc="activations", unit=" rows", unit_scale=True)
        if self._bar is not None:
            self._bar.update(n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def state(self) -> dict[str, Any]:
        layouts = {name: layout.to_dict() for name, layout in self.layouts.items()}
        return {"layouts": layouts, "prompts": self.reader.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        here = self.state()["layouts"]
        if state["layouts"] != here:
            raise CoderError(
                f"this is the state of another stream; it differs in {list_differences(state['layouts'], here)}."
            )
        self.reader.restore(state["prompts"])


class _Stream:
    """The cursor that both kinds of stream have."""

    def __init__(self, passes: _Passes) -> None:
        self._passes = passes

    def state(self) -> dict[str, Any]:
        """The place in the data, JSON-ready."""
        return self._passes.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on behind the prompts that had been read when ``state`` was taken.

        Raises :class:`CoderError` for the state of another stream, for data that has changed, and for an
        iterator that was already begun.
        """
        self._passes.restore(state)

    def restart(self) -> None:
        """Stand before the first prompt. Raises :class:`CoderError` for an iterator, which gives items once."""
        self._passes.reader.restart()


class ActivationStream(_Stream):
    """Rows of one coder from the forwards of a model; made by :func:`stream_activations`."""

    @property
    def layout(self) -> SourceLayout:
        """What its rows are."""
        return self._passes.layouts[""]

    def next_chunk(self) -> CoderBatch | None:
        """The rows of the next ``batch_size`` prompts; ``None`` at the end."""
        rows = self._passes.next_rows()
        return None if rows is None else rows[""]


class JointStream(_Stream):
    """Rows of several coders from the same forwards, by name; made by :func:`stream_activations`."""

    @property
    def layouts(self) -> dict[str, SourceLayout]:
        """What each coder's rows are."""
        return dict(self._passes.layouts)

    def next_chunk(self) -> dict[str, CoderBatch] | None:
        """The rows of the next ``batch_size`` prompts for every coder; ``None`` at the end."""
        return self._passes.next_rows()
