"""``interp quickstart``: the main job, end to end."""

from __future__ import annotations

import re

import pytest
from page_reader import PageReader


def test_it_finds_the_heads_and_writes_the_report(run, tmp_path):
    result = run("quickstart", "--n", 4, "--heads", 2, "--no-progress", "--seed", 1)
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "report.html") in result.stdout
    assert re.search(r"Took \d+ s", result.stdout)
    page = PageReader(tmp_path / "report.html")
    assert page.headings == ["What was done", "Top sites", "Maps", "Ablated together", "Provenance"]
    assert len(page.figures) == 2
    rows = [line.split() for line in result.stdout.splitlines() if re.match(r"\s*L\dH\d ", line)]
    heads, ablated = [row[0] for row in rows[:8]], rows[8]
    # the heads ablated together are the first of the table, and take most of the difference away
    assert set(ablated[:2]) == set(heads[:2])
    assert float(ablated[3]) < 0.6
    assert "0% of the random sets" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--out", "/dev/null/r.html"], "not a folder"), (["--out", "report.pdf"], "HTML file")],
)
def test_a_bad_output_is_refused_first(refuse, arguments, message, monkeypatch):
    monkeypatch.setattr("interp.cli.inputs.load_quietly", lambda *_, **__: pytest.fail("a model was loaded"))
    assert message in refuse("quickstart", *arguments)


def test_more_heads_than_random_sets_allow(refuse):
    assert "choose fewer" in refuse("quickstart", "--n", 2, "--heads", 12, "--no-progress")
