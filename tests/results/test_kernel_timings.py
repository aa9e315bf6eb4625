"""Timings of kernels: what they say of a device, where they come from, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_kernels import COPY, PRODUCTS, make_case, make_many, make_timing, make_timings

from interp.bench.kernels_report import KernelRow
from interp.bench.rows import append_rows
from interp.bench.setting import describe_setting
from interp.errors import DataFileError, RecordError
from interp.results import KernelTimings


def test_rates_and_shares():
    timing = make_timing()
    assert timing.intensity == pytest.approx(20)
    assert timing.bytes_rate == pytest.approx(1.4e12) and timing.flops_rate == pytest.approx(2.8e13)
    # 28 MB at 2.8 TB/s are 10 us, 560 MFLOP at 720 TFLOP/s less than 1
    assert timing.is_memory_bound and timing.roof_share == pytest.approx(0.5)
    busy = make_timing(n_flops=7.2e9)
    assert busy.roof_share == pytest.approx(0.5) and busy.is_memory_bound
    busiest = make_timing(n_flops=1.08e10)
    assert busiest.roof_share == pytest.approx(0.75) and not busiest.is_memory_bound


def test_the_record_by_case():
    found = make_many()
    assert len(found.cases) == len(found.kernels) == 42 and len(found.ops) == 7
    assert {len(timings) for timings in found.cases.values()} == {4}
    assert found.copy_rate == COPY and found.matmul_rate("float32") == PRODUCTS["float32"]
    assert repr(found) == "KernelTimings(42 cases on a <GPU> & co, 81% of the roof, worst 69%)"
    frame = found.to_frame()
    assert len(frame) == 4 * 42 and frame.roof_share.max() == pytest.approx(0.93)
    assert (frame.flops_rate / frame.bytes_rate - frame.intensity).abs().max() < 1e-6


def test_it_is_saved_and_read_back(tmp_path):
    found = make_many()
    again = KernelTimings.load(found.save(tmp_path / "kernels"))
    assert again.timings == found.timings and again.device == found.device


def make_row(**changes: object) -> KernelRow:
    known = dict(op="readout", case="forward", shape="rows=2 d=3", inputs_dtype="bfloat16")
    known |= dict(implementation="kernel", seed=0, error=1e-3, tolerance=1e-2, truth="float64", remark="")
    known |= dict(n_bytes=100, n_flops=0, repeats=9, p20=1e-5, p50=2e-5, p80=3e-5, host=1e-5, over_kernel=1.0)
    known |= dict(copy_rate=1e12, matmul_rate=1e14, bytes_share=1.0, flops_share=0.0)
    known |= dict(triton="3.9.0", cuda="12.8")
    return KernelRow(**known | changes)  # type: ignore[arg-type]


def write(path: Path, device: str, *rows: KernelRow) -> None:
    append_rows(path, replace(describe_setting(torch.device("cpu")), device=device), rows)


def test_the_last_timing_of_each_case_on_one_device(tmp_path):
    path = tmp_path / "kernels.csv"
    nan = float("nan")
    write(path, "old", make_row(p50=9e-5), make_row(case="backward", p50=8e-5))
    write(path, "new", make_row(p50=7e-5), make_row(case="backward", p50=nan, remark="wrong: error 1"))
    write(
        path, "new", make_row(p50=6e-5), make_row(implementation="eager", p50=5e-5), make_row(op="x", p50=nan)
    )
    found = KernelTimings.from_csv(path)
    assert found.device == found.provenance.device == "new"
    assert [(one.case, one.implementation, one.p50) for one in found.timings] == [
        ("forward", "kernel", 6e-5),
        ("forward", "eager", 5e-5),
    ]
    assert found.provenance.versions["triton"] == "3.9.0" and found.provenance.versions["cuda"] == "12.8"
    old = KernelTimings.from_csv(path, "old")
    assert [one.p50 for one in old.kernels] == [9e-5, 8e-5]
    with pytest.raises(DataFileError, match="no times of device 'none'; devices with times: 'old', 'new'"):
        KernelTimings.from_csv(path, "none")


@pytest.mark.parametrize("end", ["kernel", "p50"])
def test_files_that_are_none(tmp_path, end):
    path = tmp_path / "kernels.csv"
    with pytest.raises(DataFileError, match="cannot read"):
        KernelTimings.from_csv(path)
    path.write_text("device,p50\nx,1\n")
    with pytest.raises(DataFileError, match="missing columns: case, copy_rate"):
        KernelTimings.from_csv(path)
    path.unlink()
    write(path, "cpu", make_row(p50=float("nan")))
    with pytest.raises(DataFileError, match="none, for only a GPU gives times"):
        KernelTimings.from_csv(path)
    write(path, "gpu", make_row(shape="a b"))
    text = path.read_text()
    path.write_text(text.replace("2e-05", "fast"))
    with pytest.raises(DataFileError, match="'fast' where p50 is a number"):
        KernelTimings.from_csv(path)


@pytest.mark.parametrize("name", ["n_bytes", "p20", "p50", "p80", "copy_rate", "matmul_rate"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_that_mean_nothing(name, value):
    with pytest.raises(RecordError, match=f"{name} of a kernel's timing is positive"):
        make_timing(**{name: value})


def test_records_that_mean_nothing():
    with pytest.raises(RecordError, match="n_flops"):
        make_timing(n_flops=-1.0)
    with pytest.raises(RecordError, match="at least one"):
        KernelTimings((), "gpu", make_many().provenance)
    kernel, eager = make_case(0.5, {"eager": 2.0})
    for timings in ([eager], [kernel, kernel], [kernel, eager, eager]):
        with pytest.raises(RecordError, match="needs one timing of the kernel"):
            make_timings(*timings)
