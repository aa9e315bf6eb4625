"""Models whose circuit is known exactly, because their weights are written by hand or by a compiler.

>>> model, tokenizer, circuit = PLANTED["micro"].build()
>>> circuit.edges[4]
'a0.h0->a1.h0<k>'
>>> pairs = planted_task("micro", n=8, seed=0)
>>> compiled_model(seed=0).build()[2].summary
'A compiled program of 7 steps over 5 inputs.'
"""

from __future__ import annotations

from pathlib import Path

from interp.errors import ModelError, unknown_name
from interp.models.bundled.planted.backup import PLANTED_BACKUP
from interp.models.bundled.planted.chain import PLANTED_CHAIN
from interp.models.bundled.planted.compiler import compile_program as compile_program
from interp.models.bundled.planted.copying import PLANTED_COPY
from interp.models.bundled.planted.files import load_circuit as load_circuit
from interp.models.bundled.planted.files import save_planted
from interp.models.bundled.planted.gate import PLANTED_GATE
from interp.models.bundled.planted.micro import MICRO
from interp.models.bundled.planted.random_program import compiled_model as compiled_model
from interp.models.bundled.planted.random_program import make_program_pairs as make_program_pairs
from interp.models.bundled.planted.random_program import random_program as random_program
from interp.models.bundled.planted.record import PlantedCircuit as PlantedCircuit
from interp.models.bundled.planted.record import PlantedModel as PlantedModel
from interp.models.bundled.planted.shared import PLANTED_SHARED
from interp.tasks.base import PromptPairs

PLANTED: dict[str, PlantedModel] = {
    planted.name: planted
    for planted in (MICRO, PLANTED_COPY, PLANTED_GATE, PLANTED_BACKUP, PLANTED_CHAIN, PLANTED_SHARED)
}
"""Every bundled planted model by name."""


def planted_task(name: str, n: int = 32, seed: int = 0) -> PromptPairs:
    """``n`` prompt pairs of a planted model's task, in equal parts of every kind of corruption.

    ``info[i]["kind"]`` says what differs in pair i. Raises :class:`~interp.errors.ModelError` for
    an unknown name and :class:`~interp.errors.TaskError` for ``n`` below 1.
    """
    return _find(name).make_pairs(n, seed)


def write_planted(name: str, out_dir: str | Path) -> Path:
    """Build a planted model and write its folder; returns it. Raises as :func:`planted_task` does."""
    return save_planted(_find(name), out_dir)


def _find(name: str) -> PlantedModel:
    if name not in PLANTED:
        raise ModelError(unknown_name("planted model", name, PLANTED))
    return PLANTED[name]
