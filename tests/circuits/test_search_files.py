"""The folder of a search: its own files are claimed, kept and deleted, and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toy_circuits import ONE_LAYER, make_edge_scores

from interp.circuits.search_files import SearchFiles, forget_search, own_files, write_json
from interp.errors import CircuitError, DataFileError
from interp.results import EdgeScores

OWN = (
    "search.json",
    "summary.json",
    "times.json",
    "report.html",
    "scores.safetensors",
    "verify.safetensors",
    "verify.csv",
    "faithfulness.csv",
    "curve.safetensors",
    "circuit-0.7pct.json",
    "circuit-50-edges.dot",
    "circuit-tau-1e-05.tracer.json",
    ".scores.safetensors.0123456789abcdef0123456789abcdef",
    "parts/search.json",
    "parts/edges-00012.safetensors",
    "parts/tau-0.01.safetensors",
    "parts/.tau-0.01.safetensors.0123456789abcdef0123456789abcdef",
)
FOREIGN = (
    "notes.txt",
    "my-circuit-2pct.json",
    "circuit-2pct.png",
    "scores.csv",
    "scores.safetensors.bak",
    ".notes.txt.0123456789abcdef0123456789abcdef",
    "parts/edges.safetensors",
    "more/search.json",
)


def _fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_a_searchs_own_files_are_deleted(tmp_path: Path) -> None:
    _fill(tmp_path, (*OWN, *FOREIGN))
    assert {str(path.relative_to(tmp_path)) for path in own_files(tmp_path)} == set(OWN)
    forget_search(tmp_path)
    assert _files(tmp_path) == set(FOREIGN)
    (tmp_path / "parts" / "edges.safetensors").unlink()
    _fill(tmp_path, OWN)
    forget_search(tmp_path)
    assert not (tmp_path / "parts").exists()
    assert forget_search(tmp_path) == () and forget_search(tmp_path / "nowhere") == ()


def test_files_of_no_search_are_left_alone(tmp_path: Path) -> None:
    _fill(tmp_path, ("report.html", "notes.txt"))
    with pytest.raises(CircuitError, match=r"report\.html but no search\.json.*nothing was deleted"):
        forget_search(tmp_path)
    with pytest.raises(CircuitError, match=r"report\.html, which would be written over"):
        SearchFiles(tmp_path, {"model": "m"})
    assert _files(tmp_path) == {"report.html", "notes.txt"}


def test_a_step_is_done_once(tmp_path: Path) -> None:
    scores = make_edge_scores(ONE_LAYER, torch.rand(ONE_LAYER.n_edges).numpy(), seconds=1.5)
    files = SearchFiles(tmp_path, {"model": "m"})
    made = files.keep("scores", EdgeScores, lambda: scores)
    assert made.effects.equal(scores.effects) and made.provenance.seconds is None
    assert files.read_back == [] and set(json.loads(files.path("times.json").read_text())) == {"scores"}
    again = SearchFiles(tmp_path, {"model": "m"})
    kept = again.keep("scores", EdgeScores, lambda: pytest.fail("made again"))
    assert kept.effects.equal(scores.effects) and again.read_back == ["scores"]
    path = files.path("scores.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataFileError, match="delete it, and the search makes it again"):
        again.keep("scores", EdgeScores, lambda: pytest.fail("made again"))
    files.path("times.json").write_text("{")
    with pytest.raises(DataFileError, match=r"times\.json' is damaged"):
        SearchFiles(tmp_path, {"model": "m"})


def test_halves_of_files_are_swept_up(tmp_path: Path) -> None:
    SearchFiles(tmp_path, {"model": "m"})
    halves = [name for name in OWN if Path(name).name.startswith(".")]
    _fill(tmp_path, (*halves, *FOREIGN))
    SearchFiles(tmp_path, {"model": "m"})
    assert _files(tmp_path) == {"search.json", *FOREIGN}


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []
