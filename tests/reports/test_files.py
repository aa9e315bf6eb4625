"""Output files are refused early and written whole."""

from __future__ import annotations

import os

import pytest

from interp.errors import ExportError
from interp.reports import check_writable, write_atomically


def test_check_writable_makes_nothing(tmp_path):
    path = tmp_path / "new" / "deeper" / "report.html"
    assert check_writable(path) == path
    assert list(tmp_path.iterdir()) == []


def test_a_folder_and_a_place_below_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(ExportError, match="is a file, not a folder"):
        check_writable(tmp_path / "file" / "report.html")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    # the mode of a folder does not stop root, so the answer of the system is given
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ExportError, match="no permission"):
        check_writable(tmp_path / "report.html")


def test_a_failure_leaves_the_older_file_and_no_scratch(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "sub" / "a.txt", "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ExportError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_text_is_utf8_and_bytes_are_kept(tmp_path):
    assert write_atomically(tmp_path / "a", "·Mary").read_bytes() == "·Mary".encode()
    assert write_atomically(tmp_path / "b", b"\xff\x00").read_bytes() == b"\xff\x00"
