"""``mml-ray runs`` on run folders as they come to be: finished, failed, killed, running, broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mml_ray import cli
from mml_ray.console.arguments import SUBCOMMANDS
from mml_ray.console.runs import find
from mml_ray.driver.environment import CommandLog
from mml_ray.errors import UnknownNameError
from mml_ray.report import overview
from mml_ray.runs.history import history
from mml_ray.store.run.store import RunStore
from tests.patience import GUARD


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two projects: ``look`` with one finished run, ``pets`` with one that failed and one that finished."""
    root = tmp_path_factory.mktemp("made")
    (root / "empty").mkdir()
    places = [f"data_dir={root / 'data'}", f"out_dir={root / 'results'}"]
    assert cli.main(["info", "proj=look", "sys.executor=inline", *places]) == 0
    source = ["tasks=from_folder", "source.name=pets", f"source.path={root / 'empty'}"]
    assert cli.main(["create", "proj=pets", "sys.executor=inline", *source, *places]) == 2
    assert cli.main(["create", "proj=pets", "sys.executor=inline", "tasks=fake", *places]) == 0
    return root / "results"


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy of :func:`made` that a test may spoil; run folders may be moved."""
    return shutil.copytree(made, tmp_path / "results")


def _folder(results: Path, project: str, number: int = -1) -> Path:
    return sorted((results / project / "runs").glob("*/*"))[number]


def _unfinish(folder: Path, before: str = "finish_exp") -> None:
    """As a kill before that command leaves it (the last one)."""
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    first_end = next(n for n, line in enumerate(lines) if f'"{before}'.encode() in line and b'"attempt_started"' in line)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:first_end]))
    shutil.rmtree(folder / "claims", ignore_errors=True)
    (folder / "lease.json").unlink()


def _listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = SUBCOMMANDS["runs"].run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_newest_run_comes_first_and_each_has_its_state(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, listed = _listed(capsys, "--results", str(results))
    assert code == 0
    assert [(run["project"], run["mode"], run["state"], run["committed"], run["total"]) for run in listed] == [
        ("pets", "create", "finished", 2, 2),
        ("pets", "create", "failed", 0, 2),
        ("look", "info", "finished", 3, 3),
    ]
    assert listed[0]["path"] == str(_folder(results, "pets")) and listed[0]["opened"] > listed[1]["opened"]
    assert [run["project"] for run in _listed(capsys, "list", "--proj", "look", "--results", str(results))[1]] == ["look"]


def test_the_table_fits_eighty_columns(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert SUBCOMMANDS["runs"].run(["list", "--results", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert max(map(len, lines)) <= 80
    run = "/".join(_folder(results, "look").parts[-2:])
    assert ["look", run, "info", "finished", "3/3"] in [line.split() for line in lines]


def test_killed_running_and_broken_are_told_apart(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    look, pets = _folder(results, "look"), _folder(results, "pets")
    _unfinish(look)
    _unfinish(pets)
    failed = _folder(results, "pets", 0) / "journal.jsonl"
    lines = failed.read_bytes().splitlines(keepends=True)
    failed.write_bytes(b"".join([*lines[:2], b"nonsense\n", *lines[3:]]))
    roots = {"project": str(results / "pets"), "results": str(results), "data": str(results.parent / "data")}
    store = RunStore.open(pets, roots=roots)
    try:
        _, listed = _listed(capsys, "--results", str(results))
        states = {Path(run["path"]): run for run in listed}
        assert states[look]["state"] == "interrupted" and states[look]["owner"] is None
        assert states[pets]["state"] == "running" and states[pets]["owner"]["pid"] > 0
        broken = states[failed.parent]
        assert broken["state"] == "broken" and "line 3" in broken["broken"]
        SUBCOMMANDS["runs"].run(["list", "--results", str(results)])
        text = capsys.readouterr().out
        assert f"held by process {states[pets]['owner']['pid']} on" in text and f"{failed}, line 3 is damaged" in text
    finally:
        store.close()


def test_what_waits_in_the_queue_of_ray_is_not_said_to_run(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _folder(results, "pets")
    _unfinish(folder, before="create_task")
    shutil.rmtree(folder / "logs")
    (key,) = (command["key"] for command in overview.show_run(folder)["commands"] if command["name"] == "create_task")
    roots = {"project": str(results / "pets"), "results": str(results), "data": str(results.parent / "data")}
    store = RunStore.open(folder, roots=roots)

    def shown() -> tuple[str, Any]:
        (command,) = (item for item in _listed(capsys, "show", str(folder))[1]["commands"] if item["key"] == key)
        return command["state"], command["seconds"]

    try:
        assert shown() == ("waiting", None)
        for attempt in (1, 2):  # on Ray nobody knows yet where it will run
            assert store.start([{"command": key, "position": 2, "node": "", "pid": 0}]) == [attempt]
            assert shown() == ("queued", None), "also the second time, beside the log of the first"
            command_log = CommandLog(folder / "logs" / f"{key}.log", attempt)
            command_log.open()
            command_log.close()
            state, seconds = shown()
            assert state == "running" and 0 <= seconds < GUARD
        store.start([{"command": key, "position": 2, "node": "here", "pid": 0}])
        assert shown()[0] == "running", "without Ray it runs at once"
    finally:
        store.close()


def test_an_owner_that_is_gone_holds_nothing(results: Path) -> None:
    look = _folder(results, "look")
    _unfinish(look)
    store = RunStore.open(look, roots={"project": str(results / "look"), "results": str(results), "data": str(results)})
    try:
        assert overview.living_owners([look]).keys() == {look}
        lease = json.loads((look / "lease.json").read_text())
        text = (look / "lease.json").read_text().replace(lease["owner"]["start_time"], "ticks:1")
        (look / "lease.json").write_text(text)
        assert overview.living_owners([look]) == {}
    finally:
        (look / "lease.json").write_text(json.dumps(lease))
        store.close()


def test_an_owner_elsewhere_lives_as_long_as_its_heart_beats(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look, pets = _folder(results, "look"), _folder(results, "pets")
    beats = {look: iter(range(100)), pets: iter([7] * 100)}
    owner = {"host": "elsewhere", "machine": "another", "pid": 1, "start_time": "ticks:1"}
    monkeypatch.setattr(overview, "_holder", lambda folder: owner)
    monkeypatch.setattr(overview, "_SIGN_OF_LIFE", 0.6)
    monkeypatch.setattr("mml_ray.journal.owner.read_heartbeat", lambda path, _: str(next(beats[path.parent])))
    assert overview.living_owners([look, pets]) == {look: owner}


def test_show_says_what_each_command_did(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, run = _listed(capsys, "show", "pets", "--results", str(results))
    assert code == 0 and (run["state"], run["committed"], run["total"]) == ("finished", 2, 2)
    by_name = {item["name"]: item for item in run["commands"]}
    assert list(by_name) == ["prepare_exp", "create_dataset", "create_task", "finish_exp"]
    task = by_name["create_task"]
    assert task["title"] == "create_task mml_fake_task" and task["state"] == "committed" and task["seconds"] > 0
    assert [attempt["number"] for attempt in task["attempts"]] == [1] and task["node"] and task["resources"]
    assert SUBCOMMANDS["runs"].run(["show", "pets", "--results", str(results), "--artifacts"]) == 0
    text = capsys.readouterr().out
    assert "create, finished, 2 of 2 commands committed" in text and "No files were committed." in text


def test_show_of_a_failed_run_says_why(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _folder(results, "pets", 0)
    assert SUBCOMMANDS["runs"].run(["show", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "create_dataset pets, attempt 1 failed: " in text and "create, failed, 0 of 2" in text
    assert [line.split()[3:5] for line in text.splitlines() if line.split()[1:2] == ["create_task"]] == [["waiting", "0"]]


def test_show_of_a_broken_run_shows_what_can_be_read(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _folder(results, "look") / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-2], b"nonsense\n", lines[-1]]))
    code, run = _listed(capsys, "show", "look", "--results", str(results))
    assert code == 2 and run["state"] == "broken" and run["committed"] == 3
    (path.parent / "journal.jsonl").unlink()
    assert SUBCOMMANDS["runs"].run(["show", "look", "--results", str(results)]) == 2
    assert "There is no journal" in capsys.readouterr().out


def test_verify_measures_every_file_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [f"data_dir={tmp_path / 'data'}", f"out_dir={tmp_path / 'results'}"]
    assert cli.main(["create", "sys.executor=inline", "tasks=fake", *places]) == 0
    assert cli.main(["info", "tasks=fake", "mode.subroutines=[samples]", "sys.executor=inline", *places]) == 0
    capsys.readouterr()
    here = ["--results", str(tmp_path / "results")]
    code, said = _listed(capsys, "verify", "latest", *here)
    assert (code, said["artifacts"], said["problems"]) == (0, 2, [])
    picture = next((tmp_path / "results").rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-1])
    code, said = _listed(capsys, "verify", *here)
    assert code == 1 and len(said["problems"]) == 1 and str(picture) in said["problems"][0]
    assert SUBCOMMANDS["runs"].run(["verify", *here]) == 1 and "1 problem(s) with 2 files" in capsys.readouterr().out
    assert SUBCOMMANDS["runs"].run(["show", "--artifacts", *here]) == 0
    assert picture.name in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["latest", "project", "run", "both", "folder"])
def test_a_run_can_be_named_in_many_ways(results: Path, kind: str) -> None:
    folder = _folder(results, "look" if kind in ("project", "run", "both") else "pets")
    run = "/".join(folder.parts[-2:])
    wanted = {"latest": "latest", "project": "look", "run": run, "both": f"look/{run}", "folder": str(folder)}[kind]
    assert find(wanted, results, None) == folder


def test_unknown_names_are_answered_with_those_that_are_there(results: Path) -> None:
    with pytest.raises(UnknownNameError, match="look/"):
        find("lok/2024-01-01/00-00-00-000000", results, None)
    with pytest.raises(UnknownNameError, match="Did you mean: pets"):
        find("latest", results, "pet")


def test_trials_of_a_study_are_runs_as_well(results: Path) -> None:
    shutil.copytree(_folder(results, "look"), results / "look" / "hpo" / "sweep" / "trials" / "0003")
    listed = overview.list_runs(results, "look")
    assert sorted(run["run"] for run in listed)[-1] == "hpo/sweep/trials/0003"
    assert find("look/hpo/sweep/trials/0003", results, None).name == "0003"


# -- what earlier runs took ---------------------------------------------------------------------------------------------------
def test_history_is_the_median_by_command_and_passes_over_broken_runs(results: Path) -> None:
    project = results / "look"
    first = _folder(results, "look")
    for number, seconds in enumerate((5.0, 9.0, 700.0)):
        copy = shutil.copytree(first, project / "runs" / "2099-01-01" / f"0{number}")
        _set_seconds(copy / "journal.jsonl", seconds)
    shutil.rmtree(first)
    assert history(project)["show_tasks"] == 9.0
    assert history(project, runs=1)["show_tasks"] == 700.0
    (project / "runs" / "2099-01-01" / "02" / "journal.jsonl").write_text("nonsense\n")
    assert history(project)["show_tasks"] == 7.0
    assert history(project, most_bytes=10) == {} and history(results / "nothing") == {}


def _set_seconds(path: Path, seconds: float) -> None:
    from mml_ray.journal import log as journal

    operations = journal.read(path).operations
    for operation in operations:
        if operation["op"] == "committed":
            operation["seconds"] = seconds
    lines = []
    for operation in operations:
        fields = {key: value for key, value in operation.items() if key not in ("crc", "seq", "op")}
        lines.append(journal.encode(operation["seq"], operation["op"], fields))
    path.write_bytes(b"".join(lines))


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shw"], "Unknown action of mml-ray runs 'shw'. Did you mean: show?"),
        (["list", "--jsn"], "Unknown flag '--jsn'. Did you mean: --json"),
        (["show", "one", "two"], "unrecognized arguments: two (mml-ray runs --help tells more)"),
        (["list", "--proj"], "--proj needs a value: --proj NAME"),
    ],
)
def test_wrong_arguments_are_one_message_with_the_nearest(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["runs", *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message and message.startswith("mml-ray: error: ") and "usage" not in message
