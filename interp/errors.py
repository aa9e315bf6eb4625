"""Every error this package raises on purpose.

All derive from :class:`InterpError`. A message says what came, what was expected and
what to do next; :func:`unknown_name` adds the nearest valid spellings.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InterpError(Exception):
    """Base of all errors raised by ``interp``."""


class SiteError(InterpError):
    """A site cannot be parsed, or does not exist in this model."""


class ModelError(InterpError):
    """A model cannot be loaded, or cannot do what was asked of it."""


class TokenizationError(InterpError):
    """Text does not tokenise as a task needs (unequal lengths, answers of two tokens...)."""


class TaskError(InterpError):
    """A task is unknown, empty or inconsistent."""


class MetricError(InterpError):
    """A metric is unknown, or does not fit the task it was given."""


class InterventionError(InterpError):
    """An intervention is malformed, has the wrong shape, or touched nothing."""


class PatchError(InterpError):
    """A patching sweep was asked for something that has no meaning."""


class RuleError(InterpError):
    """A relevance rule is unknown, does not cover a part of the model, or never acted."""


class CircuitError(InterpError):
    """A graph, a circuit or a search for one was asked for something that has no meaning."""


class CoderError(InterpError):
    """A sparse coder, its training or its data was asked for something that has no meaning."""


class SteeringError(InterpError):
    """A steering, its extraction, its dose or its baking was asked for something that has no meaning."""


class UnreachedDoseError(SteeringError):
    """No strength of a steering has the dose that was asked for."""


class LensError(InterpError):
    """A lens or a head score was asked for something that has no meaning."""


class RecordError(InterpError):
    """The fields of a result do not agree (shapes, labels), or it was asked for what it lacks."""


class DataFileError(InterpError):
    """A file is missing, truncated, corrupt or of a kind that is refused."""


class BenchError(InterpError):
    """A benchmark was asked for something that has no meaning, or its numbers are not the peer's."""


class KernelError(InterpError):
    """A GPU kernel was asked for where it cannot run, or with tensors that do not fit each other."""


class ExportError(InterpError):
    """A figure or report cannot be written."""


def suggest_names(got: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"`` for the nearest choices, or ``""``."""
    near = difflib.get_close_matches(got, list(choices), n=3, cutoff=0.5)
    if not near:
        return ""
    return "; did you mean " + " or ".join(repr(name) for name in near) + "?"


def unknown_name(kind: str, got: str, choices: Iterable[str]) -> str:
    """Message for a name that is not in ``choices``, with the nearest ones suggested."""
    known = sorted(set(choices))
    listed = ", ".join(known)
    return f"unknown {kind} {got!r}{suggest_names(got, known) or '.'} Known: {listed}."
