"""``interp models`` and ``interp tasks`` list what there is."""

from __future__ import annotations

import json

from interp.models.bundled import bundled_names
from interp.tasks import TASKS


def test_models_as_json_carry_their_cards(run):
    entries = {entry["name"]: entry for entry in json.loads(run("models", "--json").stdout)}
    assert tuple(sorted(entries)) == bundled_names()
    assert entries["mix-4l"]["card"]["heldout"]["ioi_accuracy"] > 0.95
    assert entries["micro"]["circuit"]["name"] == "micro"
    assert all(entry["description"] for entry in entries.values())


def test_models_table_and_card(run):
    table = run("models").stdout
    assert all(name in table for name in bundled_names())
    assert "heads" in run("models", "micro").stdout
    assert json.loads(run("models", "micro", "--json").stdout)["name"] == "micro"


def test_unknown_model_is_refused(refuse):
    assert "did you mean 'mix-4l'" in refuse("models", "mix4l")


def test_tasks(run):
    entries = json.loads(run("tasks", "--json").stdout)
    assert [entry["name"] for entry in entries] == list(TASKS)
    assert entries[0]["options"]["split"] == "heldout"
    table = run("tasks").stdout
    assert all(name in table for name in TASKS)
