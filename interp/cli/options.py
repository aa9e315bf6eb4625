"""Options that several commands share, each described once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option(help="A bundled name, a folder or a hub id.")]
TaskOption = Annotated[str | None, typer.Option(help="A task's name (interp tasks); ioi by default.")]
TaskFileOption = Annotated[
    Path | None,
    typer.Option(help="Your own pairs: CSV or JSONL with columns clean, corrupted, answer, wrong."),
]
TaskOptionsOption = Annotated[
    list[str] | None, typer.Option(help="An option of the task, key=value; may be repeated.")
]
DirectionOption = Annotated[str, typer.Option(help="denoise or noise.")]
AblationOption = Annotated[str, typer.Option(help="source, zero, mean, mean-per-position or resample.")]
MetricOption = Annotated[str | None, typer.Option(help="A metric's name; the task's own by default.")]
PairsOption = Annotated[int | None, typer.Option(help="Prompt pairs: 32 by default, all of a file.", min=1)]
OutOption = Annotated[
    list[Path] | None,
    typer.Option(help="A result file: .html .json .parquet .csv .safetensors; may be repeated."),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")]
ProgressOption = Annotated[bool, typer.Option(help="Show progress bars.")]
