"""What a training of coders is asked: the coders, how they are trained, and on which activations.

Plans are frozen; :mod:`interp.coders.plan_file` reads them from TOML, and ``interp train-coder`` makes them from
options too. :func:`interp.coders.planned_training.run_training_plan` carries one out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from interp.coders.config import CoderConfig
from interp.coders.data_files import GENERATED
from interp.coders.sources.prompts import LongPrompts
from interp.coders.sources.shards import CacheType
from interp.coders.train.config import TrainingConfig
from interp.errors import CoderError, unknown_name
from interp.tasks.templates import Split
from interp.types import parse_sites

ONE = "coder"
"""Name of the coder of a plan that has one."""
CHECKPOINT = "checkpoint"
"""Folder of a training's checkpoints, beside what it writes in the end."""
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class CoderPlan:
    """One coder: what it is, and where it reads and predicts.

    Raises :class:`CoderError` where its architecture needs another number of sites, or a target;
    :class:`~interp.errors.SiteError` for a site that cannot be read.
    """

    config: CoderConfig
    site: tuple[str, ...]
    """``("mlp_out[2]",)``; several for a crosscoder or a cross-layer transcoder."""
    target: tuple[str, ...] = ()
    """What a transcoder predicts; by default ``mlp_out`` of the layers whose ``mlp_in`` it reads."""

    def __post_init__(self) -> None:
        if not self.site:
            raise CoderError("a coder needs a site to read, such as site = 'mlp_out[2]'.")
        site, target = (
            tuple(map(str, parse_sites(names))) if names else () for names in (self.site, self.target)
        )
        name = self.config.architecture
        if target and not self.config.reads_another_site:
            raise CoderError(f"a {name} coder rebuilds what it reads; target is for transcoders.")
        if not target and self.config.reads_another_site:
            if any(not one.startswith("mlp_in") for one in site):
                raise CoderError(
                    f"a {name} predicts another site than it reads: give target, as for site = {', '.join(site)!r}; or "
                    "read mlp_in, whose target is mlp_out."
                )
            target = tuple(one.replace("mlp_in", "mlp_out", 1) for one in site)
        object.__setattr__(self, "site", site)
        object.__setattr__(self, "target", target)


@dataclass(frozen=True)
class ActivationPlan:
    """A model over data. Raises :class:`CoderError` for numbers out of range and unknown names."""

    model: str = "mix-4l"
    """A bundled name, a folder or a hub id."""
    data: str = GENERATED
    """See :func:`interp.coders.data_files.open_data`: ``generated``, a file, a folder or a hub id."""
    n: int | None = None
    """Prompts: all of a file, 8192 generated ones."""
    length: int = 64
    """Tokens of a generated prompt."""
    seed: int = 1
    """Of generated text; the bundled models' own was drawn by 0."""
    split: Split = "train"
    """Of generated text: ``heldout`` has sentences that the models never saw."""
    context: int | None = None
    """Tokens that the model reads at once; by default as many as it can."""
    long_prompts: LongPrompts = "split"
    skip_first: bool = True
    text_column: str = "text"
    batch_size: int = 32
    """Prompts of one forward."""
    gradients: bool | None = None
    """Of the model's loss; by default where a coder learns from them."""
    cache: Path | None = None
    """A folder where activations are kept, so that further epochs and trainings run no model."""
    cache_dtype: CacheType = "fp16"

    def __post_init__(self) -> None:
        for name in ("n", "length", "batch_size", "context"):
            value = getattr(self, name)
            if value is None and name in ("n", "context"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CoderError(f"{name} must be a positive integer; got {value!r}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise CoderError(f"seed must be an integer; got {self.seed!r}.")
        choices = {"long_prompts": LongPrompts, "cache_dtype": CacheType, "split": Split}
        for name, known in choices.items():
            if getattr(self, name) not in get_args(known):
                raise CoderError(
                    unknown_name(name.replace("_", " "), str(getattr(self, name)), get_args(known))
                )
        for name in ("skip_first", "gradients"):
            value = getattr(self, name)
            if not isinstance(value, bool) and (value is not None or name == "skip_first"):
                raise CoderError(f"{name} is true or false; got {value!r}.")
        for name in ("model", "data", "text_column"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise CoderError(f"{name} is text; got {getattr(self, name)!r}.")
        if self.cache is not None:
            object.__setattr__(self, "cache", Path(self.cache))


@dataclass(frozen=True)
class TrainingPlan:
    """Coders that are trained side by side on one model's activations.

    Raises :class:`CoderError` for no coder, and for names that cannot be folders.
    """

    coders: Mapping[str, CoderPlan]
    training: TrainingConfig = field(default_factory=TrainingConfig)
    activations: ActivationPlan = field(default_factory=ActivationPlan)
    out: Path | None = None
    """Where coders, curves and report go."""

    def __post_init__(self) -> None:
        if not self.coders:
            raise CoderError("a plan needs a coder: [coder], or several as [coders.NAME].")
        wrong = [name for name in self.coders if not _NAME.fullmatch(name) or name == CHECKPOINT]
        if wrong:
            raise CoderError(
                f"names of coders become folders: letters, digits and . - _, and not {CHECKPOINT!r}; got {wrong[0]!r}."
            )
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))
        learns = any(coder.config.firing == "gradient" for coder in self.coders.values())
        if self.activations.gradients is None:
            object.__setattr__(self, "activations", replace(self.activations, gradients=learns))
        elif learns and not self.activations.gradients:
            raise CoderError("a gradient coder learns from the loss' gradients; gradients must not be false.")

    @property
    def is_single(self) -> bool:
        """Whether there is one coder, which then lies in the folder itself."""
        return set(self.coders) == {ONE}

    @property
    def shares_sites(self) -> bool:
        """Whether all coders read and predict the same."""
        return len({(coder.site, coder.target) for coder in self.coders.values()}) == 1

    def folder_of(self, name: str, out: Path) -> Path:
        """Where a coder is written."""
        return out if self.is_single else out / name

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        activations = asdict(self.activations)
        activations["cache"] = None if self.activations.cache is None else str(self.activations.cache)
        return {
            "coders": {
                name: {"site": list(coder.site), "target": list(coder.target), **coder.config.to_dict()}
                for name, coder in self.coders.items()
            },
            "training": self.training.to_dict(),
            "activations": activations,
        }
