"""Result files: which kind an ending means, and writing each."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import ExportError, unknown_name
from interp.results.storage import without_nan

if TYPE_CHECKING:
    from interp.results import (
        MaskingCheck,
        MethodAgreement,
        MethodComparison,
        PatchScores,
        SetScores,
        TokenScores,
    )
    from interp.tasks import PromptPairs

    Scores = PatchScores | SetScores | TokenScores | MethodComparison
    Check = MethodAgreement | MaskingCheck

KINDS = {
    ".html": "report",
    ".htm": "report",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".safetensors": "scores",
}


def check_outputs(paths: Sequence[Path], **given: Path | None) -> list[Path]:
    """All output files, each known to be writable; ``given`` are those named by an option of a kind.

    Raises :class:`ExportError` for an ending that says no kind, or another than its option's, for a
    file named twice, and for a place that cannot be written to.
    """
    from interp.reports import check_writable

    named = {kind: path for kind, path in given.items() if path is not None}
    for kind, path in named.items():
        if KINDS.get(path.suffix.lower()) != kind:
            endings = " or ".join(ending for ending, meant in KINDS.items() if meant == kind)
            raise ExportError(f"--{kind} writes a file that ends in {endings}; got {str(path)!r}.")
    every = [*paths, *named.values()]
    for path in every:
        if path.suffix.lower() not in KINDS:
            raise ExportError(f"cannot write {str(path)!r}: {unknown_name('ending', path.suffix, KINDS)}")
        check_writable(path)
    twice = {str(path) for path in every if [p.absolute() for p in every].count(path.absolute()) > 1}
    if twice:
        raise ExportError(f"an output file was named twice: {', '.join(sorted(twice))}.")
    return every


def write_scores(path: Path, scores: Scores, prompts: PromptPairs, check: Check | None = None) -> Path:
    """Write a result in the kind that the ending of ``path`` means.

    ``check`` is what was done to test it, which reports and JSON show beside it. Raises
    :class:`ExportError` when the file cannot be written.
    """
    from interp.reports import write_atomically

    kind = KINDS[path.suffix.lower()]
    if kind == "report":
        return _write_report(path, scores, prompts, check)
    if kind == "json":
        document = to_json(scores) | ({} if check is None else {"check": check_to_json(check)})
        return write_atomically(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    if kind == "csv":
        return write_atomically(path, scores.to_frame().to_csv(index=False))
    if kind == "parquet":
        buffer = io.BytesIO()
        scores.to_frame().to_parquet(buffer, index=False)
        return write_atomically(path, buffer.getvalue())
    try:
        return scores.save(path)
    except OSError as error:
        raise ExportError(f"cannot write {str(path)!r}: {error}.") from error


def _write_report(path: Path, scores: Scores, prompts: PromptPairs, check: Check | None) -> Path:
    from interp import reports, results

    if isinstance(scores, results.SetScores):
        return reports.sets_report(scores, path, prompts=prompts)
    if isinstance(scores, results.MethodComparison):
        return reports.comparison_report(scores, path)
    if isinstance(scores, results.TokenScores):
        masked = check if isinstance(check, results.MaskingCheck) else None
        return reports.tokens_report(scores, path, check=masked)
    agreement = check if isinstance(check, results.MethodAgreement) else None
    return reports.patching_report(scores, path, prompts=prompts, agreement=agreement)


def to_json(scores: Scores) -> dict[str, Any]:
    """A result as plain lists with its provenance; NaN is ``None``, for JSON has no NaN."""
    from interp import results

    if isinstance(scores, results.PatchScores):
        return scores_to_json(scores)
    if isinstance(scores, results.SetScores):
        return sets_to_json(scores)
    document: dict[str, Any] = {"provenance": scores.provenance.to_dict()}
    document["rows"] = scores.to_frame().to_dict("records")
    if isinstance(scores, results.MethodComparison):
        document["costs"] = [asdict(cost) for cost in scores.costs]
    else:
        document |= {"run": scores.run, "metric": scores.metric.tolist()}
    plain: dict[str, Any] = without_nan(document)
    return plain


def check_to_json(check: Check) -> dict[str, Any]:
    """What tested a result, in the same way."""
    from interp.results import MethodAgreement

    document: dict[str, Any] = {"summary": check.summary(), "rows": check.to_frame().to_dict("records")}
    if isinstance(check, MethodAgreement):
        names = ("pearson", "spearman", "sign_agreement", "top_overlap")
        found = {name: getattr(check, name) for name in names}
        document |= {name: None if part is None else asdict(part) for name, part in found.items()}
        document |= {"confidence": check.confidence, "n_sites": check.n_sites}
    plain: dict[str, Any] = without_nan(document)
    return plain


def scores_to_json(scores: PatchScores, k: int = 20) -> dict[str, Any]:
    """Scores as plain lists with their axes and provenance; NaN is ``None``, for JSON has no NaN."""
    sites = {
        key: {
            "component": part.component,
            "axes": list(part.axes),
            "labels": {axis: list(part.labels[axis]) for axis in part.axes},
            "clean": part.clean,
            "corrupted": part.corrupted,
            "raw": part.raw.tolist(),
            "recovered": part.values.tolist(),
            "effect": scores.effects(key).tolist(),
        }
        for key, part in scores.sites.items()
    }
    top = [
        {"name": row.name, "site": row.site, "index": list(row.index), "recovered": row.value, "raw": row.raw}
        | {"effect": row.effect}
        for row in scores.top(k)
    ]
    document = {"provenance": scores.provenance.to_dict(), "top": top, "sites": sites}
    plain: dict[str, Any] = without_nan(document)
    return plain


def sets_to_json(scores: SetScores, k: int = 20) -> dict[str, Any]:
    """Scores of sets as plain lists; a set is a list of indices into the members."""
    columns = ("name", "value", "effect", "interaction", "raw")
    top = {
        f"top_by_{by}": [{key: getattr(row, key) for key in columns} for row in scores.top(k, by=by)]
        for by in ("effect", "interaction")
    }
    document = {
        "provenance": scores.provenance.to_dict(),
        "clean": scores.clean,
        "corrupted": scores.corrupted,
        **top,
        "members": list(scores.members),
        "single_raw": scores.single_raw.tolist(),
        "single_recovered": scores.single_values.tolist(),
        "sets": [[i for i in row if i >= 0] for row in scores.sets.tolist()],
        "raw": scores.raw.tolist(),
        "recovered": scores.values.tolist(),
        "interaction": scores.interaction.tolist(),
        "path": None if scores.path is None else scores.path.tolist(),
    }
    plain: dict[str, Any] = without_nan(document)
    return plain
