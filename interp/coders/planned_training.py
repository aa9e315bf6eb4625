"""Trainings by plan: a model and data opened, coders trained, and a folder that holds all there is of them.

The folder has the coder (``cfg.json``, ``sae_weights.safetensors``; of several coders one folder each),
``history.safetensors``, written while training goes on, ``summary.json``, and ``checkpoint/``, from which the same
plan goes on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from interp.coders.coder import Coder
from interp.coders.data_files import open_data
from interp.coders.files import save_coder
from interp.coders.formats.folder import CFG, EXACT, WEIGHTS
from interp.coders.plan import CHECKPOINT, TrainingPlan
from interp.coders.sources import ActivationSource, JointSource, cache_activations, stream_activations
from interp.coders.train import Callback, train_coders
from interp.errors import CoderError
from interp.models.load import load_model
from interp.models.model import Model
from interp.results.coder_history import CoderHistory
from interp.results.storage import without_nan, write_whole

HISTORY, SUMMARY, REPORT = "history.safetensors", "summary.json", "report.html"
_OWN = (HISTORY, SUMMARY, REPORT, CFG, WEIGHTS, EXACT)


@dataclass(frozen=True, eq=False)
class TrainedPlan:
    """What a plan gave."""

    plan: TrainingPlan
    folder: Path
    coders: dict[str, Coder]
    history: CoderHistory

    @property
    def folders(self) -> dict[str, Path]:
        """Where each coder lies, for :func:`interp.load_coder`."""
        return {name: self.plan.folder_of(name, self.folder) for name in self.coders}


def run_training_plan(
    plan: TrainingPlan,
    *,
    out: str | Path | None = None,
    device: torch.device | str = "cpu",
    restart: bool = False,
    load: Callable[[str], Model] | None = None,
    callbacks: tuple[Callback, ...] = (),
    progress: bool = True,
) -> TrainedPlan:
    """Train the coders of a plan, and write them to ``out`` (by default the plan's folder).

    Stopped in any way, the same call goes on from its last checkpoint, and ends with the same coders to the bit;
    done, it reads them back. ``restart`` deletes what it left, and nothing else, first. ``load`` makes a model of
    its name (by default :func:`interp.load_model`, on ``device``).

    Raises :class:`CoderError` without a folder, for a folder that holds another training or coder, and as
    :func:`interp.train_coder` does; :class:`~interp.coders.TrainingInterrupted` after Ctrl-C.

    Example::

        trained = run_training_plan(read_training_plan("coder.toml"), out="sae")
        trained.coders["coder"], trained.history.plot()
    """
    folder = _claim(plan, plan.out if out is None else Path(out), restart)
    loaded = (
        load_model(plan.activations.model, device=device) if load is None else load(plan.activations.model)
    )
    source = open_plan_source(plan, loaded, progress=progress)

    def keep(history: CoderHistory) -> None:
        history.save(folder / HISTORY)

    coders = train_coders(
        {name: coder.config for name, coder in plan.coders.items()},
        source,
        plan.training,
        checkpoint=folder / CHECKPOINT,
        callbacks=(keep, *callbacks),
        device=device,
        progress=progress,
    )
    found = TrainedPlan(plan, folder, coders, CoderHistory.load(folder / HISTORY))
    if not _is_first():
        return found
    for name, coder in coders.items():
        save_coder(coder, plan.folder_of(name, folder))
    text = json.dumps(without_nan(_summarise(found)), indent=1, allow_nan=False)
    write_whole(folder / SUMMARY, (text + "\n").encode())
    return found


def open_plan_source(
    plan: TrainingPlan, model: Model, *, progress: bool = True, use_cache: bool = True
) -> ActivationSource | JointSource:
    """The activations of a plan; with a folder for them they are made first, or read where they are there.

    Raises as :func:`interp.stream_activations` and :func:`interp.cache_activations` do.
    """
    asked = plan.activations
    data = open_data(model, asked.data, n=asked.n, length=asked.length, seed=asked.seed, split=asked.split)
    options: dict[str, Any] = {
        name: getattr(asked, name)
        for name in ("skip_first", "batch_size", "context", "long_prompts", "text_column")
    }
    options["gradients"] = bool(asked.gradients)
    if plan.shares_sites:
        one = next(iter(plan.coders.values()))
        source: Any = stream_activations(model, data, one.site, target=one.target or None, **options)
    else:
        sites = {name: coder.site for name, coder in plan.coders.items()}
        targets = {name: coder.target for name, coder in plan.coders.items() if coder.target}
        source = stream_activations(model, data, sites, target=targets or None, **options)
    if asked.cache is None or not use_cache:
        return source
    return cache_activations(source, asked.cache, dtype=asked.cache_dtype, progress=progress)


def _claim(plan: TrainingPlan, folder: Path | None, restart: bool) -> Path:
    """A folder that is new, or this plan's from before."""
    if folder is None:
        raise CoderError(
            "where shall the coder go? Give a folder: out=..., or [output] folder = '...' in the file."
        )
    if folder.exists() and not folder.is_dir():
        raise CoderError(f"coders are written to a folder; {str(folder)!r} is a file.")
    if restart and _is_first():
        _clear(plan, folder)
    mine = [folder / name for name in _OWN]
    mine += [plan.folder_of(name, folder) / CFG for name in plan.coders]
    there = [path for path in mine if path.exists()]
    if there and not (folder / CHECKPOINT / "run.json").is_file():
        raise CoderError(
            f"{str(folder)!r} holds {there[0].name} of something else; name another folder, or restart to delete it."
        )
    return folder


def _is_first() -> bool:
    """Whether this process writes; under ``torchrun`` one of several does."""
    return os.environ.get("RANK", "0") == "0"


def _clear(plan: TrainingPlan, folder: Path) -> None:
    places = {folder, *(plan.folder_of(name, folder) for name in plan.coders)}
    for path in (place / name for place in places for name in _OWN):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)


def _summarise(found: TrainedPlan) -> dict[str, Any]:
    coders = {
        name: {
            "folder": str(path.relative_to(found.folder)),
            "sites": list(coder.sites),
            "target_sites": list(coder.target_sites),
            "tokens": coder.metadata.get("tokens"),
            "figures": coder.metadata.get("figures", {}),
        }
        for (name, path), coder in zip(found.folders.items(), found.coders.values(), strict=True)
    }
    return {"plan": replace(found.plan, out=None).to_dict(), "coders": coders}
