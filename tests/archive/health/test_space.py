"""An output folder is measured, and left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsisum_cli.archive.health import space
from wsisum_cli.archive.health.space import check_output, check_space, check_speed


def test_a_folder_is_measured_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(space, "SAMPLE", 1 << 20)
    for folder in (tmp_path, tmp_path / "not" / "there"):
        names = [check.name for check in check_output(folder)]
        assert names == ["free space", "speed"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (found,) = check_output(tmp_path / "file")
    assert (found.state, bool(found.advice)) == ("problem", True)


def test_a_folder_that_cannot_be_written_to_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(folder: Path) -> tuple[float, float]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(space, "measure_speed", refuse)
    found = list(check_output(tmp_path))[-1]
    assert found.state == "problem"
    assert found.found == "cannot be written to (Permission denied)"


@pytest.mark.parametrize(("free", "state"), [(10**12, "ok"), (10**9, "warning"), (10**8, "problem")])
def test_free_space(free: int, state: str):
    assert check_space(free).state == state


@pytest.mark.parametrize(("written", "read", "state"), [(1e8, 1e9, "ok"), (1e6, 1e9, "warning"), (1e8, 1e6, "warning")])
def test_slow_folders(written: float, read: float, state: str):
    assert check_speed(written, read).state == state
