"""Control vectors in GGUF files, as repeng writes and llama.cpp reads them.

A file of architecture ``controlvector`` holds one fp32 vector [d_model] a layer, named ``direction.N``, that is
added to the residual stream at every token. N is a block counted from 0, and the vector is added to the block's
output, which is ``resid_post[N]`` here and ``resid_pre[N + 1]``:

- repeng (Vogel 2024; ``extract.py``, ``control.py``) reads ``hidden_states[N + 1]``, where entry 0 is the embedding,
  and adds to the output of ``layers[N]``;
- llama.cpp's loader (``common_control_vector_load_one``) puts ``direction.N`` at offset ``d_model * (N - 1)`` of a
  buffer, and block ``il`` adds what stands at ``d_model * (il - 1)`` (``llama_adapter_cvec::apply``), before its
  output is named ``l_out``. The two shifts cancel. It refuses a whole file that holds ``direction.0``.

The format knows no dose, positions or method. They are kept under a key of our own, ``interp.steering``, which
both programs pass over.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import DataFileError, InterpError, SteeringError
from interp.models.model import Model
from interp.results.provenance import Provenance
from interp.results.steering_dose import DoseCalibration
from interp.results.storage import write_whole
from interp.steering.operations import Add
from interp.steering.steering import Steering, Step
from interp.types import ALL, EACH, Site

ARCHITECTURE = "controlvector"
OWN_KEY = "interp.steering"
_NAME = re.compile(r"direction\.(\d+)")
_TYPES = ("F32", "F16")


def export_gguf(
    steering: Steering, path: str | Path, *, model_type: str | None = None, first_block: bool = False
) -> Path:
    """Write a steering as a control vector, whole or not at all.

    Only vectors that are added to the residual stream between blocks, at every token, can be held: at
    ``resid_post[N]``, or at ``resid_pre[N + 1]``, which is the same place. Weights are multiplied in, vectors at one
    place summed; strength 1 here is strength 1 there. ``model_type`` is the hint at the model, as Hugging Face
    names it (``"llama"``); the family it was extracted from if left out. llama.cpp cannot steer the output of the
    first block and refuses a file with it, repeng can: ``first_block=True`` writes such a file.

    Raises :class:`SteeringError` for a step that cannot be held, and for the first block without being asked.
    """
    from gguf import GGUFWriter

    if model_type is None:
        model_type = None if steering.provenance is None else steering.provenance.family
    if not model_type:
        raise SteeringError(
            "a control vector names the type of its model; give model_type=..., e.g. 'llama' or 'qwen3'."
        )
    directions = _directions(steering)
    if 0 in directions and not first_block:
        raise SteeringError(
            "this steering acts on the output of the first block, direction.0, with which llama.cpp refuses a "
            "file. Give first_block=True if only repeng is to read it, or steer a later layer."
        )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "vector.gguf"
        writer = GGUFWriter(scratch, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(directions))
        writer.add_string(OWN_KEY, json.dumps(_own_data(steering)))
        for layer, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{layer}", direction.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return write_whole(path, scratch.read_bytes())


def import_gguf(path: str | Path, model: Model | None = None) -> Steering:
    """Read a control vector: a step ``add(resid_post[N])`` for every ``direction.N``.

    A file of ours brings its dose, method and model digest back; any other is to be calibrated. Give ``model`` to
    have layers and widths checked here; otherwise it is done when the steering is applied. Raises
    :class:`DataFileError` for a file that is missing, damaged or no control vector, and :class:`SteeringError` for
    one that does not fit the model.
    """
    fields, directions = _read_file(Path(path))
    if not directions:
        raise DataFileError(f"{str(path)!r} holds no direction; a control vector has tensors direction.N.")
    if model is not None:
        _check_fits(path, model, directions)
    hint = fields.get(f"{ARCHITECTURE}.model_hint", "a model without a name")
    try:
        steps = tuple(Step(Site("resid_post", layer), Add(one)) for layer, one in sorted(directions.items()))
        found = Steering(steps, "control vector", data=f"{Path(path).name}, a control vector for {hint}")
        return _with_own_data(found, json.loads(fields[OWN_KEY])) if OWN_KEY in fields else found
    except (AttributeError, KeyError, TypeError, ValueError, InterpError) as error:
        raise DataFileError(
            f"{str(path)!r} does not hold a usable control vector ({type(error).__name__}: {error})."
        ) from error


def _directions(steering: Steering) -> dict[int, Float[Tensor, " d_model"]]:
    found: dict[int, Tensor] = {}
    for step in steering.steps:
        layer = _block_of(step)
        assert isinstance(step.operation, Add)
        vector = step.weight * step.operation.vector.detach().cpu().double()
        found[layer] = found[layer] + vector if layer in found else vector
    empty = sorted(layer for layer, one in found.items() if not bool(one.any()))
    if empty:
        raise SteeringError(
            f"the vectors at the output of blocks {empty} cancel; there is nothing to export there."
        )
    return {layer: one.float().contiguous() for layer, one in found.items()}


def _block_of(step: Step) -> int:
    """The block whose output it adds to. Raises :class:`SteeringError` for what a control vector cannot hold."""
    site = step.site
    why = None
    if not isinstance(step.operation, Add):
        why = "is no vector that is added"
    elif site.component not in ("resid_post", "resid_pre"):
        why = "does not act on the residual stream between blocks"
    elif site.positions not in (None, (ALL,), (EACH,)) or site.rows is not None or step.where is not None:
        why = "does not act on every token"
    elif step.gate is not None:
        why = "has a gate"
    elif site.component == "resid_pre" and site.layer == 0:
        why = "acts before the first block, where no block ends"
    if why is not None:
        raise SteeringError(
            f"{step} {why}; a control vector is added to resid_post at every token. Save the steering with "
            "steering.save(path) instead, which keeps everything."
        )
    assert site.layer is not None
    return site.layer - (site.component == "resid_pre")


def _own_data(steering: Steering) -> dict[str, Any]:
    calibration = None
    if (found := steering.calibration) is not None:
        calibration = {name: getattr(found, name).double().tolist() for name in DoseCalibration.AXES}
        calibration |= {name: getattr(found, name) for name in ("confidence", "text", "n_tokens")}
        calibration["provenance"] = found.provenance.to_dict()
    return {
        "method": steering.method,
        "model_digest": steering.model_digest,
        "data": steering.data,
        "figures": dict(steering.figures),
        "calibration": calibration,
        "provenance": None if steering.provenance is None else steering.provenance.to_dict(),
    }


def _with_own_data(steering: Steering, data: Mapping[str, Any]) -> Steering:
    calibration = None
    if (made := data["calibration"]) is not None:
        tensors = {name: torch.tensor(made[name], dtype=torch.float64) for name in DoseCalibration.AXES}
        calibration = DoseCalibration(
            **{**made, **tensors, "provenance": Provenance.from_dict(made["provenance"])}
        )
    return replace(
        steering,
        method=data["method"],
        model_digest=data["model_digest"],
        data=data["data"],
        figures=data["figures"],
        calibration=calibration,
        provenance=None if data["provenance"] is None else Provenance.from_dict(data["provenance"]),
    )


def _read_file(path: Path) -> tuple[dict[str, Any], dict[int, Tensor]]:
    from gguf import GGUFReader

    if not path.is_file():
        raise DataFileError(f"no file at {str(path)!r}; expected a control vector in GGUF.")
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {one.name: (one.tensor_type.name, np.array(one.data)) for one in reader.tensors}
    except (ValueError, IndexError, KeyError, OSError, TypeError, OverflowError, MemoryError) as error:
        raise DataFileError(
            f"{str(path)!r} is not a readable GGUF file ({type(error).__name__}: {error}); it may be truncated or of "
            "another kind."
        ) from error
    architecture = fields.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise DataFileError(
            f"{str(path)!r} is of architecture {architecture!r}; a control vector is {ARCHITECTURE!r}."
        )
    return fields, {_layer_of(path, name): _vector(path, name, *one) for name, one in tensors.items()}


def _layer_of(path: Path, name: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataFileError(
            f"{str(path)!r} holds {name!r}; a control vector has tensors direction.N and no other."
        )
    return int(match[1])


def _vector(path: Path, name: str, kind: str, value: np.ndarray) -> Tensor:
    if kind not in _TYPES or value.ndim != 1:
        raise DataFileError(
            f"{name} in {str(path)!r} is {kind} of shape {list(value.shape)}; expected one fp32 vector."
        )
    return torch.from_numpy(value.astype(np.float32))


def _check_fits(path: str | Path, model: Model, directions: Mapping[int, Tensor]) -> None:
    traits = model.traits
    beyond = sorted(layer for layer in directions if layer >= traits.n_layers)
    widths = sorted({len(one) for one in directions.values()} - {traits.d_model})
    if beyond or widths:
        what = f"blocks {beyond} of {traits.n_layers}" if beyond else f"vectors of {widths} entries"
        raise SteeringError(
            f"{str(path)!r} has {what}, and {model.name!r} has {traits.n_layers} blocks and d_model {traits.d_model}; "
            "it was made for another model."
        )
