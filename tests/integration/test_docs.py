"""Every command and setting that README and documentation name is understood by the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from mml_ray.api import compose_run
from mml_ray.console.arguments import SUBCOMMANDS, parse
from mml_ray.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: modes that are asked whether they know a setting
MODES = ("train", "create", "info", "clean", "pp")


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.splitlines():
                if line.startswith("mml-ray ") and "[group=option" not in line:
                    yield page.name, line


def _settings() -> Iterator[tuple[str, str]]:
    """What stands in backticks and is one or more settings: ``optimizer=sgd``, ``sys.retries.system=3 sys.retries.exception=0``."""
    for page in (page for page in PAGES if page.name != "plugins.md"):  # which speaks of a plugin that is not installed here
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for quoted in re.findall(r"`([^`\n]+)`", text):
            for word in quoted.split():
                if re.fullmatch(r"\+?[a-z_]+(\.[a-z_*]+)*=[^=<>.]\S*", word) and not word.startswith(
                    ("key=", "group=", "tasks=mine")
                ):
                    yield page.name, word


def test_there_is_something_to_check() -> None:
    assert len(list(_commands())) > 25 and len(list(_settings())) > 40


@pytest.mark.parametrize(("page", "line"), sorted(set(_commands())))
def test_a_command_of_the_documentation_can_be_composed(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(line, comments=True)[1:]
    if arguments[0] in SUBCOMMANDS:
        SUBCOMMANDS[arguments[0]].parser.parse_args(arguments[1:])
        return
    parsed = parse([argument for argument in arguments if argument not in (">>", "~/.bashrc")])
    if not parsed.action and not parsed.install:
        compose_run(parsed.rest, parsed.run_flags)


@pytest.mark.parametrize(("page", "setting"), sorted(set(_settings())))
def test_a_setting_of_the_documentation_is_known(
    page: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = ["source.name=cells"] if setting.startswith(("tasks=from_", "source.")) else []
    task = [] if setting.startswith("tasks=") else ["tasks=from_table"] if source else ["tasks=digits"]
    refused = []
    for mode in MODES:
        try:
            compose_run([mode, *task, setting.replace("*", "num_cpus"), *source])
            return
        except UserError as error:
            refused.append(str(error))
    raise AssertionError("\n".join(refused))


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.parent == ROOT / "docs" and f": {page.name}" not in navigation] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
