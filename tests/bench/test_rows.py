"""CSV files of figures: one header, whole lines, nothing else appended to."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields

import pytest
import torch

from interp.bench.rows import append_rows, check_rows_file, columns_of_row
from interp.bench.setting import Setting, describe_setting
from interp.errors import BenchError


@dataclass(frozen=True)
class Row:
    name: str
    seconds: float


@pytest.fixture
def setting():
    return describe_setting(torch.device("cpu"))


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_header_is_written_once(tmp_path, setting):
    path = tmp_path / "rows.csv"
    assert not check_rows_file(path, Row)
    append_rows(path, setting, [Row('a, "quoted"', 0.12345678)])
    append_rows(path, setting, [Row("b", 2.0), Row("c", 3e-7)])
    rows = read(path)
    assert [row["name"] for row in rows] == ['a, "quoted"', "b", "c"]
    assert [row["seconds"] for row in rows] == ["0.123457", "2", "3e-07"]
    assert list(rows[0]) == [*(f.name for f in fields(Setting)), "name", "seconds"]
    assert path.read_text().endswith("\n") and path.read_text().count("date,") == 1
    assert check_rows_file(path, Row)


def test_nothing_measured_writes_nothing(tmp_path, setting):
    append_rows(tmp_path / "rows.csv", setting, [])
    assert list(tmp_path.iterdir()) == []


def test_the_setting_says_where(setting):
    assert setting.cores >= 1 and setting.threads == torch.get_num_threads()
    assert setting.torch == torch.__version__ or setting.torch in torch.__version__
    assert (setting.device, setting.dtype) == ("cpu", "float32")
    assert setting.cpu and setting.os


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,name\n1,a\n", "another header"),
        ("{header},more\n", "unknown: ['more']"),
        ("{header}\n1,2", "middle of a line"),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path, setting, text, message):
    path = tmp_path / "rows.csv"
    path.write_text(text.format(header=",".join(columns_of_row(Row))))
    before = path.read_bytes()
    with pytest.raises(BenchError) as error:
        append_rows(path, setting, [Row("a", 1.0)])
    assert message in str(error.value)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(BenchError, match="there is no folder"):
        check_rows_file(tmp_path / "nowhere" / "rows.csv", Row)
    with pytest.raises(BenchError, match="not a file"):
        check_rows_file(tmp_path, Row)
