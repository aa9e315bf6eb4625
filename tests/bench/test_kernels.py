"""The kernel benchmark: its gate, its clock on made-up kernels, and the whole command on a machine without a GPU."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.bench import kernel_bout, kernel_gate, kernels
from interp.bench.kernel_bout import KernelBouts
from interp.bench.kernel_case import KernelCase, draw_inputs
from interp.bench.kernel_gate import find_truth, take_kernel_error, widen
from interp.bench.kernels import KernelsPlan, main, refuse_wrong, run_kernels
from interp.bench.kernels_report import headline
from interp.errors import BenchError, KernelError
from interp.kernels import kernel_runs

pytestmark = pytest.mark.interpreter
CPU = torch.device("cpu")


def double(inputs: Any) -> Tensor:
    """A kernel that writes memory of its own, and PyTorch where a kernel may not run."""
    x = inputs["x"]
    if not kernel_runs("double", [x]):
        return 2 * x
    out = torch.empty_like(x)
    out[:] = x + x
    return out


def make_case(**changes: Any) -> KernelCase:
    """Sixteen rows doubled."""

    def make(device: torch.device, generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": torch.randn(16, 8, generator=generator).to(device, changes.get("dtype", torch.float32))}

    known: dict[str, Any] = dict(op="double", name="forward", shape={"rows": 16, "d": 8}, dtype=torch.float32)
    known |= dict(make=make, kernel=double, eager=lambda inputs: inputs["x"] * 2)
    known |= dict(n_bytes=1024, n_flops=128, tolerance=1e-6, compiles=False)
    return KernelCase(**known | changes)


def run(*cases: KernelCase, plan: KernelsPlan | None = None, **options: Any) -> Any:
    return run_kernels(plan or KernelsPlan.quick(), CPU, list_cases=lambda quick: list(cases), **options)


def leaves_a_row(inputs: Any) -> Tensor:
    out = torch.empty_like(inputs["x"])
    out[1:] = 2 * inputs["x"][1:]
    return out


def falls_back(inputs: Any) -> Tensor:
    return double({"x": inputs["x"].double()})


def fails(inputs: Any) -> Tensor:
    raise RuntimeError("no launch\nwith details")


@pytest.mark.parametrize(
    ("kernel", "remark"),
    [
        (lambda inputs: 2.001 * inputs["x"], "wrong: error 5.0e-04, tolerance 1.0e-06"),
        (leaves_a_row, "wrong: error inf"),
        (lambda inputs: 2 * inputs["x"][1:], "wrong: error inf"),
        (lambda inputs: (2 * inputs["x"], inputs["x"]), "wrong: KernelError: 2 outputs"),
        (falls_back, "wrong: KernelError: double: no kernel runs, dtype torch.float64"),
        (fails, "wrong: RuntimeError: no launch"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_are_measured(kernel, remark):
    kept: list[Any] = []
    right = make_case(op="other")
    report = run(make_case(kernel=kernel), right, keep=kept.extend)
    wrong, fine = report.rows
    assert kept == [wrong, fine] and wrong.is_wrong and not fine.is_wrong
    assert wrong.remark.startswith(remark) and "details" not in wrong.remark
    assert fine.error < 1e-7 and fine.truth == "float64" and not fine.is_timed
    assert report.last_line == (
        "kernels: 1 of 2 cases right; WRONG: double forward rows=16 d=8 float32; times await a GPU"
    )
    with pytest.raises(BenchError, match="1 kernel cases are wrong, and no time is given for them: double"):
        refuse_wrong(report.rows)
    refuse_wrong([fine])


def test_memory_is_poisoned_for_kernels_only():
    assert find_truth(make_case(eager=double), {"x": torch.ones(2, 3)}).values[0].dtype == torch.float64
    before = torch.utils.deterministic.fill_uninitialized_memory
    with pytest.raises(RuntimeError):
        take_kernel_error(make_case(kernel=fails), {}, find_truth(make_case(), {"x": torch.ones(1)}))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == before


@dataclass(frozen=True)
class Held:
    gain: Tensor
    eps: float


def test_what_tuning_wrote_is_not_taken_for_the_kernels_own(monkeypatch):
    calls = []

    def tuned(inputs: Any) -> Tensor:
        calls.append(len(calls))
        return leaves_a_row(inputs) if len(calls) > 1 else 2 * inputs["x"]

    inputs = {"x": torch.ones(4, 2)}
    truth = find_truth(make_case(), inputs)
    assert take_kernel_error(make_case(kernel=tuned), inputs, truth) == 0 and len(calls) == 1
    monkeypatch.setattr(kernel_gate, "is_interpreted", lambda: False)
    calls.clear()
    assert take_kernel_error(make_case(kernel=tuned), inputs, truth) == float("inf")


def test_inputs_are_widened_inside_and_leaves_stay_leaves():
    x = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.arange(3)
    found = widen({"x": x, "many": [x, (ids, 2)], "held": Held(x, 1e-5), "none": None}, torch.float64)
    assert found["x"].dtype == found["many"][0].dtype == found["held"].gain.dtype == torch.float64
    assert found["x"].requires_grad and found["x"].is_leaf and found["many"][1] == (ids, 2)
    assert found["held"].eps == 1e-5 and found["none"] is None


def test_truth_is_fp32_where_fp64_does_not_fit_a_case_in_half_precision():
    def small(inputs: Any) -> Tensor:
        if inputs["x"].dtype == torch.float64:
            raise torch.OutOfMemoryError
        return 2 * inputs["x"]

    (row,) = run(make_case(eager=small, dtype=torch.bfloat16, tolerance=1e-2)).rows
    assert row.truth == "float32" and not row.remark
    (row,) = run(make_case(eager=small)).rows
    assert row.remark == "skipped: it does not fit into the device's memory" and not row.is_wrong
    assert headline([row]) == "kernels: 0 of 1 cases right, 1 skipped; times await a GPU"


def test_inputs_are_drawn_where_they_are_used_or_on_the_cpu():
    drawn: list[Any] = []

    def make(device: torch.device, generator: torch.Generator) -> dict[str, Tensor]:
        drawn.append((generator.device, torch.empty(0).device))
        if len(drawn) == 1:
            raise RuntimeError("tensors of two devices")
        return {"x": torch.randn(16, 8, generator=generator)}

    like = make_case().make(CPU, torch.Generator().manual_seed(5))["x"]
    assert torch.equal(draw_inputs(make_case(), CPU, 5)["x"], like)
    found = draw_inputs(make_case(make=make), CPU, 5)["x"]
    assert len(drawn) == 2 and torch.equal(found, like)

    def make_too_much(device: torch.device, generator: torch.Generator) -> dict[str, Tensor]:
        drawn.append(device)
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        draw_inputs(make_case(make=make_too_much), CPU, 5)
    assert len(drawn) == 3


@pytest.mark.cuda
def test_inputs_are_drawn_on_a_gpu():
    device = torch.device("cuda")
    found = draw_inputs(make_case(), device, 5)["x"]
    assert found.device.type == "cuda"
    assert torch.equal(
        found, torch.randn(16, 8, generator=torch.Generator(device).manual_seed(5), device=device)
    )


def bouts(**options: Any) -> KernelBouts:
    return KernelBouts(CPU, **dict(minutes=1.0, seconds=0.01, seed=0, compiles=False) | options)


def test_times_of_kernel_and_rivals_in_turn(monkeypatch):
    calls: list[str] = []

    def named(name: str) -> Any:
        return lambda inputs: (calls.append(name), 2 * inputs["x"])[1]

    case = make_case(kernel=named("kernel"), eager=named("eager"), peers={"peer": named("peer")})
    rows = bouts().measure(case, is_timed=True)
    assert [row.implementation for row in rows] == ["kernel", "eager", "peer"]
    turns = calls[4:]  # after the truth, the gate, and both rivals' own
    assert turns == ["kernel", "eager", "peer"] * (len(turns) // 3) and len(turns) >= 18
    for row in rows:
        assert row.is_timed and 0 < row.p20 <= row.p50 <= row.p80
        assert row.repeats == len(turns) // 3 - 1
        assert row.copy_rate > 0 and row.matmul_rate > 0
        assert row.roof_share == pytest.approx(max(row.bytes_share, row.flops_share))
        assert row.bytes_share == pytest.approx(1024 / row.p50 / row.copy_rate)
    assert rows[0].over_kernel == 1.0


def test_compiled_takes_part_and_leaves_when_its_share_is_used_up(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda run, dynamic: run)
    measured = bouts(compiles=True)
    rows = measured.measure(make_case(compiles=True), True)
    assert [row.implementation for row in rows] == ["kernel", "eager", "compiled"] and rows[2].is_timed
    assert 0 < measured.compiling < 1
    measured.compiling = 0.5 * 60
    rows = measured.measure(make_case(compiles=True), True)
    assert rows[2].remark == "skipped: torch.compile's share of the time is used up" and not rows[2].is_timed
    assert [row.implementation for row in measured.measure(make_case(), True)] == ["kernel", "eager"]


def test_rivals_that_fail_or_compute_something_else_have_no_time():
    peers = {"other": lambda inputs: 3 * inputs["x"], "broken": fails}
    rows = {row.implementation: row for row in bouts().measure(make_case(peers=peers), True)}
    assert rows["other"].remark == "skipped: other numbers, error 5.0e-01"
    assert rows["broken"].remark == "skipped: RuntimeError: no launch"
    assert not rows["other"].is_timed and not rows["broken"].is_timed
    assert rows["kernel"].is_timed and rows["eager"].is_timed
    assert not any(row.is_wrong for row in rows.values())


def test_no_time_for_a_wrong_kernel(monkeypatch):
    monkeypatch.setattr(kernel_bout, "time_in_turn", lambda *_: pytest.fail("the clock was started"))
    (row,) = bouts().measure(make_case(kernel=leaves_a_row), True)
    assert row.is_wrong and not row.is_timed


def test_when_the_minutes_are_used_up_cases_are_skipped_and_said():
    report = run(make_case(), plan=KernelsPlan(minutes=1e-9))
    assert report.rows[0].remark == "skipped: the 1e-09 minutes are used up"
    assert report.last_line.startswith("kernels: 0 of 1 cases right, 1 skipped")
    assert report.tables[0].cells == [
        ["forward rows=16 d=8 float32", "skipped: the 1e-09 minutes are used up"]
    ]


def test_a_large_case_is_skipped_before_it_is_made(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1023, 1 << 40))
    monkeypatch.setattr(KernelBouts, "_check_and_time", lambda *_: pytest.fail("it was made"))
    (row,) = replace(bouts(), device=torch.device("cuda")).measure(make_case(), True)
    assert row.remark == "skipped: it does not fit into the device's memory"


def test_the_report_in_words_and_columns():
    rows = bouts().measure(make_case(peers={"peer": lambda inputs: 2 * inputs["x"]}), True)
    fixed = [
        replace(row, p20=9e-6, p50=1e-5, p80=2e-5, host=4e-6, bytes_share=0.512, flops_share=0.01, error=1e-7)
        for row in rows
    ]
    fixed[1] = replace(fixed[1], p50=3e-5, over_kernel=3.0)
    fixed[2] = replace(fixed[2], over_kernel=2.5)
    report = kernels.report_kernels(fixed, "device: none")
    table, summary = report.tables
    assert summary.cells == [("double", "1", "51% (51%)", "", "3.00 (3.00)", "", "2.50 (2.50)")]
    assert table.title == "double"
    assert table.headings == ["case", "bound by", "us", "host us", "of roof", "x eager", "x peers", "error"]
    name = "forward rows=16 d=8 float32"
    assert table.cells == [[name, "memory", "10.0 (9.0 to 20.0)", "4", "51%", "3.00", "peer 2.50", "1.0e-07"]]
    assert report.last_line == (
        "kernels: 1 of 1 cases right; 1 memory-bound at 51% of the copy rate (worst 51%); "
        "eager takes 3.00x (least 3.00x)"
    )
    text = kernels.write_plainly(report).splitlines()
    assert text[0] == "double" and text[-1] == report.last_line
    assert (
        text[2].split()
        == "forward rows=16 d=8 float32 memory 10.0 (9.0 to 20.0) 4 51% 3.00 peer 2.50 1.0e-07".split()
    )
    assert headline([replace(fixed[0], bytes_share=0.001)]).startswith(
        "kernels: 1 of 1 cases right; 1 compute-bound at 1% of the matmul rate"
    )


def test_operations_take_turns():
    cases = [make_case(op=op, name=str(i)) for op, n in (("a", 3), ("b", 1)) for i in range(n)]
    cases.append(make_case(op="b", name="half", dtype=torch.float16))

    def chosen(**options: Any) -> list[str]:
        return [case.op + case.name for case in KernelsPlan(**options).choose(cases)]

    assert chosen() == ["a0", "b0", "a1", "bhalf", "a2"]
    assert chosen(ops=("b",), dtypes=("float16",)) == ["bhalf"]
    for options, message in (
        ({"ops": ("c",)}, "unknown operation 'c'"),
        ({"ops": ("a",), "dtypes": ("float16",)}, "no case of a has dtype float16"),
    ):
        with pytest.raises(BenchError, match=message):
            chosen(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtypes": ("float8",)}, "unknown dtype 'float8'"),
        ({"minutes": 0.0}, "more than 0"),
        ({"seconds": float("nan")}, "more than 0"),
    ],
)
def test_plans_that_mean_nothing(options, message):
    with pytest.raises(BenchError, match=message):
        KernelsPlan(**options)


def test_a_quick_look_on_a_gpu_times_one_real_case_an_operation():
    def list_cases(quick: bool) -> list[KernelCase]:
        return [make_case(op=op, name=f"{quick} {i}") for op in "ab" for i in range(2)]

    def chosen(plan: KernelsPlan, device: str) -> list[tuple[str, bool]]:
        found = kernels._choose(plan, torch.device(device), list_cases)
        return [(case.op + case.name, timed) for case, timed in found]

    small = [("aTrue 0", False), ("bTrue 0", False), ("aTrue 1", False), ("bTrue 1", False)]
    assert chosen(KernelsPlan.quick(), "cuda") == [("aFalse 0", True), ("bFalse 0", True), *small]
    assert chosen(KernelsPlan(), "cuda")[0] == ("aFalse 0", True) and len(chosen(KernelsPlan(), "cuda")) == 4
    assert {timed for _, timed in chosen(KernelsPlan(times=False), "cuda")} == {False}
    assert chosen(KernelsPlan.quick(), "cpu") == chosen(KernelsPlan(), "cpu") == small


def test_the_interpreter_is_settled_before_triton_is_imported(monkeypatch):
    monkeypatch.setattr(kernels, "is_interpreted", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "triton", raising=False)
        kernels.settle_interpreter(CPU)
        assert kernels.os.environ["TRITON_INTERPRET"] == "1"
    monkeypatch.setitem(sys.modules, "triton", sys)
    with pytest.raises(BenchError, match="start with TRITON_INTERPRET=1"):
        kernels.settle_interpreter(CPU)
    kernels.settle_interpreter(torch.device("cuda"))
    with pytest.raises(BenchError, match="got 'meta'"):
        kernels.settle_interpreter(torch.device("meta"))
    monkeypatch.setattr(kernels, "is_interpreted", lambda: True)
    with pytest.raises(BenchError, match="unset it"):
        kernels.settle_interpreter(torch.device("cuda"))
    monkeypatch.setattr(kernels, "has_triton", lambda: False)
    with pytest.raises(BenchError, match="Triton, which is not installed"):
        kernels.settle_interpreter(CPU)


def test_the_command_of_its_own(tmp_path, monkeypatch, capsys):
    path = tmp_path / "kernels.csv"
    monkeypatch.setattr(
        kernels.run_kernels, "__defaults__", (*run_kernels.__defaults__[:-1], lambda quick: cases)
    )
    cases = [make_case(), make_case(name="half", dtype=torch.float16, tolerance=1e-3)]
    assert main(["--quick", "--device", "cpu", "--csv", str(path)]) == 0
    assert main(["--device", "cpu", "--csv", str(path), "--dtype", "float16", "--no-times"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "kernels: 1 of 1 cases right; times await a GPU"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["forward", "half", "half"]
    assert [row["dtype"] for row in rows] == ["float32", "float16", "float16"]
    assert {row["p50"] for row in rows} == {"nan"} and float(rows[0]["error"]) < 1e-7
    cases[0] = make_case(kernel=leaves_a_row)
    assert main(["--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert "error: 1 kernel cases are wrong" in err and "WRONG: double" in out
    assert main(["--device", "cpu", "--op", "nothing"]) == 2
    assert "unknown operation" in capsys.readouterr().err


BLOCKED = """
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in %r else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from interp.bench import kernels
import interp.results
assert kernels.main(["--quick", "--device", "cpu", "--csv", sys.argv[1], "--op", sys.argv[2]]) == 0
"""


def test_it_needs_pytorch_and_triton_alone(tmp_path):
    blocked = [
        "transformer_lens",
        "transformers",
        "sae_lens",
        "plotly",
        "datasets",
        "typer",
        "rich",
        "pandas",
    ]
    blocked += ["safetensors", "tokenizers", "scipy", "einops", "pyarrow", "yaml", "tqdm", "huggingface_hub"]
    from interp.bench.kernel_cases import list_all_cases

    op = list_all_cases(quick=True)[0].op
    path = tmp_path / "kernels.csv"
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED % blocked, str(path), op],
        capture_output=True,
        text=True,
        cwd=Path(kernels.__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert "times await a GPU" in done.stdout.splitlines()[-1]
    with path.open(newline="") as file:
        assert {row["op"] for row in csv.DictReader(file)} == {op}


def test_errors_of_kernels_are_told_apart():
    truth = find_truth(make_case(), {"x": torch.ones(2)})
    with pytest.raises(KernelError, match="no kernel runs"):
        take_kernel_error(make_case(kernel=falls_back), {"x": torch.ones(2)}, truth)
