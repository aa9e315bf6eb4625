"""The report of a circuit: what it says, and what it takes along."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from fake_circuits import LABELLED, make_circuit, make_edge_scores
from page_reader import PageReader

from interp.errors import CircuitError, ExportError
from interp.reports import Section, circuit_report
from interp.results import HeadRole, HeadScores, Provenance

NASTY = "</script><script>alert(1)</script>"


class Proof:
    """A record that draws and lists itself."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def plot(self):
        return make_edge_scores().plot()

    def to_frame(self):
        import pandas as pd

        return pd.DataFrame(
            {
                "share": torch.linspace(0, 1, self.rows).tolist(),
                "edges": range(self.rows),
                "kept": [True] * self.rows,
            }
        )


def rows(page: PageReader, width: int, first: str) -> list[list[str]]:
    """Rows of ``width`` cells of the table whose first cell is this one."""
    start = page.cells.index(first)
    return [page.cells[i : i + width] for i in range(start, len(page.cells), width)]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def text_of(path) -> str:
    return re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))


def test_it_holds_the_picture_edges_nodes_and_provenance(tmp_path):
    circuit = make_circuit(edges=50)
    path = circuit_report(circuit, tmp_path / "r.html", k=9)
    page = PageReader(path)
    assert page.headings == [
        "What was done", "The circuit", f"Edges: the 9 largest of {circuit.n_edges}",
        f"Nodes: the 9 strongest of {len(circuit.nodes)}", "Not proved", "Provenance",
    ]  # fmt: skip
    assert len(page.figures) == 1
    frame = circuit.to_frame().sort_values("value", key=abs, ascending=False).head(9)
    listed = rows(page, 3, frame.edge.iloc[0])[:9]
    assert [row[0] for row in listed] == list(frame.edge)
    assert [number(row[2]) for row in listed] == pytest.approx(frame.value.tolist(), abs=6e-4)
    assert f"{circuit.n_edges} of the model&#x27;s 262 edges" in text_of(path)
    assert (
        "Edges were scored by eap, an estimate of putting corrupted activations into the clean run"
        in text_of(path)
    )
    assert "until it is run as a whole" in text_of(path)


def test_nodes_are_ranked_by_what_leaves_them(tmp_path):
    circuit = make_circuit(edges=50)
    page = PageReader(circuit_report(circuit, tmp_path / "r.html", roles={"L1H1": "mover", "m0": "gate"}))
    frame = circuit.to_frame()
    out = frame.groupby("source").value.sum()
    strongest = out.abs().idxmax()
    name = {"i": strongest, "m": strongest.upper()}.get(strongest[0], "L" + strongest[1:].replace(".h", "H"))
    listed = rows(page, 5, name)[: len(circuit.nodes)]
    assert sorted(row[0] for row in listed)[-1] == "logits"
    sizes = [abs(number(row[3])) for row in listed if row[3] != "–"]
    assert sizes == sorted(sizes, reverse=True)
    assert number(listed[0][3]) == pytest.approx(float(out[strongest]), abs=6e-4)
    assert int(listed[0][2]) == int((frame.source == strongest).sum())
    told = {row[0]: row for row in listed}
    assert (told["L1H1"][4], told["M0"][4], told["input"][4]) == ("mover", "gate", "")
    assert told["logits"][1:4] == [str(int((frame.target == "logits").sum())), "0", "–"]


def test_scores_of_heads_are_columns(tmp_path):
    circuit = make_circuit(edges=50)
    roles = {"induction": HeadRole("mean weight on <it>", "mean attention weight")}
    table = torch.arange(8.0).view(2, 4) / 100
    scores = HeadScores({"induction": table}, roles, (1, 2), Provenance("m"))
    path = circuit_report(circuit, tmp_path / "r.html", head_scores=scores)
    page = PageReader(path)
    first = next(cell for cell in page.cells if re.fullmatch(r"L\dH\d|M\d|input", cell))
    told = {row[0]: row[4] for row in rows(page, 5, first)[: len(circuit.nodes)]}
    for layer, head in circuit.heads:
        wanted = "–" if layer == 0 else f"{float(table[layer - 1, head]):.3f}"
        assert told[f"L{layer}H{head}"] == wanted
    assert told["input"] == told["logits"] == "–"
    assert "induction: mean weight on &lt;it&gt; (mean attention weight)" in text_of(path)


def test_both_layouts_where_there_are_positions_and_the_map_of_the_scores(tmp_path):
    scores = make_edge_scores(LABELLED)
    path = circuit_report(make_circuit(LABELLED, 60), tmp_path / "r.html", scores=scores)
    page = PageReader(path)
    assert len(page.figures) == 3
    assert "Scores of all edges" in page.headings
    assert page.cells[page.cells.index("clean run") + 1] == "3.300"
    assert page.cells[page.cells.index("corrupted run") + 1] == "−0.400"


def test_evidence_is_figure_and_table_and_sections_follow(tmp_path):
    evidence = {"Faithfulness": Proof(3), f"Minimality {NASTY}": Proof(100)}
    last = Section("In words", ("It holds.",))
    path = circuit_report(
        make_circuit(), tmp_path / "r.html", evidence=evidence, sections=[last], k=5, title="Mine"
    )
    page = PageReader(path)
    assert page.headings[-4:] == ["Faithfulness", f"Minimality {NASTY}", "In words", "Provenance"]
    assert len(page.figures) == 3
    assert rows(page, 3, "0.000")[:3] == [
        ["0.000", "0", "True"],
        ["0.500", "1", "True"],
        ["1.000", "2", "True"],
    ]
    assert "The first 5 of 100 rows:" in text_of(path)
    assert "<h1>Mine</h1>" in text_of(path)
    assert "Not proved" not in page.headings


def test_figures_are_whole_and_nothing_breaks_out(tmp_path):
    circuit = replace(make_circuit(), how=NASTY)
    path = circuit_report(circuit, tmp_path / "r.html", roles={"L1H1": NASTY})
    page = PageReader(path)
    assert not any(script.startswith("alert") for script in page.scripts)
    drawn = next(script for script in page.scripts if "Plotly.newPlot" in script and len(script) < 1_000_000)
    start = drawn.index("[", drawn.index("newPlot"))
    traces, _ = json.JSONDecoder().raw_decode(drawn[start:])
    assert len(traces) == len(circuit.plot(roles={"L1H1": NASTY}).data)


def test_circuits_without_values(tmp_path):
    circuit = replace(make_circuit(), values=None, provenance=Provenance("m"))
    path = circuit_report(circuit, tmp_path / "r.html")
    page = PageReader(path)
    assert rows(page, 3, circuit.edges[0])[0][2] == "–"
    assert "came without values" in text_of(path)
    assert "Edges were scored" not in text_of(path)


def test_refusals(tmp_path):
    circuit = make_circuit()
    with pytest.raises(
        CircuitError, match=r"the scores are of a graph of [0-9]+ edges, the circuit of one of 262"
    ):
        circuit_report(circuit, tmp_path / "r.html", scores=make_edge_scores(LABELLED))
    with pytest.raises(CircuitError, match="without edges has no picture"):
        circuit_report(circuit.without_edges(circuit.edges), tmp_path / "r.html")
    with pytest.raises(ExportError, match="a report is an HTML file"):
        circuit_report(circuit, tmp_path / "r.txt")
    assert list(tmp_path.iterdir()) == []
