"""Every figure of a search as plain values, for ``summary.json`` and for scripts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from interp.results import Faithfulness, MethodAgreement
from interp.results.storage import without_nan

if TYPE_CHECKING:
    from interp.circuits.search import CircuitSearch

_TOP = 20
"""Edges listed."""


@dataclass(frozen=True)
class Check:
    """A number that must reach a bound."""

    what: str
    value: float
    """NaN where it is undefined, which does not pass."""
    bound: float

    @property
    def passed(self) -> bool:
        """Whether it does."""
        return self.value >= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.passed else "is not >="
        return f"{self.what}: {self.value:z.3f} {sign} {self.bound:g}"


def summarize_search(found: CircuitSearch) -> dict[str, Any]:
    """``summary.json``: nothing in it depends on when and how fast a search ran, or on where it was stopped."""
    plan, scores = found.plan, found.scores
    document = {
        "plan": plan.question()
        | {"metric": found.provenance.metric, "circuits": [cut.label for cut in found.cuts]},
        "n_edges": found.graph.n_edges,
        "n_nodes": len(found.graph.nodes),
        **_baselines(found),
        "circuits": [row | _more(found, i) for i, row in enumerate(circuit_rows(found))],
        "top_edges": [] if scores is None else [asdict(edge) for edge in scores.top(_TOP)],
        "completeness_gaps": {} if scores is None else dict(scores.gaps),
        "curve": None if found.curve is None else _curve(found.curve),
        "agreement": None if found.agreement is None else _agreement(found.agreement),
        "checks": [asdict(check) | {"passed": check.passed} for check in found.checks],
        "passed": found.passed,
        "notes": [*found.notes, *found.provenance.notes],
        "provenance": found.provenance.to_dict(),
    }
    plain: dict[str, Any] = without_nan(document)
    return plain


def circuit_rows(found: CircuitSearch) -> Iterator[dict[str, Any]]:
    """One row a circuit: what was asked for, what came of it, and how faithful it is."""
    total = found.graph.n_edges
    for i, (cut, circuit) in enumerate(zip(found.cuts, found.circuits, strict=True)):
        row: dict[str, Any] = {
            "asked": cut.label,
            "edges": circuit.n_edges,
            "share": circuit.n_edges / total,
            "nodes": len(circuit.nodes),
        }
        yield row | _faithfulness(found.faithfulness, found.ranks[i])


def _more(found: CircuitSearch, i: int) -> dict[str, Any]:
    """What a table has no room for."""
    circuit = found.circuits[i]
    heads = [f"L{layer}H{head}" for layer, head in circuit.heads]
    return {"how": circuit.how, "heads": heads, "file": f"circuit-{found.cuts[i].slug}.json"}


def _faithfulness(found: Faithfulness | None, rank: int) -> dict[str, Any]:
    if found is None:
        return {}
    row: dict[str, Any] = {
        "faithfulness": float(found.values[0, rank]),
        "low": float(found.low[0, rank]),
        "high": float(found.high[0, rank]),
        "metric": float(found.per_prompt[0, rank].double().mean()),
    }
    for curve in found.nulls:
        row[f"random_{curve.kind}"] = float(found.null_values(curve)[rank].mean())
    return row


def _baselines(found: CircuitSearch) -> dict[str, Any]:
    """The metric of both runs: of the scores, else of the circuits' runs."""
    if found.scores is not None:
        return {"clean": found.scores.clean, "corrupted": found.scores.corrupted}
    if found.faithfulness is not None:
        full, empty = (t.double().mean() for t in (found.faithfulness.full, found.faithfulness.empty))
        return {"clean": float(full), "corrupted": float(empty)}
    return {"clean": None, "corrupted": None}


def _curve(curve: Faithfulness) -> dict[str, Any]:
    return {
        "cpr": asdict(curve.cpr[0]),
        "cmd": asdict(curve.cmd[0]),
        "random": {c.kind: {"cpr": curve.null_cpr(c), "cmd": curve.null_cmd(c)} for c in curve.nulls},
        "fractions": list(curve.fractions),
        "edges": curve.n_edges[0].tolist(),
        "faithfulness": curve.values[0].tolist(),
        "low": curve.low[0].tolist(),
        "high": curve.high[0].tolist(),
        "confidence": curve.confidence,
    }


def _agreement(check: MethodAgreement) -> dict[str, Any]:
    names = ("pearson", "spearman", "sign_agreement", "top_overlap")
    parts = {name: getattr(check, name) for name in names}
    return {
        **{name: None if part is None else asdict(part) for name, part in parts.items()},
        "confidence": check.confidence,
        "checked": len(check.names),
        "summary": check.summary(),
    }
