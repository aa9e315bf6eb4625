"""Reports and files that the commands about sparse coders write."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.cli.coder_tables import describe_kind, describe_place, trained_cells
from interp.coders.coder import Coder
from interp.coders.cross_layer import CrossLayerTranscoder
from interp.coders.files import AnyCoder
from interp.coders.ground_truth import measure_geometry
from interp.coders.planned_training import REPORT, TrainedPlan
from interp.coders.probing import attribute_data, match_attributes
from interp.coders.sources import stream_activations
from interp.models import Model
from interp.plots.coder_evaluation import plot_coder_evaluation
from interp.plots.coder_history import plot_coder_history
from interp.plots.geometry import plot_geometry
from interp.plots.probing import plot_attribute_match
from interp.reports import Section, Table, write_atomically, write_report
from interp.reports.sections import provenance_section
from interp.results.coder_evaluation import CoderEvaluation
from interp.results.feature_geometry import FeatureGeometry
from interp.results.probing import AttributeMatch
from interp.results.storage import without_nan
from interp.tasks.world import token_ids
from interp.types import HEAD_COMPONENTS, parse_site

_NOT_EVALUATED = (
    "These figures are of training, on the last batches. What the model loses with a coder in place of its activation "
    "is measured by interp evaluate-coder."
)
_MATCHED = (
    "For every attribute of the generated text, the one latent that tells it best, chosen on some prompts and measured "
    "on others; beside it the best random latent, neuron and principal component, and saying yes everywhere."
)
_ROWS_PROMPTS = 64
"""Prompts whose tokens tell which latents fire together."""
_LABELLED = 4000


@dataclass(frozen=True)
class CoderFindings:
    """What ``interp evaluate-coder`` found of a coder."""

    coder: AnyCoder
    evaluation: CoderEvaluation
    geometry: FeatureGeometry | None
    """``None`` for a cross-layer transcoder, which has a decoder for every layer."""
    attributes: AttributeMatch | None

    @classmethod
    def add_to(
        cls,
        evaluation: CoderEvaluation,
        coder: AnyCoder,
        model: Model,
        prompts: Any,
        attributes: bool | None,
        seed: int,
        progress: bool,
    ) -> CoderFindings:
        """An evaluation with the geometry of the coder's directions, and attributes where they can be asked.

        Raises :class:`~interp.errors.CoderError` for attributes that were asked for and cannot be.
        """
        geometry, matched = None, None
        if not isinstance(coder, CrossLayerTranscoder):
            sites = tuple(fit.reads for fit in evaluation.fits)
            chunk = stream_activations(model, prompts, sites, batch_size=_ROWS_PROMPTS).next_chunk()
            x = None if chunk is None else chunk.x.to(coder.W_dec.dtype)
            geometry = measure_geometry(coder, x, seed=seed, name=describe_kind(coder))
        if attributes or (attributes is None and _has_attributes(evaluation, model)):
            site = evaluation.fits[0].reads
            labelled = attribute_data(model, site, _LABELLED, seed, progress=progress)
            matched = match_attributes(coder, labelled, seed=seed)
        return cls(coder, evaluation, geometry, matched)


def _has_attributes(evaluation: CoderEvaluation, model: Model) -> bool:
    sites = [parse_site(fit.reads) for fit in evaluation.fits]
    known = model.tokenizer is not None and model.tokenizer.get_vocab() == dict(token_ids())
    return known and len(sites) == 1 and sites[0].component not in HEAD_COMPONENTS


def write_findings(
    found: CoderFindings, json_path: Path | None, csv: Path | None, report: Path | None
) -> list[Path]:
    """Write what was asked for. Raises :class:`~interp.errors.ExportError` when it cannot be written."""
    written = []
    if json_path is not None:
        text = json.dumps(findings_to_json(found), indent=1, allow_nan=False) + "\n"
        written.append(write_atomically(json_path, text))
    if csv is not None:
        written.append(write_atomically(csv, found.evaluation.to_frame().to_csv(index=False)))
    if report is not None:
        written.append(_write_findings_report(found, report))
    return written


def findings_to_json(found: CoderFindings) -> dict[str, Any]:
    """All figures as plain values; NaN is ``None``, for JSON has no NaN."""
    evaluation, geometry, matched = found.evaluation, found.geometry, found.attributes
    losses = ("ce_clean", "ce_substituted", "ce_ablated", "kl_substituted", "kl_ablated")
    own = ("site", "reads", "architecture", "d_sae", "n_tokens", "l0", "fvu", "explained_variance", "cosine")
    document: dict[str, Any] = {
        "provenance": evaluation.provenance.to_dict(),
        "coder": found.coder.config.to_dict() if isinstance(found.coder, Coder) else {},
        "sites": [
            {name: getattr(fit, name) for name in (*own, "dead_frac")} | {"density": fit.density.tolist()}
            for fit in evaluation.fits
        ],
        "n_predicted": int(evaluation.n_predicted.sum()),
        **{name: evaluation.mean(name) for name in losses},
        "ce_recovered": asdict(evaluation.ce_recovered),
        "kl_recovered": asdict(evaluation.kl_recovered),
        "confidence": evaluation.confidence,
    }
    if geometry is not None:
        document["geometry"] = {
            "effective_dimension": geometry.effective_dimension,
            "median_nearest_cosine": float(geometry.nearest_cosine.median()),
            "median_nearest_cosine_of_random": float(geometry.random_cosine.median()),
            "duplicates": geometry.n_duplicates,
        }
    if matched is not None:
        document["attributes"] = matched.to_frame().to_dict("records")
    plain: dict[str, Any] = without_nan(document)
    return plain


def _write_findings_report(found: CoderFindings, path: Path) -> Path:
    made, coder = found.evaluation.provenance, found.coder
    sections = [
        Section(
            "In the model",
            tuple(found.evaluation.summary().splitlines()),
            figures=(plot_coder_evaluation(found.evaluation),),
        )
    ]
    if isinstance(coder, Coder) and coder.history is not None and len(coder.history):
        curves = plot_coder_history(coder.history)
        sections.append(Section("Training", tuple(coder.history.summary().splitlines()), figures=(curves,)))
    if found.geometry is not None:
        geometry = found.geometry
        sections.append(Section("Geometry", (geometry.summary(),), figures=(plot_geometry(geometry),)))
    if found.attributes is not None:
        matched = found.attributes
        figure = plot_attribute_match(matched)
        sections.append(Section("Attributes", (_MATCHED, matched.summary()), figures=(figure,)))
    place = describe_place(coder.sites, coder.target_sites) or found.evaluation.fits[0].site
    return write_report(
        path,
        f"Sparse coder at {place} of {made.model}",
        [*sections, provenance_section(made)],
        subtitle=f"{describe_kind(coder)} · {coder.d_sae:,} latents · {made.summary()}",
        footer="Written by interp.",
    )


def write_training_report(trained: TrainedPlan) -> Path:
    """Write ``report.html`` beside the coders: their last figures and their curves.

    Raises :class:`~interp.errors.ExportError` when it cannot be written.
    """
    columns = ("coder", "architecture", "site", "tokens", "L0", "FVU", "dead")
    rows = tuple((name, *trained_cells(coder)) for name, coder in trained.coders.items())
    plan, history = trained.plan, trained.history
    made = history.provenance
    sections = [
        Section("Coders", (_NOT_EVALUATED,), (Table(columns, rows),)),
        Section("Training", tuple(history.summary().splitlines()), figures=(plot_coder_history(history),)),
        Section("Settings", tables=(Table(("setting", "value"), _settings(trained)),)),
        provenance_section(made),
    ]
    what = "Sparse coder" if len(rows) == 1 else f"{len(rows)} sparse coders"
    return write_report(
        trained.folder / REPORT,
        f"{what} of {plan.activations.model}",
        sections,
        subtitle=made.summary(),
        footer="Written by interp.",
    )


def _settings(trained: TrainedPlan) -> tuple[tuple[str, str], ...]:
    told = trained.plan.to_dict()
    return tuple(
        (f"{section}: {name.replace('_', ' ')}", str(value))
        for section in ("activations", "training")
        for name, value in told[section].items()
        if value is not None
    )
