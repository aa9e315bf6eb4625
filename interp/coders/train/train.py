"""``train_coder`` and ``train_coders``: from a description and activations to coders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from interp.coders.coder import Coder
from interp.coders.config import CoderConfig, read_config
from interp.coders.sources import JointSource, as_source
from interp.coders.sources.tensors import Activations
from interp.coders.train.config import TrainingConfig
from interp.coders.train.curves import Callback
from interp.coders.train.distributed import join_processes
from interp.coders.train.run import CoderTraining
from interp.errors import CoderError


def train_coder(
    config: CoderConfig,
    activations: Activations | JointSource,
    training: TrainingConfig | None = None,
    *,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    device: torch.device | str = "cpu",
    progress: bool = True,
    **options: Any,
) -> Coder:
    """Train one sparse coder; its curves are ``coder.history``.

    ``activations`` is a source (:func:`interp.stream_activations`, :func:`interp.open_activations`), a tensor
    [row, d], or chunks of rows. How is said by ``training``, or by its fields as ``options``. With
    ``checkpoint``, a folder, a training that was stopped in any way goes on where its last checkpoint was, to the
    same weights to the bit; Ctrl-C and SIGTERM write one. ``callbacks`` get the curves at every new point
    (:class:`interp.plots.live.LiveCurves`, :class:`interp.coders.train.TensorBoardLog`); their errors end
    training, which can be taken up again.

    Under ``torchrun`` all processes train one coder together, each on its share of every batch. Gradients are
    means over all rows, and dead latents those that fired in no process; batch-top-k chooses in each
    process' share, and thresholds are averaged. One process writes checkpoints.

    Example::

        source = interp.stream_activations(model, dataset, "mlp_out[2]")
        coder = interp.train_coder(interp.CoderConfig("topk", d_sae=2048, k=16), source, tokens=2_000_000)

    Raises :class:`CoderError` for options that do not exist or do not fit, and for a checkpoint of another
    training; :class:`TrainingInterrupted` (a ``KeyboardInterrupt``, with the coder so far) after Ctrl-C, and
    ``SystemExit`` with status 143 after SIGTERM. A second Ctrl-C leaves at once.
    """
    if not isinstance(config, CoderConfig):
        raise CoderError(
            f"train_coder takes an interp.CoderConfig; got {type(config).__name__}. Several are trained side by side "
            "by train_coders."
        )
    found = train_coders(
        {"coder": config},
        activations,
        training,
        checkpoint=checkpoint,
        callbacks=callbacks,
        device=device,
        progress=progress,
        **options,
    )
    return found["coder"]


def train_coders(
    configs: Mapping[str, CoderConfig],
    activations: Activations | JointSource,
    training: TrainingConfig | None = None,
    *,
    checkpoint: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    device: torch.device | str = "cpu",
    progress: bool = True,
    **options: Any,
) -> dict[str, Coder]:
    """Train several coders side by side on the same activations, each batch made once.

    ``activations`` may be a joint source too (``stream_activations(model, data, {"name": site, ...})``), which
    has rows of its own for every coder, by its name. Otherwise as :func:`train_coder`.

    Example::

        configs = {f"k={k}": interp.CoderConfig("topk", d_sae=2048, k=k) for k in (8, 16, 32)}
        coders = interp.train_coders(configs, source, tokens=2_000_000)

    Raises as :func:`train_coder`.
    """
    if not isinstance(configs, Mapping) or not configs:
        raise CoderError(f"train_coders takes configs by name; got {configs!r}.")
    for name, config in configs.items():
        if not isinstance(name, str) or not name or set(name) & set("/\\") or name.startswith("."):
            raise CoderError(f"names of coders become folders: no slash, no dot in front; got {name!r}.")
        if not isinstance(config, CoderConfig):
            raise CoderError(f"{name!r} must be an interp.CoderConfig; got {type(config).__name__}.")
    with join_processes(device) as processes:
        run = CoderTraining(
            configs,
            as_source(activations),
            _with_options(training, options),
            processes=processes,
            folder=checkpoint,
            callbacks=callbacks,
            progress=progress,
        )
        return run.run()


def _with_options(training: TrainingConfig | None, options: Mapping[str, Any]) -> TrainingConfig:
    if training is None:
        return read_config(TrainingConfig, options)
    if not isinstance(training, TrainingConfig):
        raise CoderError(f"training is an interp.TrainingConfig; got {type(training).__name__}.")
    read_config(TrainingConfig, {**training.to_dict(), **options})
    return replace(training, **options)
