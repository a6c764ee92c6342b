"""Every wrong use of a run folder ends in a clear error with exit code 2, and nothing in it is changed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mml_ray.journal.log import encode
from tests.chaos.lab import Lab, again_and_again
from tests.integration.harness import commits

INLINE, SMALL = "sys.executor=inline", "sys.min_free_disk_gb=0"
CONTINUE = ("chaos", "proj=p", "continue=latest")
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A run whose driver was killed after three commits."""
    lab = Lab.at(tmp_path_factory.mktemp("killed"))
    code, _ = lab.fork(*lab.next(), INLINE, MML_RAY_FAILPOINTS="commit.before_append=kill@4")
    assert code == -9 and len(commits(lab.run)) == 3
    return lab


@pytest.fixture
def lab(killed: Lab, tmp_path: Path) -> Lab:
    """A copy of it."""
    shutil.copytree(killed.data.parent, tmp_path / "lab", symlinks=True)
    return Lab(*(tmp_path / "lab" / name for name in ("data", "results", "trouble")))


def _lines(run_dir: Path) -> list[bytes]:
    return (run_dir / "journal.jsonl").read_bytes().splitlines(keepends=True)


def _write(run_dir: Path, lines: list[bytes]) -> None:
    (run_dir / "journal.jsonl").write_bytes(b"".join(lines))


def _edited(number: int) -> Damage:
    def damage(run_dir: Path) -> None:
        lines = _lines(run_dir)
        lines[number] = lines[number].replace(b'"attempt":1', b'"attempt":7').replace(b'"at":1', b'"at":2')
        _write(run_dir, lines)

    return damage


def _removed(run_dir: Path) -> None:
    lines = _lines(run_dir)
    _write(run_dir, lines[:5] + lines[6:])


def _added(run_dir: Path) -> None:
    lines = _lines(run_dir)
    _write(run_dir, [*lines, lines[-1]])


def _from_the_future(run_dir: Path) -> None:
    first = json.loads(_lines(run_dir)[0])
    fields = {name: value for name, value in first.items() if name not in ("crc", "seq", "op")}
    _write(run_dir, [encode(1, "run_opened", {**fields, "version": 99}), *_lines(run_dir)[1:]])


def _unknown_operation(run_dir: Path) -> None:
    lines = _lines(run_dir)
    _write(run_dir, [*lines, encode(len(lines) + 1, "teleported", {"to": "the moon"})])


def _missing(run_dir: Path) -> None:
    (run_dir / "journal.jsonl").unlink()


def _empty(run_dir: Path) -> None:
    (run_dir / "journal.jsonl").write_bytes(b"")


def _binary(run_dir: Path) -> None:
    (run_dir / "journal.jsonl").write_bytes(bytes(range(256)) * 20)


def _folder(run_dir: Path) -> None:
    _missing(run_dir)
    (run_dir / "journal.jsonl").mkdir()


def _lease(run_dir: Path) -> None:
    (run_dir / "lease.json").write_text("mine!")


def _no_config(run_dir: Path) -> None:
    (run_dir / "config.yaml").unlink()


def _damaged_config(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text("mode: {id: chaos\n  - what")


def _foreign_config(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text("- a list\n")


CASES: dict[str, tuple[Damage, str]] = {
    "a line in the middle was edited": (_edited(5), "line 6 is damaged or was edited"),
    "the first line was edited": (_edited(0), "line 1 is damaged or was edited"),
    "the last line was edited": (_edited(-1), "is damaged or was edited"),
    "a line was removed": (_removed, "Lines are missing or were added"),
    "a line was added": (_added, "Lines are missing or were added"),
    "a newer version": (_from_the_future, "newer mml-ray"),
    "an operation of a newer version": (_unknown_operation, "'teleported'"),
    "no journal": (_missing, "no journal"),
    "an empty journal": (_empty, "empty"),
    "not a journal at all": (_binary, "journal.jsonl"),
    "a folder for a journal": (_folder, "Is a directory"),
    "a damaged lease": (_lease, "lease.json is damaged"),
    "no configuration": (_no_config, "config.yaml is missing"),
    "a damaged configuration": (_damaged_config, "config.yaml"),
    "another kind of configuration": (_foreign_config, "config.yaml"),
}


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_damage_is_told_and_nothing_is_overwritten(case: str, lab: Lab) -> None:
    damage, message = CASES[case]
    damage(lab.run)
    before = _snapshot(lab.results)
    run = "/".join(lab.run.parts[-2:])
    for wanted in ("latest", run):
        code, output = lab.fork("chaos", "proj=p", f"continue={wanted}", INLINE)
        assert code == 2 and message in output and "Traceback" not in output, output
        assert str(lab.run) in output, "it says where"
        assert _snapshot(lab.results) == before


def test_a_torn_last_line_is_no_damage(lab: Lab) -> None:
    lines = _lines(lab.run)
    _write(lab.run, [*lines, b'{"crc":"00000000","seq":99,"op":"comm'])
    again_and_again(lab, INLINE)
    assert set(commits(lab.run).values()) == {1}


def test_the_newest_run_without_its_journal_is_not_passed_over(lab: Lab) -> None:
    """``latest`` does not silently mean an older run."""
    older = lab.run
    again_and_again(lab, INLINE)
    code, output = lab.fork("chaos", "proj=p", INLINE, MML_RAY_FAILPOINTS="commit.before_append=kill@4")
    assert code == -9 and lab.run != older
    _missing(lab.run)
    code, output = lab.fork(*CONTINUE, INLINE)
    assert code == 2 and str(lab.run) in output, output


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    lab = Lab.at(tmp_path)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(lab.results)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        lab.fork(*lab.next(), INLINE, SMALL, MML_RAY_FAILPOINTS="commit.before_append=kill@4")
        subprocess.run(["mount", "-o", "remount,ro", str(lab.results)], check=True)
        before = _snapshot(lab.results)
        for arguments in (CONTINUE, ("chaos", "proj=p")):
            code, output = lab.fork(*arguments, INLINE, SMALL)
            assert code == 2 and "Read-only file system" in output and "Traceback" not in output, output
        assert _snapshot(lab.results) == before
        code, output = lab.fork("runs", "list", f"--results={lab.results}")
        assert code == 0 and "2/7" in output.replace(" ", ""), output
        subprocess.run(["mount", "-o", "remount,rw", str(lab.results)], check=True)
        again_and_again(lab, INLINE, SMALL)
    finally:
        subprocess.run(["umount", "-l", str(lab.results)], check=True)


def test_settings_that_change_what_is_computed_are_refused(lab: Lab) -> None:
    before = _snapshot(lab.results)
    for change in ("mode.steps=4", "seed=7", "mode.width=3"):
        code, output = lab.fork(*CONTINUE, change, INLINE)
        assert code == 2 and change in output and "cannot be changed" in output, output
    assert _snapshot(lab.results) == before
