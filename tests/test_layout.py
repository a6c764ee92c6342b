"""The shape of the house: real folders on top, links inside the package, one top-level name in the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.patience import GUARD

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("room", ["schedulers", "configs"])
def test_a_room_on_top_is_linked_into_the_package(room: str) -> None:
    link = ROOT / "mml_ray" / room
    assert link.is_symlink(), f"mml_ray/{room} must be a link to ../{room}; was it copied without links?"
    assert link.readlink() == Path("..") / room
    assert not (ROOT / room).is_symlink()
    assert (ROOT / room / "__init__.py").is_file()


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel that is built through an sdist, as an installer may do it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_brings_one_top_level_name(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mml_ray"}


def test_the_wheel_holds_every_module_and_every_option(wheel_names: list[str]) -> None:
    wanted = {
        f"mml_ray/{path.relative_to(ROOT).as_posix()}" for room in ("schedulers", "configs") for path in _files(ROOT / room)
    }
    wanted |= {path.relative_to(ROOT).as_posix() for path in _files(ROOT / "mml_ray")}
    assert wanted - set(wheel_names) == set()
    assert "mml_ray/configs/mode/train.yaml" in wheel_names
    assert "mml_ray/schedulers/base.py" in wheel_names
    assert "mml_ray/py.typed" in wheel_names


def _files(folder: Path) -> list[Path]:
    """Modules and options below a folder (links are not followed)."""
    return [path for suffix in ("py", "yaml") for path in folder.rglob(f"*.{suffix}") if path.is_file()]
