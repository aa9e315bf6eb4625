"""Control vectors: bytes as the format says, layers as repeng and llama.cpp count them, and nothing lost of ours."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from model_zoo import make_bare, specimen
from tiny_models import FAMILIES
from torch import Tensor

import interp
from interp.errors import DataFileError, SteeringError
from interp.results.provenance import Provenance
from interp.results.steering_dose import DoseCalibration
from interp.steering.gguf import export_gguf, import_gguf
from interp.steering.operations import Add, ProjectOut
from interp.steering.places import TextPattern
from interp.steering.steering import Steering, Step
from interp.types import parse_site

D = 36
TOKENS = torch.randint(0, 53, (3, 9), generator=torch.Generator().manual_seed(0))


def vector(seed: int, d: int = D) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


def adding(*parts: tuple[str, int, float], **options: Any) -> Steering:
    """Random vectors by site, seed and weight."""
    return Steering(tuple(Step(parse_site(s), Add(vector(seed)), w) for s, seed, w in parts), **options)


def calibrated(steering: Steering) -> Steering:
    strengths = torch.tensor([-2.0, 0.0, 1 / 3, 2.0], dtype=torch.float64)
    kl = strengths**2 / 7
    made = DoseCalibration(
        strengths, kl, 0.9 * kl, 1.1 * kl, 0.95, "text é (3 rows)", 96, Provenance("m", seed=3)
    )
    return replace(
        steering,
        calibration=made,
        method="mean-difference",
        data="positive: 3; negative: 4",
        figures={"auc": 0.75},
        provenance=Provenance("m", family="llama", notes=("a", "b")),
    )


def parse_bytes(path: Path) -> tuple[dict[str, tuple[int, Any]], dict[str, tuple[list[int], int, bytes]]]:
    """A GGUF file read byte by byte from the specification: metadata with types, tensors with shape and type."""
    data, at = path.read_bytes(), 0

    def take(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def text() -> str:
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n : at].decode()

    assert data[:4] == b"GGUF"
    at = 4
    assert take("I") == 3
    n_tensors, n_keys = take("Q"), take("Q")
    fields = {}
    for _ in range(n_keys):
        key, kind = text(), take("I")
        fields[key] = (kind, {4: lambda: take("I"), 8: text}[kind]())
    infos = []
    for _ in range(n_tensors):
        name, n_dims = text(), take("I")
        infos.append((name, [take("Q") for _ in range(n_dims)], take("I"), take("Q")))
    start = -(-at // 32) * 32
    assert not any(data[at:start])
    found = {}
    for name, shape, kind, offset in infos:
        assert offset % 32 == 0
        found[name] = (shape, kind, data[start + offset : start + offset + 4 * shape[0]])
    return fields, found


def test_the_bytes_are_those_of_the_format(tmp_path: Path):
    steering = adding(("resid_post[1]", 1, 1.0), ("resid_post[3]", 2, -0.5))
    path = export_gguf(steering, tmp_path / "new" / "v.gguf", model_type="qwen3")
    fields, tensors = parse_bytes(path)
    assert fields["general.architecture"] == (8, "controlvector")
    assert fields["controlvector.model_hint"] == (8, "qwen3")
    assert fields["controlvector.layer_count"] == (4, 2)
    assert set(fields) - {"interp.steering"} == {
        "general.architecture", "controlvector.model_hint", "controlvector.layer_count",
    }  # fmt: skip
    assert list(tensors) == ["direction.1", "direction.3"]
    for name, expected in (("direction.1", vector(1)), ("direction.3", -0.5 * vector(2))):
        shape, kind, data = tensors[name]
        assert (shape, kind) == ([D], 0)
        assert data == expected.numpy().astype("<f4").tobytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["v.gguf"]


def write_as_repeng(path: Path, directions: dict[int, np.ndarray], hint: str = "llama") -> Path:
    """What repeng's ``ControlVector.export_gguf`` writes."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, one in directions.items():
        writer.add_tensor(f"direction.{layer}", one)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_as_repeng(path: Path) -> tuple[str, dict[int, np.ndarray]]:
    """What repeng's ``ControlVector.import_gguf`` reads."""
    reader = gguf.GGUFReader(path)
    assert bytes(reader.get_field("general.architecture").parts[-1]) == b"controlvector"
    hint = str(bytes(reader.get_field("controlvector.model_hint").parts[-1]), encoding="utf-8")
    found = {}
    for tensor in reader.tensors:
        if tensor.name.startswith("direction."):
            found[int(tensor.name.split(".")[1])] = np.array(tensor.data)
    return hint, found


def blocks_of(module: Any) -> Any:
    inner = getattr(module, "model", None) or getattr(module, "transformer", None) or module.gpt_neox
    return inner.h if hasattr(inner, "h") else inner.layers


def run_as_repeng(module: Any, directions: dict[int, np.ndarray], tokens: Tensor) -> Tensor:
    """repeng's ``ControlModule`` around ``layers[N]``: its vector is added to the block's output."""
    handles = []
    for layer, direction in directions.items():

        def hook(block: Any, args: Any, output: Any, direction: np.ndarray = direction) -> Any:
            shift = torch.from_numpy(direction).reshape(1, 1, -1)
            return (output[0] + shift, *output[1:]) if isinstance(output, tuple) else output + shift

        handles.append(blocks_of(module)[layer].register_forward_hook(hook))
    try:
        with torch.no_grad():
            return module(input_ids=tokens, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


def run_as_llama_cpp(name: str, path: Path, tokens: Tensor) -> Tensor | None:
    """llama.cpp's loader and adapter, over the model written out; ``None`` where it refuses the file."""
    on = specimen(name)
    n_layers, buffer = on.model.traits.n_layers, np.zeros(0, np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        stem, _, number = tensor.name.partition(".")
        layer = int(number) if stem == "direction" else -1
        if layer <= 0 or tensor.tensor_type.name != "F32" or len(tensor.shape) != 1:
            return None
        grown = np.zeros(max(len(buffer), D * layer), np.float32)
        grown[: len(buffer)] = buffer
        buffer = grown
        buffer[D * (layer - 1) : D * layer] += tensor.data
    edits = {}
    for il in range(1, n_layers):
        offset = D * (il - 1)
        if offset + D <= len(buffer):
            shift = torch.from_numpy(buffer[offset : offset + D]).double()
            edits["resid_post", il] = lambda value, shift=shift: value + shift
    with torch.no_grad():
        return on.naive(tokens, edits=edits)


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_are_those_of_repeng_and_llama_cpp(name: str, tmp_path: Path):
    """A vector steers alike here, as repeng applies it, and as llama.cpp does, which cannot take block 0."""
    on, bare = specimen(name), copy.deepcopy(make_bare(name))
    for parts, first_block in (
        ([("resid_post[1]", 1, 0.7)], False),
        ([("resid_post[0]", 2, 1.0)], True),
        ([("resid_pre[1]", 3, 1.0), ("resid_post[1]", 4, -2.0), ("resid_post[0]", 5, 0.5)], True),
    ):
        steering = adding(*parts)
        path = export_gguf(steering, tmp_path / "v.gguf", model_type=name, first_block=first_block)
        hint, directions = read_as_repeng(path)
        assert hint == name
        with torch.no_grad(), steering.apply(on.model, strength=1.0):
            ours = on.model(TOKENS)
        with torch.no_grad(), import_gguf(path, on.model).apply(on.model, strength=1.0):
            again = on.model(TOKENS)
        torch.testing.assert_close(again, ours, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(run_as_repeng(bare, directions, TOKENS), ours, atol=1e-4, rtol=1e-4)
        theirs = run_as_llama_cpp(name, path, TOKENS)
        assert (theirs is None) == first_block
        if theirs is not None:
            torch.testing.assert_close(theirs.float(), ours, atol=1e-3, rtol=1e-3)
        shifted = {(layer + 1) % 2: one for layer, one in directions.items()}
        if len(shifted) == 1:
            assert float((run_as_repeng(bare, shifted, TOKENS) - ours).abs().max()) > 0.05


def test_a_round_trip_of_ours_keeps_dose_and_origin(tmp_path: Path):
    steering = replace(calibrated(adding(("resid_post[1]", 1, 1.0))), model_digest="abc")
    again = import_gguf(export_gguf(steering, tmp_path / "v.gguf"))
    assert torch.equal(again.direction(), steering.direction())
    assert str(again.steps[0].site) == "resid_post[1]"
    for name in ("method", "model_digest", "data", "figures", "provenance"):
        assert getattr(again, name) == getattr(steering, name), name
    assert read_as_repeng(tmp_path / "v.gguf")[0] == "llama"
    before, after = steering.calibration, again.calibration
    assert before is not None
    assert after is not None
    for axis in DoseCalibration.AXES:
        assert torch.equal(getattr(after, axis), getattr(before, axis)), axis
    assert (after.text, after.n_tokens, after.confidence) == (before.text, before.n_tokens, before.confidence)
    assert after.provenance == before.provenance
    for dose in (0.1, -0.3):
        assert again.strength_for(dose) == steering.strength_for(dose)


def test_weights_fold_in_and_the_dose_stays(tmp_path: Path):
    """The file's vector at strength 1 is the steering at strength 1, so a calibration holds for both."""
    steering = calibrated(adding(("resid_post[1]", 1, 0.25)))
    again = import_gguf(export_gguf(steering, tmp_path / "v.gguf"))
    assert again.steps[0].weight == 1.0
    torch.testing.assert_close(again.direction(), 0.25 * vector(1))
    assert again.strength_for(0.2) == steering.strength_for(0.2)


def test_a_file_of_repeng_comes_uncalibrated_for_any_model(tmp_path: Path):
    directions = {2: vector(1).numpy(), 1: vector(2).numpy().astype(np.float16)}
    found = import_gguf(write_as_repeng(tmp_path / "theirs.gguf", directions, "mistral"))
    assert [str(step.site) for step in found.steps] == ["resid_post[1]", "resid_post[2]"]
    assert torch.equal(found.direction("resid_post[2]"), vector(1))
    torch.testing.assert_close(found.direction("resid_post[1]"), vector(2), atol=2e-3, rtol=1e-3)
    assert (found.calibration, found.model_digest, found.provenance) == (None, None, None)
    assert found.data == "theirs.gguf, a control vector for mistral"
    with pytest.raises(SteeringError, match="has no dose"):
        found.strength_for(0.1)


def test_the_file_can_be_replaced_while_the_steering_lives(tmp_path: Path):
    path = export_gguf(adding(("resid_post[1]", 1, 1.0)), tmp_path / "v.gguf", model_type="llama")
    found = import_gguf(path)
    export_gguf(adding(("resid_post[1]", 9, 1.0)), path, model_type="llama")
    assert torch.equal(found.direction(), vector(1))


def one_step(site: str, **options: Any) -> Steering:
    operation = options.pop("operation", Add(vector(0)))
    return Steering((Step(parse_site(site), operation, **options),))


CANNOT: list[tuple[Callable[[], Steering], str]] = [
    (lambda: one_step("mlp_out[1]"), "does not act on the residual stream between blocks"),
    (lambda: one_step("resid_mid[1]"), "between blocks"),
    (lambda: one_step("embed"), "between blocks"),
    (lambda: one_step("resid_pre[0]"), "before the first block"),
    (lambda: one_step("resid_post[1]@-1"), "does not act on every token"),
    (lambda: one_step("resid_post[1]@gen"), "every token"),
    (lambda: one_step("resid_post[1]#0"), "every token"),
    (lambda: one_step("resid_post[1]", where=TextPattern("a")), "every token"),
    (lambda: one_step("resid_post[1]", operation=ProjectOut.span(vector(0))), "no vector that is added"),
    (lambda: one_step("resid_post[0]"), "direction.0, with which llama.cpp refuses .* first_block=True"),
    (lambda: one_step("resid_pre[1]"), "direction.0"),
    (
        lambda: adding(("resid_post[1]", 1, 1.0), ("resid_pre[2]", 1, -1.0)),
        r"at the output of blocks \[1\] cancel",
    ),
]


@pytest.mark.parametrize(("make", "message"), CANNOT, ids=range(len(CANNOT)))
def test_what_a_control_vector_cannot_hold(make: Callable[[], Steering], message: str, tmp_path: Path):
    with pytest.raises(SteeringError, match=message):
        export_gguf(make(), tmp_path / "v.gguf", model_type="llama")
    assert not list(tmp_path.iterdir())


def test_all_positions_may_be_said(tmp_path: Path):
    export_gguf(one_step("resid_post[1]@all"), tmp_path / "v.gguf", model_type="llama")


def test_the_type_of_the_model_must_be_said_or_known(tmp_path: Path):
    with pytest.raises(SteeringError, match="give model_type="):
        export_gguf(one_step("resid_post[1]"), tmp_path / "v.gguf")


def test_files_that_are_none(tmp_path: Path):
    good = export_gguf(one_step("resid_post[1]"), tmp_path / "good.gguf", model_type="llama").read_bytes()
    path = tmp_path / "bad.gguf"
    with pytest.raises(DataFileError, match="no file at"):
        import_gguf(path)
    for data in (b"", b"GGUF", b"PK" + good, good[:-40], good[:40], good[:200], b"\0" * 64):
        path.write_bytes(data)
        with pytest.raises(DataFileError, match="not a readable GGUF file"):
            import_gguf(path)
    path.write_bytes(good.replace(b"controlvector", b"controlvectar"))
    with pytest.raises(DataFileError, match="architecture 'controlvectar'"):
        import_gguf(path)
    path.write_bytes(good.replace(b'"method"', b'"methid"'))
    with pytest.raises(DataFileError, match=r"usable control vector .*KeyError"):
        import_gguf(path)


def test_tensors_that_are_no_directions(tmp_path: Path):
    path = tmp_path / "bad.gguf"
    for directions, message in (
        ({}, "holds no direction"),
        ({"x": np.ones(4, np.float32)}, "holds 'direction.x'"),
        ({1: np.ones((2, 2), np.float32)}, r"F32 of shape \[2, 2\]; expected one fp32 vector"),
        ({1: np.ones(4, np.int32)}, "is I32"),
        ({1: np.zeros(4, np.float32)}, "direction that is zero"),
        ({1: np.full(4, np.nan, np.float32)}, "NaN"),
    ):
        write_as_repeng(path, directions)
        with pytest.raises(DataFileError, match=message):
            import_gguf(path)


def test_one_for_another_model(tmp_path: Path):
    model = specimen("llama").model
    for directions, message in (
        ({2: np.ones(D, np.float32)}, r"blocks \[2\] of 2, and .* 2 blocks and d_model 36"),
        ({1: np.ones(8, np.float32)}, r"vectors of \[8\] entries"),
    ):
        path = write_as_repeng(tmp_path / "v.gguf", directions)
        with pytest.raises(SteeringError, match=message):
            import_gguf(path, model)


def test_a_vector_for_other_weights_is_refused_on_use(tmp_path: Path):
    model = specimen("llama").model
    steering = replace(adding(("resid_post[1]", 1, 1.0)), model_digest="another")
    again = import_gguf(export_gguf(steering, tmp_path / "v.gguf", model_type="llama"), model)
    with pytest.raises(SteeringError, match="made for weights another"), again.apply(model, strength=1.0):
        pass
    assert interp.capture(model, TOKENS, "resid_post[1]") is not None
