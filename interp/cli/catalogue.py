"""``interp models`` and ``interp tasks``: what there is to choose from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from interp.models.bundled import BundledModel

HEADLINES = (
    "ioi_accuracy",
    "greater_than_prob_diff",
    "pronouns_accuracy",
    "agreement_accuracy",
    "induction_score",
    "known_accuracy",
    "unseen_made_up_rate",
)
"""Held-out figures in the list; the card has them all."""
AS_JSON = typer.Option("--json", help="Print JSON.")


def list_models(
    name: Annotated[str | None, typer.Argument(help="Show this model's whole card.")] = None,
    as_json: Annotated[bool, AS_JSON] = False,
) -> None:
    """List the bundled models, or show one model's card."""
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.markup import escape
    from rich.table import Table

    found = [_describe(model) for model in _choose_models(name)]
    if as_json:
        typer.echo(json.dumps(found if name is None else found[0], indent=1))
        return
    console = Console()
    if name is not None:
        console.print(Markdown(found[0]["readme"]))
        return
    table = Table(show_lines=True)
    for heading, plain in (("name", True), ("what it is", False), ("held out", True)):
        table.add_column(heading, no_wrap=plain)
    for entry in found:
        figures = entry["card"].get("heldout", {})
        shown = [f"{key} {value:.3f}" for key, value in figures.items() if key in HEADLINES]
        table.add_row(
            f"[bold]{entry['name']}[/]", escape(entry["description"]), "\n".join(shown) or "by hand"
        )
    console.print(table)
    console.print("interp models NAME shows a card; load_model also takes a folder or a hub id.")


def _choose_models(name: str | None) -> list[BundledModel]:
    from interp.errors import ModelError, unknown_name
    from interp.models.bundled import bundled_models

    known = bundled_models()
    if name is not None and name not in [model.name for model in known]:
        raise ModelError(unknown_name("bundled model", name, [model.name for model in known]))
    return [model for model in known if name in (None, model.name)]


def _describe(model: BundledModel) -> dict[str, Any]:
    """Name, place, what it is, and its card; a model made by hand has its circuit instead."""
    circuit_file = model.path / "circuit.json"
    circuit = json.loads(circuit_file.read_text(encoding="utf-8")) if circuit_file.is_file() else None
    readme = model.path / "README.md"
    return {
        "name": model.name,
        "path": str(model.path),
        "description": model.description or (circuit or {}).get("summary", ""),
        "card": model.card,
        "circuit": circuit,
        "readme": readme.read_text(encoding="utf-8") if readme.is_file() else "",
    }


def list_tasks(as_json: Annotated[bool, AS_JSON] = False) -> None:
    """List the tasks, with their options."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from interp.tasks import TASKS

    if as_json:
        entries = [
            {"name": name, "summary": kind.summary, "options": dict(kind.options)}
            for name, kind in TASKS.items()
        ]
        typer.echo(json.dumps(entries, indent=1))
        return
    table = Table("name", "what it asks", "options (--option key=value)", show_lines=True)
    for name, kind in TASKS.items():
        options = ", ".join(f"{key}={json.dumps(value)}" for key, value in kind.options.items())
        table.add_row(f"[bold]{name}[/]", escape(kind.summary), escape(options))
    console = Console()
    console.print(table)
    console.print("Your own pairs: interp patch --task-file pairs.jsonl (clean, corrupted, answer, wrong).")
