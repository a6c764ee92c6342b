"""A small project with one run, and a driver that runs a fixed plan in it from wherever it stands."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.journal import log as journal
from mml_ray.journal.owner import current_owner
from mml_ray.store.run.publish import publish_artifacts
from mml_ray.store.run.store import RunStore, read_run, verify

PARAMETERS = {"key": "parameters", "template": "PROJ_PATH/PARAMETERS/TASK_NAME/model.bin", "numbering": True}
MODELS = {"key": "models", "template": "PROJ_PATH/MODELS/TASK_NAME/FILE_NAME", "numbering": True}
TEMP = {"key": "temp", "template": "TEMP_PATH/FILE_NAME", "numbering": True}
PLAIN = {"key": "table", "template": "PROJ_PATH/TABLES/table.txt", "numbering": False}


class World:
    """Folders of a project below ``base``; ``run_dir`` is where its one run lives."""

    def __init__(self, base: Path, project: str = "proj", run: str = "2024-01-02/03-04-05-000006") -> None:
        self.base, self.results, self.data = base, base / "results", base / "data"
        self.project = self.results / project
        self.run_dir = self.project / "runs" / run
        self.data.mkdir(parents=True, exist_ok=True)
        self.results.mkdir(exist_ok=True)

    @property
    def roots(self) -> dict[str, str]:
        return {"results": str(self.results), "data": str(self.data), "project": str(self.project)}

    def create(self, **more: Any) -> RunStore:
        return RunStore.create(self.run_dir, roots=self.roots, manifest={"mode": "test"}, **more)

    def open(self, **more: Any) -> RunStore:
        return RunStore.open(self.run_dir, roots=self.roots, **more)

    def planned(self, commands: int = 4, **more: Any) -> RunStore:
        """A new run with a plan of independent commands c0, c1, ..."""
        store = self.create(**more)
        store.set_plan(plan(commands))
        return store

    def journal(self) -> list[dict[str, Any]]:
        return journal.read(self.run_dir / "journal.jsonl").operations

    def commits(self) -> Counter[str]:
        """How often each command was committed."""
        return Counter(item["command"] for item in self.journal() if item["op"] == "committed")


def plan(commands: int, *, name: str = "step", chained: bool = False) -> dict[str, Any]:
    """A plan of commands c0, c1, ...; ``chained``: each waits for the one before."""
    listed = [
        {
            "key": f"c{i}",
            "position": i,
            "name": name,
            "params": [i],
            "needs": [f"c{i - 1}"] if chained and i else [],
            "resources": {},
        }
        for i in range(commands)
    ]
    return {"fingerprint": hashlib.sha256(json.dumps(listed).encode()).hexdigest(), "commands": listed}


def start(store: Any, key: str) -> dict[str, Any]:
    """Start one attempt; returns its reference."""
    [number] = store.start([{"command": key, "position": int(key.strip("c") or 0), "node": "here", "pid": 1}])
    return {"command": key, "attempt": number}


def outcome(attempt: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A finished attempt, as ``commit`` takes it."""
    return {**attempt, "result": None, "artifacts": [], "structs": {}, "models_update": {}, "seconds": 1.0, **more}


def artifact(
    store: Any, attempt: Mapping[str, Any], content: bytes, assignment: Mapping[str, Any] = PARAMETERS, **names: Any
) -> Path:
    """Reserve and write one artifact."""
    path = Path(store.roots.absolute(store.reserve(attempt, assignment=assignment, **{"task": "t", "file": None, **names})))
    atomic.write_bytes(path, content)
    return path


def done(store: Any, key: str, result: Any = None) -> None:
    """Start and commit one command without artifacts."""
    [answer] = store.commit([outcome(start(store, key), result=result)])
    assert answer["status"] == "committed", answer


# -- a whole run -----------------------------------------------------------------------------------------------------------------------
def dead_owner(number: int) -> dict[str, Any]:
    """An owner on this machine that is not alive: this process, but for when it started."""
    return {**current_owner(), "start_time": f"ticks:-{number}"}


TRAINS, PREDICTS = ("train0", "train1"), ("predict0",)
WHOLE: dict[str, Any] = {
    "fingerprint": "whole",
    "commands": [
        {"key": "prepare", "position": 0, "name": "prepare", "params": [], "needs": []},
        {"key": "train0", "position": 1, "name": "train", "params": [0], "needs": []},
        {"key": "train1", "position": 2, "name": "train", "params": [1], "needs": []},
        {"key": "predict0", "position": 3, "name": "predict", "params": [0], "needs": ["train0"]},
        {"key": "finish", "position": 4, "name": "finish", "params": [], "barrier": 4, "needs": []},
    ],
}


def drive(
    world: World, *, owner: dict[str, Any] | None = None, persist: Callable[[Callable[[], Any]], Any] | None = None
) -> Iterator[tuple[str, ...]]:
    """Run the plan ``WHOLE`` to its end from wherever it stands; yields the keys of every group whose commit was acknowledged.

    It uses everything the store offers: numbered, plain and temporary artifacts, names that are reserved and not used, an attempt
    that fails, group commits, changes of a model storage, removal at the end.
    """
    keep = persist or _once
    begun = (world.run_dir / "journal.jsonl").exists()
    store = keep(lambda: world.open(owner=owner) if begun else world.create(owner=owner))
    if store.state.finished:
        store.close()
        return
    keep(lambda: store.set_plan(WHOLE))
    committed = set(store.committed())
    yield tuple(sorted(committed))
    for group in (("prepare",), TRAINS, PREDICTS, ("finish",)):
        todo = [key for key in group if key not in committed]
        if todo:
            _run_group(store, todo, keep)
            yield tuple(todo)
    keep(lambda: store.finish("finished", remove={"table": True}))
    store.close()
    yield ("finished",)


def _run_group(store: RunStore, keys: Sequence[str], keep: Callable[[Callable[[], Any]], Any]) -> None:
    positions = {entry["key"]: entry["position"] for entry in WHOLE["commands"]}
    if keys[0].startswith("train") and not store.state.attempts.get(keys[0]):  # an attempt that dies after it wrote something
        [number] = keep(lambda: store.start([{"command": keys[0], "position": positions[keys[0]], "node": "here", "pid": 1}]))
        dying = _Attempt(store, keys[0], number, keep)
        dying.outcome()
        dying.fail()
    requests = [{"command": key, "position": positions[key], "node": "here", "pid": 1} for key in keys]
    numbers = keep(lambda: store.start(requests))
    outcomes = [_Attempt(store, key, number, keep).outcome() for key, number in zip(keys, numbers, strict=True)]
    for answer in keep(lambda: store.commit(outcomes)):
        assert answer["status"] == "committed", answer


class _Attempt:
    """One attempt; with a driver that waits for space, the command is tried anew where the disk was full."""

    def __init__(self, store: RunStore, key: str, number: int, keep: Callable[[Callable[[], Any]], Any]) -> None:
        self.store, self.keep, self.reference = store, keep, {"command": key, "attempt": number}

    def outcome(self) -> dict[str, Any]:
        while True:
            try:
                paths, more = _work(self.store, self.reference)
                return outcome(self.reference, artifacts=publish_artifacts(paths), **more)
            except OSError as error:
                if error.errno != errno.ENOSPC or self.keep is _once:
                    raise
            self.fail()
            key = self.reference["command"]
            position = next(entry["position"] for entry in WHOLE["commands"] if entry["key"] == key)
            [self.reference["attempt"]] = self.keep(
                partial(self.store.start, [{"command": key, "position": position, "node": "here", "pid": 1}])
            )

    def fail(self) -> None:
        self.keep(lambda: self.store.fail([{**self.reference, "reason": "lost", "message": "for the test"}]))


def _once(call: Callable[[], Any]) -> Any:
    return call()


def _work(store: RunStore, reference: dict[str, Any]) -> tuple[list[Path], dict[str, Any]]:
    """What the command does; the same for every attempt at it."""
    key = reference["command"]
    if key.startswith("train"):
        return _train(store, reference, int(key[-1]))
    if key.startswith("predict"):
        model = store.task_state("t")["models"][0]
        table = artifact(store, reference, b"predictions", TEMP, file="predictions.txt")
        change = {"predictions": {"t": store.roots.stored(table)}, "append_metrics": [{"acc": 0.5}]}
        return [table], {"models_update": {model: change}, "result": {"rows": 3}}
    return [], {"result": key}


def _train(store: RunStore, reference: dict[str, Any], fold: int) -> tuple[list[Path], dict[str, Any]]:
    unused = Path(store.roots.absolute(store.reserve(reference, assignment=PARAMETERS, task="unused", file=None)))
    weights = artifact(store, reference, f"weights {fold}".encode() * 40)
    plain = artifact(store, reference, b"table", {**PLAIN, "template": f"PROJ_PATH/TABLES/table{fold}.txt"})
    content: dict[str, Any] = {
        "pipeline": None,
        "parameters": weights.name,
        "task": "t",
        "fold": fold,
        "metrics": [],
        "predictions": {},
    }
    storage = artifact(store, reference, (json.dumps(content, indent=2) + "\n").encode(), MODELS, file=f"fold_{fold}.json")
    structs = {
        "t": {"set_paths": {f"weights{fold}": store.roots.stored(weights)}, "append_models": [store.roots.stored(storage)]}
    }
    return [unused, weights, plain, storage], {"structs": structs, "result": [fold, float("nan")]}


def final_state(world: World) -> dict[str, Any]:
    """What an undisturbed run and one that was killed must agree on."""
    state = read_run(world.run_dir)
    assert verify(world.run_dir) == []
    commits = {
        key: {name: repr(commit[name]) for name in ("result", "artifacts", "structs", "models_update")}
        for key, commit in state.commits.items()
    }
    files = {
        path.relative_to(world.results).as_posix(): path.read_text().replace(state.run, "RUN")
        for path in sorted(world.results.rglob("*"))
        if path.is_file() and world.run_dir not in path.parents
    }
    left = sorted(
        p.relative_to(world.run_dir).as_posix() for p in world.run_dir.rglob("*") if p.parent.name != "claims" and p.is_file()
    )
    return {
        "commits": commits,
        "files": files,
        "left": left,
        "tasks": {t: state.task_state(t) for commit in state.commits.values() for t in commit["structs"]},
        "status": state.status,
    }


def exhaust(steps: Iterator[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Run a driver to its end."""
    return list(steps)


class Unsynced(atomic.FileSystem):
    """Does not wait for the disk: what a process wrote survives its being killed without that."""

    def fsync(self, descriptor: int) -> None:
        return None


def in_child(work: Callable[[], Any]) -> int:
    """Run ``work`` in a forked child; returns how it ended: 0, its exit code, or minus the signal that killed it."""
    _, status = os.waitpid(fork(work), 0)
    return os.waitstatus_to_exitcode(status)


def fork(work: Callable[[], Any]) -> int:
    """Run ``work`` in a forked child, whose process id this is, without waiting for its end."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid
