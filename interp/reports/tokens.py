"""The report of what each token contributes: coloured text, the largest contributions, the check."""

from __future__ import annotations

from pathlib import Path

from interp.errors import ExportError
from interp.reports.page import Section, Table, write_report
from interp.reports.sections import provenance_section
from interp.results import MaskingCheck, TokenScores
from interp.results.phrases import is_estimate

_SHOWN = 24
"""Prompts shown as coloured text."""
_LARGEST = 20
_ABLATIONS = {
    "zero": "by zeros",
    "source": "by the other prompt's token at its place",
    "mean": "by a mean",
    "mean-per-position": "by the mean at its position",
    "resample": "by that of another prompt",
}
_UNCHECKED = (
    "Whether a large contribution means that the token matters more than one with a small contribution was not "
    "checked here; interp.check_masking masks the tokens that rank first and those that rank last, and compares."
)


def tokens_report(
    scores: TokenScores, path: str | Path, *, check: MaskingCheck | None = None, title: str | None = None
) -> Path:
    """Write contributions of tokens as one self-contained HTML file, and return its path.

    It holds the text of the prompts coloured by contribution, the largest contributions, bars, the
    masking check where one is given, and says that nothing was checked where not, and the provenance.

    Raises :class:`~interp.errors.ExportError` for a check of another method's ranking, and as
    :func:`write_report` does.
    """
    made = scores.provenance
    if check is not None and check.provenance.method != made.method:
        raise ExportError(
            f"the check is of a ranking by {check.provenance.method}, the scores are by {made.method}; give the check "
            "of these scores."
        )
    sections = [
        _summary(scores),
        Section("Coloured text", prepared=(scores.to_html(prompts=_SHOWN),)),
        _largest(scores),
        Section("Bars by token", figures=(scores.plot(),)),
        Section("Not checked", (_UNCHECKED,)) if check is None else _check(check),
        provenance_section(made),
    ]
    return write_report(
        path,
        title or f"Contributions of tokens: {made.task or 'custom task'} on {made.model}",
        sections,
        subtitle=made.summary(),
        footer="Written by interp.",
    )


def _summary(scores: TokenScores) -> Section:
    made, metric = scores.provenance, scores.provenance.metric or "the metric"
    how = _ABLATIONS.get(made.ablation or "", "by something else")
    much = "about how far" if is_estimate(made) else "how far"
    text = (
        f"Every token of the {scores.run} prompts has a contribution: {much} {metric} would fall if the token's "
        f"embedding were replaced {how}. Positive speaks for {metric}, negative against it. "
        + (
            f"It was estimated by {made.method}."
            if is_estimate(made)
            else "Each was replaced in a run of its own."
        )
        + " Contributions need not add up to the metric."
    )
    rows = (
        ("prompts", len(scores)),
        (f"mean {made.metric or 'metric'}", float(scores.metric.double().mean())),
        ("mean sum of a prompt's tokens", float(scores.total.double().mean())),
    )
    return Section("What was done", (text,), (Table(("of the prompts as they are", ""), rows),))


def _largest(scores: TokenScores) -> Section:
    rows = tuple((token, prompt, pos, value) for token, prompt, pos, value in scores.top(_LARGEST))
    return Section(
        "Largest contributions", tables=(Table(("token", "prompt", "position", "contribution"), rows),)
    )


def _check(check: MaskingCheck) -> Section:
    frame = check.to_frame()
    columns = ("masked", "ranked first", "at random", "ranked last", "first minus last", "told apart")
    rows = tuple(
        (f"{fraction:.0%}", most, random, least, str(gap), "yes" if holds else "no")
        for fraction, most, random, least, gap, holds in zip(
            check.fractions,
            frame["most"],
            frame["random"],
            frame["least"],
            check.gaps,
            check.holds,
            strict=True,
        )
    )
    text = (
        f"A share of each prompt's {check.what} was masked together: those with the largest contributions by size, "
        "those with the smallest, and as many drawn at random. The table has the mean absolute change of the "
        f"metric; first minus last has {check.confidence:.0%} bootstrap intervals over prompts, and the ranking tells "
        "first from last where its interval lies above 0."
    )
    return Section("Checked by masking", (text,), (Table(columns, rows),), (check.plot(),))
