"""What is settled before the first step: whether coders, activations and options fit, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.coders.config import CoderConfig
from interp.coders.make import make_coder
from interp.coders.shape import CoderShape
from interp.coders.sources import JointSource
from interp.coders.sources.layout import ActivationSource, SourceLayout
from interp.coders.train.config import TrainingConfig
from interp.coders.train.distributed import Processes
from interp.coders.train.learner import CoderLearner
from interp.errors import CoderError


def read_layouts(source: ActivationSource | JointSource, names: tuple[str, ...]) -> dict[str, SourceLayout]:
    """What the rows of every coder are. Raises :class:`CoderError` for a coder that has none."""
    if isinstance(source, JointSource):
        missing = [name for name in names if name not in source.layouts]
        if missing:
            raise CoderError(
                f"the source has activations for {sorted(source.layouts)}; coder {missing[0]!r} has none. Names of "
                "coders and of activations must agree."
            )
        return {name: source.layouts[name] for name in names}
    return dict.fromkeys(names, source.layout)


def count_steps(source: Any, training: TrainingConfig, n_processes: int) -> int | None:
    """Steps that a training has, ``None`` where neither ``tokens`` nor the source's ``n_rows`` tells.

    Raises :class:`CoderError` for fewer rows than processes.
    """
    found = []
    if training.tokens is not None:
        found.append(-(-training.tokens // training.batch_size))
    n_rows = getattr(source, "n_rows", None)
    if n_rows is not None and (training.tokens is None or training.epochs is not None):
        # the last process has the fewest rows, and all stop with it
        share = n_rows // n_processes * (training.epochs or 1)
        if not share:
            raise CoderError(f"{n_rows} rows cannot be shared among {n_processes} processes.")
        found.append(-(-share // (training.batch_size // n_processes)))
    return min(found, default=None)


def check_options(configs: Mapping[str, CoderConfig], training: TrainingConfig) -> None:
    """Raise :class:`CoderError` for options that none of the coders has a use for."""
    kinds = ", ".join(sorted({config.firing for config in configs.values()}))
    if training.k_start is not None and all(config.k is None for config in configs.values()):
        raise CoderError(f"k_start={training.k_start} belongs to coders with a k; {kinds} have none.")
    if training.target_l0 is None:
        return
    steered = [config for config in configs.values() if config.k is None]
    if not steered:
        raise CoderError(
            f"target_l0={training.target_l0} steers a sparsity penalty, which {kinds} has not: k says how many fire."
        )
    if any(config.sparsity == 0 for config in steered):
        raise CoderError("target_l0 steers a penalty that begins at sparsity; give one above 0, or none.")


def make_learners(
    configs: Mapping[str, CoderConfig],
    layouts: Mapping[str, SourceLayout],
    training: TrainingConfig,
    steps: int | None,
    processes: Processes,
) -> dict[str, CoderLearner]:
    """A learner for every coder. Raises :class:`CoderError` for configs that do not fit the activations."""
    check_options(configs, training)
    return {
        name: _make_learner(config, layouts[name], training, steps, processes)
        for name, config in configs.items()
    }


def _make_learner(
    config: CoderConfig,
    layout: SourceLayout,
    training: TrainingConfig,
    steps: int | None,
    processes: Processes,
) -> CoderLearner:
    if config.firing == "gradient" and not layout.has_grad:
        raise CoderError(
            "a gradient coder learns from the loss' gradients; make the activations with "
            "stream_activations(..., gradients=True)."
        )
    coder = make_coder(
        config,
        CoderShape(layout.d_in, layout.d_out, layout.n_inputs, layout.n_outputs),
        sites=layout.sites,
        target_sites=layout.target_sites,
        seed=training.seed,
    )
    return CoderLearner(coder.to(processes.device), training, steps, processes)
