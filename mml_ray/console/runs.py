"""``mml-ray runs``: which runs there are, where each stands, and whether its artifacts are intact. Starts nothing."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from mml_ray import env
from mml_ray.errors import EXIT_FAILED, EXIT_OK, EXIT_USER, MMLMisconfigurationException, UnknownNameError
from mml_ray.journal.owner import describe
from mml_ray.report.ending import format_duration
from mml_ray.report.overview import CommandOverview, RunOverview, list_runs, show_run
from mml_ray.report.tables import Table
from mml_ray.store.paths import RunPaths
from mml_ray.store.run.inspection import read_run, verify

_ACTIONS = ("list", "show", "verify")


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``mml-ray runs [list|show|verify] [run]``."""
    add = parser.add_argument
    text = "list all runs, the newest first (default); show the commands of a run; verify: measure all artifacts again"
    add("action", nargs="?", default="list", choices=_ACTIONS, help=text)
    text = "latest (default), <project>, <project>/<day>/<time>, <day>/<time>, or a run folder"
    add("run", nargs="?", default="latest", help=text)
    add("--json", action="store_true", help="for programs")
    add("--results", metavar="FOLDER", help="results root (default: MML_RESULTS_PATH, else ./mml_results)")
    add("--proj", metavar="NAME", help="only this project")
    add("--artifacts", action="store_true", help="with show: list the files that were committed, too")


def run(given: argparse.Namespace) -> int:
    """Print what was asked for and return the exit code, which is 1 if ``verify`` finds something wrong. Nothing is started or changed."""
    env.load()
    results = Path(given.results or os.environ.get("MML_RESULTS_PATH") or "mml_results").absolute()
    if given.action == "list":
        return _list(results, given)
    folder = find(given.run, results, given.proj)
    return _show(folder, given) if given.action == "show" else _verify(folder, given)


# -- which -----------------------------------------------------------------------------------------------------------------
def find(wanted: str, results: Path, project: str | None) -> Path:
    """The run folder that ``wanted`` names.

    Raises:
        UnknownNameError: there is no such run; names the existing ones.
    """
    if RunPaths(Path(wanted)).journal.exists():
        return Path(wanted).absolute()
    runs = _runs(results, project)
    named = [run for run in runs if wanted in ("latest", f"{run['project']}/{run['run']}", run["run"], run["project"])]
    if not named:
        there = [f"{run['project']}/{run['run']}" for run in runs[:20]]
        raise UnknownNameError.of("run", wanted, there, f"Results root: {results}.")
    return Path(named[0]["path"])


def _runs(results: Path, project: str | None) -> list[RunOverview]:
    if not results.is_dir():
        raise MMLMisconfigurationException(f"The results root {results} does not exist: give --results, or set MML_RESULTS_PATH.")
    if project is not None and not (results / project).is_dir():
        there = [folder.name for folder in results.iterdir() if (folder / "runs").is_dir()]
        raise UnknownNameError.of("project", project, there, f"Results root: {results}.")
    return list_runs(results, project)


# -- list ------------------------------------------------------------------------------------------------------------------
def _list(results: Path, given: argparse.Namespace) -> int:
    runs = _runs(results, given.proj)
    if given.json:
        print(json.dumps(runs, indent=2))
        return EXIT_OK
    if not runs:
        print(f"No runs in {results}.")
        return EXIT_OK
    rows = [[run["project"], run["run"], run["mode"], run["state"], f"{run['committed']}/{run['total']}"] for run in runs]
    Table(f"Runs in {results}", ["project", "run", "mode", "state", "done"], rows).print()
    for run in runs:
        if run["owner"] or run["broken"]:
            remark = f"held by {describe(run['owner'])}" if run["owner"] else run["broken"]
            print(f"{run['project']}/{run['run']}: {remark}")
    return EXIT_OK


# -- show ------------------------------------------------------------------------------------------------------------------
def _show(folder: Path, given: argparse.Namespace) -> int:
    run = show_run(folder)
    code = EXIT_USER if run["broken"] else EXIT_OK
    if given.json:
        print(json.dumps(run, indent=2))
        return code
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run["opened"])) if run["opened"] else "unknown"
    print(f"Run {folder}")
    print(
        f"{run['mode'] or 'mode unknown'}, {run['state']}, {run['committed']} of {run['total']} commands committed, began {began}"
    )
    if run["owner"]:
        print(f"Held by {describe(run['owner'])}.")
    if run["broken"]:
        print(f"{run['broken']} Below is what could be read before that.")
    print(f"Configuration: {RunPaths(folder).config}\nLogs: {RunPaths(folder).logs}\n")
    if run["commands"]:
        columns = ["no", "command", "parameters", "unit", "state", "tries", "seconds", "node", "files"]
        Table("Commands", columns, [_row(item) for item in run["commands"]]).without_empty("unit").print()
    for line in _troubles(run["commands"]):
        print(line)
    if given.artifacts:
        _print_artifacts(run["commands"], folder)
    return code


def _row(item: CommandOverview) -> list[str]:
    seconds = item["seconds"]
    return [
        str(item["position"]),
        item["name"],
        item["title"].removeprefix(item["name"]).strip(),
        item["unit"],
        item["state"],
        str(len(item["attempts"])),
        "" if seconds is None else f"{seconds:.1f}",
        item["node"],
        str(len(item["artifacts"])),
    ]


def _troubles(commands: Sequence[CommandOverview]) -> list[str]:
    return [
        f"{item['title']}, attempt {attempt['number']} {attempt['reason']}: {textwrap.shorten(attempt['message'], 400, placeholder=' ...')}"
        for item in commands
        for attempt in item["attempts"]
        if attempt["reason"] not in ("", "repeated")
    ]


def _print_artifacts(commands: Sequence[CommandOverview], folder: Path) -> None:
    files = [(item["position"], file) for item in commands for file in item["artifacts"]]
    common = os.path.commonpath([str(folder), *(file["path"] for _, file in files)])
    rows = [[str(number), _size(file["size"]), os.path.relpath(file["path"], common)] for number, file in files]
    if rows:
        Table(f"Files in {common}", ["no", "size", "path"], rows).print()
    else:
        print("No files were committed.")


def _size(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size / 2**10:.1f} KiB" if size < 2**20 else f"{size / 2**20:.1f} MiB"


# -- verify ----------------------------------------------------------------------------------------------------------------
def _verify(folder: Path, given: argparse.Namespace) -> int:
    began = time.monotonic()
    problems = verify(folder)
    count = len(read_run(folder).artifacts)
    if given.json:
        print(json.dumps({"path": str(folder), "artifacts": count, "problems": problems}, indent=2))
    elif problems:
        print("\n".join(problems))
        print(f"{len(problems)} problem(s) with {count} files of {folder}.")
    else:
        print(
            f"All {count} files of {folder} are as they were committed (checked in {format_duration(time.monotonic() - began)})."
        )
    return EXIT_FAILED if problems else EXIT_OK
