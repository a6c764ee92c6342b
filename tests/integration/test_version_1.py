"""What version 1 wrote goes on working: its journals replay, its runs are continued, verified and reused.

The fixtures were made by that version and are never made again (``tests/assets/runs_of_version_1/README.md``).
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from mml_ray import cli
from mml_ray.journal.owner import current_owner
from mml_ray.store.run.store import read_run
from tests.integration.harness import Place, commits, journal

FIXTURES = Path(__file__).resolve().parents[1] / "assets" / "runs_of_version_1"
#: run -> state, committed commands, planned commands, and how attempts ended that did not commit
JOURNALS: dict[str, tuple[str, int, int, set[str]]] = {
    "created": ("finished", 2, 2, set()),
    "shown": ("finished", 1, 1, set()),
    "preprocessed": ("finished", 1, 1, set()),
    "predicted": ("finished", 6, 6, set()),
    "tested_and_removed": ("finished", 3, 3, set()),
    "diverged": ("finished", 3, 3, set()),
    "failed": ("failed", 8, 12, {"failed"}),
    "interrupted": ("interrupted", 2, 12, set()),
    "stopped": ("interrupted", 0, 1, {"interrupted"}),
    "killed_before_commit": ("interrupted", 1, 12, set()),
    "killed_and_continued": ("finished", 12, 12, {"lost", "repeated"}),
    "retried_on_ray": ("finished", 12, 12, {"lost"}),
    "extended": ("interrupted", 4, 12, set()),
}
PROJECTS = {
    "finished": ("finished", 12, 12, set()),
    "killed": ("interrupted", 1, 12, set()),
    "killed_on_ray": ("interrupted", 1, 12, set()),
}
OPERATIONS = {
    "run_opened", "plan", "attempt_started", "numbering", "path_reserved", "paths_released", "committed", "attempt_failed", "run_finished",
}  # fmt: skip
#: numbers that were computed on another processor may differ by this much
CLOSE = {"rel": 1e-2, "abs": 1e-2}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy of the data root and the results of version 1, which mml-ray finds by the environment."""
    place = Place(tmp_path / "data", tmp_path / "results")
    shutil.copytree(FIXTURES / "data", place.data)
    shutil.copytree(FIXTURES / "results", place.results)
    monkeypatch.setenv("MML_DATA_PATH", str(place.data))
    monkeypatch.setenv("MML_RESULTS_PATH", str(place.results))
    return place


def _died_here(run_dir: Path) -> None:
    """Let the owner of a run be a dead process of this machine: one of another machine is waited for, half a minute long."""
    lease = json.loads((run_dir / "lease.json").read_text())
    if lease["owner"]:
        lease["owner"] = {**current_owner(), "start_time": "ticks:1"}
        (run_dir / "lease.json").write_text(json.dumps(lease))


def _fixture_dir(project: str) -> Path:
    return Place(FIXTURES / "data", FIXTURES / "results").run_dir(project)


def _output(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main(list(arguments))
    said = capsys.readouterr()
    return code, said.out + said.err


# -- looking at them -----------------------------------------------------------------------------------------------------------
def test_the_fixtures_hold_every_operation_of_a_run() -> None:
    lines = [line for name in JOURNALS for line in journal(FIXTURES / "journals" / name)]
    assert {line["op"] for line in lines} == OPERATIONS
    committed = [line for line in lines if line["op"] == "committed"]
    assert any(line["models_update"] for line in committed) and any(line["structs"] for line in committed)
    assert sorted(path.name for path in (FIXTURES / "journals").iterdir()) == sorted(JOURNALS)
    opened = [line for line in journal(_fixture_dir("killed_on_ray")) if line["op"] == "run_opened"]
    assert [line["adopted"] for line in opened] == [False, True], "the second line is that of the actor"


@pytest.mark.parametrize("name", [*JOURNALS, *PROJECTS])
def test_a_journal_of_version_1_replays(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, expected = (
        (FIXTURES / "journals" / name, JOURNALS[name]) if name in JOURNALS else (_fixture_dir(name), PROJECTS[name])
    )
    run_dir = shutil.copytree(source, tmp_path / "results" / name / "runs" / "2026-11-28" / "03-00-00-000000")
    _died_here(run_dir)
    code, output = _output(capsys, "runs", "show", str(run_dir), "--json")
    shown = json.loads(output)
    assert code == 0 and not shown["broken"], output
    reasons = {attempt["reason"] for command in shown["commands"] for attempt in command["attempts"]} - {""}
    assert (shown["state"], shown["committed"], shown["total"], reasons) == expected
    results = _results(run_dir)
    for command in shown["commands"]:
        assert repr(command["result"]) == repr(results.get(command["key"])), "NaN included"


def test_a_score_that_is_nan_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    _, output = _output(capsys, "runs", "show", str(FIXTURES / "journals" / "diverged"), "--json")
    (trained,) = (command for command in json.loads(output)["commands"] if command["name"] == "train_fold")
    assert math.isnan(trained["result"]["score"])


def test_runs_of_version_1_are_listed_and_verified(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for project in PROJECTS:
        _died_here(place.run_dir(project))
    code, output = _output(capsys, "runs", "list", "--json")
    listed = {run["project"]: (run["mode"], run["state"], run["committed"], run["total"]) for run in json.loads(output)}
    assert code == 0 and listed == {name: ("train", *expected[:3]) for name, expected in PROJECTS.items()}
    for project in PROJECTS:
        code, output = _output(capsys, "runs", "verify", project)
        assert code == 0 and "as they were committed" in output, output
    (weights, *_) = sorted((place.results / "finished" / "PARAMETERS").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    code, output = _output(capsys, "runs", "verify", "finished")
    assert code == 1 and weights.name in output, output


# -- going on with them ----------------------------------------------------------------------------------------------------------
def test_a_finished_run_of_version_1_has_nothing_left_to_do(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = (place.run_dir("finished") / "journal.jsonl").read_bytes()
    code, output = _output(capsys, "train", "proj=finished", "continue=latest")
    assert code == 0 and "nothing is left to do" in output, output
    assert (place.run_dir("finished") / "journal.jsonl").read_bytes() == before


def test_a_killed_run_of_version_1_is_continued_to_the_same_end(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = place.run_dir("killed")
    _died_here(run_dir)
    code, output = _output(capsys, "continue=latest", "proj=killed")
    assert code == 0, output
    (log,) = (run_dir / "logs").glob("train_fold--shapes-nested-1*.log")
    assert "after epoch 1" in log.read_text(), "fold 1 was resumed from the checkpoint of version 1"
    _ended_as_the_finished_one(place, "killed", resumed="shapes+nested?1", undisturbed="shapes+nested?2")
    curves = {key[:27]: rows for key, rows in read_run(run_dir).curves.items()}
    epochs = {key: [row["epoch"] for row in rows] for key, rows in curves.items()}
    assert epochs == {"train_fold--shapes-nested-1": [2, 3], "train_fold--shapes-nested-2": [1, 2, 3]}
    assert all(any(name.startswith("val/") for name in row["values"]) for rows in curves.values() for row in rows)
    code, output = _output(capsys, "runs", "verify", "killed")
    assert code == 0, output
    code, output = _output(capsys, "continue=latest", "proj=killed")
    assert code == 0 and "nothing is left to do" in output, output


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_on_ray_that_died_on_another_machine_is_continued_on_ray(place: Place) -> None:
    code, output = place.call("continue=latest", "proj=killed_on_ray")
    assert code == 0, output
    _ended_as_the_finished_one(place, "killed_on_ray", resumed="shapes+nested?0", undisturbed="shapes+nested?2")


def _ended_as_the_finished_one(place: Place, project: str, *, resumed: str, undisturbed: str) -> None:
    assert commits(place.run_dir(project)) == commits(_fixture_dir("finished"))
    expected, found = (_results(folder) for folder in (_fixture_dir("finished"), place.run_dir(project)))
    assert _flat(found) == pytest.approx(_flat(expected), nan_ok=True, **CLOSE)
    assert _names(place.results / project) == _names(FIXTURES / "results" / "finished")
    ours, theirs = (_weights(root / name) for root, name in ((place.results, project), (FIXTURES / "results", "finished")))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == pytest.approx(theirs[name], **CLOSE), name
    # a fold that only this machine trained shows whether its processor computes the same bits as that of the fixture
    if all(ours[name] == theirs[name] for name in ours if undisturbed in name):
        assert [name for name in ours if resumed in name and ours[name] != theirs[name]] == []


def _results(run_dir: Path) -> dict[str, Any]:
    """Command -> what it returned, by the lines of the journal themselves: NaN is ``{"$float": "nan"}`` there."""
    results = {line["command"]: line["result"] for line in journal(run_dir) if line["op"] == "committed"}
    return json.loads(json.dumps(results), object_hook=lambda value: float(value["$float"]) if "$float" in value else value)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested results as one level, which is what ``approx`` takes."""
    if not isinstance(value, dict):
        return {name: math.nan if value is None else value}
    return {key: item for inner in value for key, item in _flat(value[inner], f"{name} {inner}").items()}


def _names(project: Path) -> list[str]:
    """Every artifact of a project, by its path."""
    relative = [path.relative_to(project) for path in project.rglob("*") if path.is_file()]
    return sorted(str(path) for path in relative if path.parts[0] != "runs")


def _weights(project: Path) -> dict[str, list[float]]:
    """``<file>: <tensor>`` -> its numbers."""
    return {
        f"{path.relative_to(project)}: {name}": tensor.astype(float).ravel().tolist()
        for path in (project / "PARAMETERS").rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


# -- using their models ------------------------------------------------------------------------------------------------------------
def test_models_of_version_1_predict_what_they_predicted_then(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tasks=from_folder", "source.name=shapes", "preprocessing=none", "augmentations=none", "sys.executor=inline"]
    code, output = _output(capsys, "predict", *arguments, "reuse.models=finished", "proj=reused")
    assert code == 0, output
    expected, found = (_predictions(place.results / project) for project in ("finished", "reused"))
    assert len(expected) == 6 and expected.keys() == found.keys()
    for name, rows in expected.items():
        assert [row["sample_id"] for row in found[name]] == [row["sample_id"] for row in rows]
        for row, other in zip(rows, found[name], strict=True):
            assert other["probabilities"] == pytest.approx(row["probabilities"], **CLOSE), (name, row["sample_id"])


def _predictions(project: Path) -> dict[str, list[dict[str, Any]]]:
    """Task and fold -> rows; the numbers of the files depend on the plan."""
    paths = (project / "PREDICTIONS").rglob("*.parquet")
    return {f"{path.parent.name}/{path.stem[:-5]}": pq.read_table(path).to_pylist() for path in paths}
