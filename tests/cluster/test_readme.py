"""The commands of ``cluster/README.md``: read from the page, checked, and run where that needs no more than this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mml_ray import cli
from tests.integration.harness import QUICK, Place, commits, wait_for
from tests.patience import GUARD, promised

FOLDER = Path(__file__).resolve().parents[2] / "cluster"
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", (FOLDER / "README.md").read_text(), re.M | re.S)
LINES = [line for block in BLOCKS for line in block.splitlines()]
#: the commands of mml-ray, alone or behind what starts them
RUNS = list(dict.fromkeys(match for line in LINES for match in re.findall(r"(?:mml-ray|submit\.sbatch) (.*)$", line)))


def _words(line: str) -> list[str]:
    """The words of a command, with ``$HEAD`` and without comments."""
    return shlex.split(line.replace("$HEAD", "127.0.0.1"), comments=True)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_a_script_of_the_shell(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", RUNS)
def test_a_command_of_mml_ray_composes_and_continues(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = _words(arguments)
    assert cli.main([*words, "--cfg", "job"]) == 0, capsys.readouterr().err
    assert "sbatch" in " ".join(line for line in LINES if arguments in line) or {"sys=cluster", "--auto-continue"} <= set(words)


def test_the_options_of_ray_are_those_it_has() -> None:
    from ray.scripts.scripts import cli as ray_cli  # click checks the options; nothing is started

    checked = []
    for line in LINES:
        if not line.startswith("ray "):
            continue
        command, words = ray_cli, _words(line)[1:]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context("ray", words).close()
        checked.append(command.name)
    assert checked == ["start", "start", "start", "submit"]


def test_the_files_that_the_page_names_are_there() -> None:
    text = (FOLDER / "README.md").read_text()
    named = {
        *re.findall(r"\]\((\w+/[\w.]+)\)", text),
        *(path.removeprefix("cluster/") for path in re.findall(r"(?<![\w/])cluster/\w+/[\w.]+", text)),
    }
    assert named == {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.*") if path.name != "README.md"}


@pytest.mark.slow
@pytest.mark.ray
def test_machines_of_ones_own_carry_a_run(digits: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The page's lines on one machine: two nodes with a token, a driver that has it, and one that does not."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    folders = {name: f"/tmp/mr-{os.getpid()}{name}" for name in ("head", "node")}

    def here(block: str) -> str:
        text = block.replace("10.0.0.1", "127.0.0.1").replace("6379", str(port))
        for name, folder in folders.items():
            text = text.replace(f"/tmp/mr-{name}", folder)
        return text.replace("ray start", "exec ray start --num-cpus=1")

    token, head = BLOCKS[0], next(block for block in BLOCKS if "HEAD=" in block)
    other = next(block for block in BLOCKS if "--address=$HEAD" in block)
    driver = next(block for block in BLOCKS if block.startswith("RAY_ADDRESS"))
    place = Place(digits, tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**place.environment(), "PATH": path, "HEAD": "127.0.0.1"}
    shown = subprocess.run(["bash", "-c", f"{token}\nenv"], env=environment, capture_output=True, text=True, check=True).stdout
    secret = dict(re.findall(r"^(RAY_AUTH_\w+)=(.+)$", shown, re.M))
    assert secret["RAY_AUTH_MODE"] == "token" and len(secret["RAY_AUTH_TOKEN"]) == 64

    nodes = []

    def end() -> None:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait(timeout=GUARD)
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)

    request.addfinalizer(end)
    for number, block in enumerate((head, other)):
        log = tmp_path / f"node{number}.log"
        with log.open("w") as output:
            nodes.append(
                subprocess.Popen(["bash", "-ec", here(block)], env={**environment, **secret}, stdout=output, stderr=output)
            )
        wait_for(lambda log=log: "Ray runtime started" in log.read_text(), what=f"the node: {log.read_text()}")  # type: ignore[misc]

    settings = " ".join(
        shlex.quote(item) for item in (*QUICK, "trainer.max_epochs=1", "mode.nested=false", "mode.subroutines=[train]")
    )
    line = here(driver).strip() + " " + settings
    refused = subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=promised(120), check=False
    )
    assert refused.returncode == 2 and "RAY_AUTH_TOKEN" in refused.stdout + refused.stderr
    done = subprocess.run(
        ["bash", "-c", line], env={**environment, **secret}, capture_output=True, text=True, timeout=GUARD, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(commits(place.run_dir("digits")).values()) == [1] * 5
