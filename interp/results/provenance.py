"""Where a number came from: the model, the data, the method and the software."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import metadata
from typing import Any

_PACKAGES = ("interp", "torch", "transformer-lens", "transformers")


def installed_versions() -> dict[str, str]:
    """Versions of the packages a number depends on, and of Python."""
    return dict(_read_versions())


@cache
def _read_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class Provenance:
    """What is needed to tell how a result was made, and to make it again.

    Fields that do not apply are ``None``. ``backend_reason`` says why a backend was chosen or
    fallen back from. ``seconds`` is wall-clock time of the computation.
    """

    model: str
    family: str | None = None
    revision: str | None = None
    """Hub revision, or a content hash of the weights."""
    task: str | None = None
    n_prompts: int | None = None
    seed: int | None = None
    metric: str | None = None
    method: str | None = None
    direction: str | None = None
    ablation: str | None = None
    backend: str | None = None
    backend_reason: str | None = None
    device: str | None = None
    dtype: str | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=installed_versions)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Provenance:
        """Read what :meth:`to_dict` wrote; fields of newer versions are ignored."""
        known = {f.name for f in fields(cls)}
        kept = {name: value for name, value in data.items() if name in known}
        kept["notes"] = tuple(kept.get("notes", ()))
        return cls(**kept)

    def summary(self) -> str:
        """One line for a subtitle: model, task, n, metric, direction, ablation, backend."""
        parts = [self.model]
        if self.task:
            parts.append(self.task + (f" (n={self.n_prompts})" if self.n_prompts else ""))
        parts += [part for part in (self.metric, self.direction) if part]
        if self.ablation and self.ablation != "source":
            parts.append(f"{self.ablation} ablation")
        if self.method:
            parts.append(self.method + (f" ({self.backend})" if self.backend else ""))
        return " · ".join(parts)
