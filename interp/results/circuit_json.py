"""Circuits as JSON that people and other programs read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import DataFileError, InterpError
from interp.results.circuit import Circuit
from interp.results.graph import Graph, MlpUnits
from interp.results.provenance import Provenance
from interp.results.storage import write_whole

FORMAT = "interp circuit"
VERSION = 1


def write_circuit(circuit: Circuit, path: str | Path, *, all_values: bool = True) -> Path:
    """Write a circuit as one JSON object; a reader of ``path`` sees the whole file or the old one.

    Its keys are ``format`` and ``version``, ``graph`` (the sizes that number the edges), ``how``,
    ``provenance`` and ``edges``, one line each: the name, and ``value`` where the circuit has values (the
    share of the gap between clean and corrupted that the edge carries; ``null`` for an undefined one).
    ``values`` lists those of every edge of the graph, in its order; ``all_values=False`` leaves it out, and
    a circuit read from such a file knows the values of its own edges only.
    """
    values = None if circuit.values is None else _numbers(circuit.values)
    edges: list[dict[str, Any]] = [{"edge": name} for name in circuit.edges]
    if values is not None:
        for row, number in zip(edges, circuit.edge_numbers.tolist(), strict=True):
            row["value"] = values[number]
    parts: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "graph": asdict(circuit.graph),
        "how": circuit.how,
        "provenance": circuit.provenance.to_dict(),
    }
    lines = [f"{json.dumps(key)}: {_compact(part)}" for key, part in parts.items()]
    rows = ",".join(f"\n  {_compact(row)}" for row in edges)
    lines.append(f'"edges": [{rows}]')
    if circuit.values is not None:
        lines.append(f'"dtype": {json.dumps(str(circuit.values.dtype).removeprefix("torch."))}')
        if all_values:
            lines.append(f'"values": {_compact(values)}')
    text = "{\n " + ",\n ".join(lines) + "\n}\n"
    return write_whole(path, text.encode("utf-8"))


def read_circuit(path: str | Path) -> Circuit:
    """Read what :func:`write_circuit` wrote, or a file written by hand in the same form.

    Raises :class:`DataFileError` for a file that is missing, is no JSON, is of another kind or a newer
    version, or names edges that its graph has not.
    """
    path = Path(path)
    data = _load(path)
    try:
        return _read(data)
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, InterpError) as error:
        raise DataFileError(
            f"{str(path)!r} does not hold a whole circuit ({type(error).__name__}: {error}); it was damaged, or "
            "edited by hand."
        ) from error


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise DataFileError(f"no file at {str(path)!r}; expected a circuit as JSON.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataFileError(
            f"{str(path)!r} is no readable JSON ({error}); it may be truncated or of another kind."
        ) from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise DataFileError(f"{str(path)!r} is no circuit: its 'format' is {found!r}, expected {FORMAT!r}.")
    version = data.get("version")
    if version != VERSION:
        raise DataFileError(
            f"{str(path)!r} is of version {version!r}; this installation reads version {VERSION}. Was it written by "
            "a newer one?"
        )
    return data


def _read(data: Mapping[str, Any]) -> Circuit:
    graph = _read_graph(data["graph"])
    rows = data["edges"]
    names = [row["edge"] for row in rows]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"edge {repeated[0]!r} is listed twice")
    numbers = torch.from_numpy(graph.find_edges(names))
    included = torch.zeros(graph.n_edges, dtype=torch.bool)
    included[numbers] = True
    values = _read_values(data, numbers, graph.n_edges)
    return Circuit(graph, included, str(data["how"]), Provenance.from_dict(data["provenance"]), values)


def _read_graph(data: Mapping[str, Any]) -> Graph:
    units = tuple(MlpUnits(u["layer"], u["kind"], tuple(u["indices"])) for u in data["units"])
    texts = {name: tuple(data[name]) for name in ("positions", "position_tokens")}
    return Graph(**{**data, "units": units, **texts})


def _read_values(data: Mapping[str, Any], numbers: Tensor, n_edges: int) -> Tensor | None:
    """Values of all edges; NaN for those that the file does not tell."""
    rows, listed = data["edges"], data.get("values")
    told = torch.tensor(["value" in row for row in rows], dtype=torch.bool)
    if listed is None and not told.any():
        return None
    dtype = getattr(torch, data.get("dtype", "float32"))
    own = torch.tensor([_number(row.get("value")) for row in rows], dtype=dtype)
    if listed is None:
        values = torch.full((n_edges,), math.nan, dtype=dtype)
        values[numbers] = own
        return values
    if len(listed) != n_edges:
        raise ValueError(f"{len(listed)} 'values' for the {n_edges} edges of the graph")
    values = torch.tensor([_number(item) for item in listed], dtype=dtype)
    same = (values[numbers] == own) | (values[numbers].isnan() & own.isnan())
    if not bool((same | ~told).all()):
        wrong = int((~same & told).int().argmax())
        raise ValueError(f"the value of {rows[wrong]['edge']} is another in the list 'values'")
    return values


def _numbers(values: Tensor) -> list[float | str | None]:
    """Numbers as JSON has them, which knows neither NaN (``null``) nor infinity (a string)."""
    digits = 17 if values.dtype == torch.float64 else 9
    # nine digits tell all numbers of single precision apart, seventeen those of double precision
    shown = [float(f"{value:.{digits}g}") for value in values.double().tolist()]
    return [v if math.isfinite(v) else None if math.isnan(v) else str(v) for v in shown]


def _number(item: float | str | None) -> float:
    return math.nan if item is None else float(item)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
