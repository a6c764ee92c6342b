"""Commands on a real Ray of two CPUs and two pretended GPUs: what they hold, see, leave, and how their processes are used again."""

from __future__ import annotations

import logging
import os
import pickle
import platform
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mml_ray import api, plugins
from mml_ray.cli import main
from mml_ray.driver.executor import FailurePolicy
from mml_ray.driver.graph import Entry, build_plan
from mml_ray.driver.ray import executor as on_ray
from mml_ray.driver.resources import Resources
from mml_ray.errors import InfeasibleResourcesError, MMLMisconfigurationException
from mml_ray.schedulers.base import AbstractBaseScheduler
from mml_ray.store import assignments
from mml_ray.store.manager import MMLFileManager
from mml_ray.store.run.store import read_run
from tests.chaos.lab import PROJECT, Lab
from tests.driver import arena as arena_module
from tests.driver.arena import Arena, Methods, by_value
from tests.patience import GUARD, promised

pytestmark = [pytest.mark.ray]


class Work(Methods):
    """What the commands of these tests do."""

    def __init__(self, meeting: Path | None = None) -> None:
        self.meeting = meeting

    def look(self, *_: Any) -> dict[str, Any]:
        """Where it runs, and the GPUs it sees."""
        return {"pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}

    def meet(self, number: int, partners: int) -> dict[str, Any]:
        """Wait until all partners are here: that many run side by side."""
        assert self.meeting is not None
        (self.meeting / str(number)).touch()
        deadline = time.monotonic() + GUARD
        while len(list(self.meeting.iterdir())) < partners:
            if time.monotonic() > deadline:
                raise TimeoutError("the others do not come")
            time.sleep(0.02)
        return self.look()

    def load_a_gpu_library(self, *_: Any) -> dict[str, Any]:
        """As an import of torch would."""
        sys.modules.setdefault("cupy", os)
        return self.look()

    def threads(self, *_: Any) -> dict[str, Any]:
        """What thread pools are told."""
        import cv2
        import torch

        from mml_ray.driver.worker import prepare_torch

        prepare_torch()
        omp = os.environ["OMP_NUM_THREADS"]
        return {"omp": omp, "torch": torch.get_num_threads(), "cv2": cv2.getNumThreads(), "pid": os.getpid()}

    def talk(self, *_: Any) -> None:
        """To all who listen."""
        print("printed words")
        print("on stderr", file=sys.stderr)
        logging.getLogger("somebody.else").warning("a record")
        time.sleep(1.5)  # longer than the display's look at the logs

    def draw(self, *_: Any) -> list[float]:
        """Random numbers of all generators."""
        import random

        import numpy

        return [random.random(), float(numpy.random.random())]

    def fail(self, mistake: bool) -> None:
        """With an error of its own, or of the user."""
        self._deeper(mistake)

    def _deeper(self, mistake: bool) -> None:
        raise MMLMisconfigurationException("use another value") if mistake else ZeroDivisionError("nothing to divide by")

    def plugins_seen(self) -> int:
        """How often plugins were loaded in this process."""
        return plugins.load.cache_info().currsize

    def nap(self, number: int) -> list[float]:
        """A second; when it began and ended."""
        began = time.time()
        time.sleep(1)
        return [began, time.time()]

    def noop(self, number: int) -> int:
        """Nothing."""
        return number


@pytest.fixture
def arena(shared_ray: Any, tmp_path: Path) -> Arena:
    by_value(__name__, arena_module)
    return Arena(tmp_path, shared_ray.nodes())


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    folder = tmp_path / "meeting"
    folder.mkdir()
    return folder


def _chain(name: str, count: int, first: int = 0) -> list[Entry]:
    """Commands one after the other."""
    return [Entry(name, [number], after=[number - 1] if number > first else []) for number in range(first, first + count)]


# -- outcomes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stalled", [True, False])
def test_a_command_that_was_cancelled_for_its_silence_has_stalled(stalled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another node than the driver's it can only be cancelled; that costs a retry, and is no interruption."""
    import ray

    (spec,) = build_plan([Entry("look", [1])], scheduler="s").commands
    executor = object.__new__(on_ray.RayExecutor)
    executor._in_flight, executor._stalled, executor._is_forced = (
        {"reference": (spec, 1, 0)},
        {spec.key} if stalled else set(),
        False,
    )

    def cancelled(_: Any) -> None:
        raise ray.exceptions.TaskCancelledError

    monkeypatch.setattr(ray, "get", cancelled)
    outcome = executor._outcome("reference")
    assert outcome is not None and outcome.status == ("stalled" if stalled else "interrupted")
    assert not executor._stalled, "another attempt has not stalled"


# -- GPUs --------------------------------------------------------------------------------------------------------------
def test_whole_gpus_are_held_side_by_side_and_each_command_sees_its_own(arena: Arena, meeting: Path) -> None:
    ran = arena.run(Work(meeting), [Entry("meet", [n, 2], after=[]) for n in range(2)], ask={"num_gpus": 1.0})
    assert ran.summary.exit_code == 0
    assert sorted(result["gpus"] for result in ran.results) == ["0", "1"]


def test_halves_of_one_gpu_run_side_by_side(arena: Arena, meeting: Path) -> None:
    ran = arena.run(Work(meeting), [Entry("meet", [n, 2], after=[]) for n in range(2)], ask={"num_gpus": 0.5})
    assert ran.summary.exit_code == 0
    assert {result["gpus"] for result in ran.results} in ({"0"}, {"1"}), "two halves are one GPU"


def test_a_command_sees_all_gpus_it_asked_for_and_none_if_it_asked_for_none(arena: Arena) -> None:
    entries = [Entry("look", ["both"], after=[]), Entry("look", ["none"], after=[0])]
    ran = arena.run(Work(), entries, ask=lambda spec: Resources(num_gpus=2.0 if spec.params == ("both",) else 0.0))
    assert sorted(ran.results[0]["gpus"]) == [",", "0", "1"]
    assert ran.results[1]["gpus"] == ""


@pytest.mark.parametrize("num_gpus", [0.0, 1.0])
def test_processes_are_used_again(arena: Arena, num_gpus: float) -> None:
    ran = arena.run(Work(), _chain("look", 6), ask={"num_gpus": num_gpus})
    pids = [result["pid"] for result in ran.results]
    assert len(pids) == 6 and len(set(pids)) <= 2, "a process for each command costs seconds of imports"


def test_a_process_that_holds_on_to_its_gpus_gets_no_command_with_others(arena: Arena) -> None:
    """CUDA reads the variable once: in such a process a command would run on the GPU of another one."""
    names = ["load_a_gpu_library", "look", "look"]
    entries = [Entry(name, [number], after=[number - 1] if number else []) for number, name in enumerate(names)]
    ran = arena.run(Work(), entries, ask=lambda spec: Resources(num_gpus=(1.0, 2.0, 0.0)[spec.params[0]]))
    first, second, third = ran.results
    assert len(first["gpus"]) == 1 and len(second["gpus"]) == 3 and third["gpus"] == ""
    assert len({first["pid"], second["pid"], third["pid"]}) == 3
    assert [line["attempt"] for line in ran.of("attempt_started")] == [1, 1, 1] and not ran.of("attempt_failed")


# -- other resources ---------------------------------------------------------------------------------------------------
def test_custom_resources_that_no_node_has_are_refused(arena: Arena) -> None:
    with pytest.raises(
        InfeasibleResourcesError, match=r"'noop' asks for 1 CPU, 1 microscope, which no node can hold.*2 CPU, 2 GPU"
    ):
        arena.run(Work(), [Entry("noop", [1])], ask={"custom": (("microscope", 1.0),)})


def test_labels_choose_a_node_and_wrong_ones_are_refused(arena: Arena) -> None:
    labels = dict(arena.nodes[0].labels)
    name = "ray.io/node-id"
    assert arena.run(Work(), [Entry("noop", [7])], ask={"label_selector": ((name, labels[name]),)}).results == [7]
    assert arena.run(Work(), [Entry("noop", [8])], ask={"label_selector": ((name, "!elsewhere"),)}).results == [8]
    with pytest.raises(InfeasibleResourcesError, match="node-id=elsewhere"):
        arena.run(Work(), [Entry("noop", [9])], ask={"label_selector": ((name, "elsewhere"),)})


def test_memory_is_held(arena: Arena) -> None:
    """Two commands that ask for most of the node's memory each never run side by side."""
    most = int(arena.nodes[0].memory * 0.6)
    ran = arena.run(Work(), [Entry("nap", [number], after=[]) for number in range(2)], ask={"memory": most})
    assert ran.summary.exit_code == 0
    first, second = sorted(ran.results)
    assert first[1] <= second[0], "one ended before the other began"


# -- surroundings ------------------------------------------------------------------------------------------------------
def test_thread_pools_have_as_many_threads_as_the_command_has_cpus(arena: Arena) -> None:
    ran = arena.run(Work(), _chain("threads", 2), ask=lambda spec: Resources(num_cpus=2.0 - spec.params[0]))
    two, one = ran.results
    assert (two["omp"], two["torch"], two["cv2"]) == ("2", 2, 2)
    assert (one["omp"], one["torch"], one["cv2"]) == ("1", 1, 1)


def test_what_a_command_says_is_in_its_log_and_shown_with_its_name(arena: Arena) -> None:
    ran = arena.run(Work(), [Entry("talk", ["loud"])])
    log = ran.log("talk")
    assert log.startswith("--- attempt 1, process ")
    for said in ("printed words\n", "on stderr\n", "WARNING somebody.else: a record"):
        assert said in log
    shown = [line for line in ran.shown.splitlines() if "printed words" in line]
    assert len(shown) == 1 and shown[0].lstrip().startswith("talk loud"), ran.shown


def test_the_journal_names_node_and_process_of_each_attempt(arena: Arena) -> None:
    ran = arena.run(Work(), [Entry("look", [1]), Entry("fail", [False])], policy=FailurePolicy(backoff=0.05))
    ends = ran.of("committed") + ran.of("attempt_failed")
    assert len(ends) == 2 and {line["node"] for line in ends} == {platform.node()}
    assert ends[0]["pid"] == ran.results[0]["pid"] and ends[1]["pid"] > 0
    attempts = read_run(ran.run_dir).attempts.values()
    assert {(item.node, item.pid) for (item,) in attempts} == {(line["node"], line["pid"]) for line in ends}


def test_an_exception_comes_back_once_with_its_traceback(arena: Arena) -> None:
    import ray

    ran = arena.run(Work(), [Entry("fail", [False]), Entry("noop", [1])])
    assert ran.summary.exit_code == 1 and len(ran.summary.skipped) == 1
    (outcome,) = ran.summary.failures.values()
    assert outcome.error["type"] == "ZeroDivisionError" and outcome.error["message"] == "nothing to divide by"
    text = outcome.error["traceback"]
    assert text.count("Traceback (most recent call last)") == 1 and "_deeper" in text
    assert os.path.dirname(ray.__file__) not in text
    assert "_deeper" in ran.log("fail")
    assert [line["reason"] for line in ran.of("attempt_failed")] == ["failed"], "no retry was asked for"


def test_a_mistake_of_the_user_is_told_apart_and_retries_are_counted(arena: Arena) -> None:
    ran = arena.run(Work(), [Entry("fail", [True])], policy=FailurePolicy(retries_exception=2, backoff=0.05))
    assert ran.summary.exit_code == 2
    assert [line["attempt"] for line in ran.of("attempt_failed")] == [1, 2, 3]
    assert ran.log("fail").count("--- attempt") == 3


def test_plugins_are_loaded_before_the_first_command(arena: Arena) -> None:
    assert arena.run(Work(), [Entry("plugins_seen", [])]).results == [1]


def test_random_numbers_are_those_of_an_inline_run(arena: Arena, tmp_path: Path) -> None:
    entries = [Entry("draw", [number], after=[]) for number in range(4)]
    on_ray = arena.run(Work(), entries).results
    inline = Arena(tmp_path / "inline").run(Work(), entries).results
    assert on_ray == inline and len({str(drawn) for drawn in on_ray}) == 4
    assert arena.run(Work(), entries[:1], seed=43).results[0] != on_ray[0]


def test_two_hundred_commands_are_committed_once_each(arena: Arena) -> None:
    ran = arena.run(Work(), [Entry("noop", [number], after=[]) for number in range(200)])
    assert ran.summary.exit_code == 0 and ran.results == list(range(200))
    committed = [line["command"] for line in ran.of("committed")]
    assert len(committed) == len(set(committed)) == 200
    assert all(line["attempt"] == 1 for line in ran.of("attempt_started"))


# -- schedulers --------------------------------------------------------------------------------------------------------
class Carrier(AbstractBaseScheduler):
    """One command leaves things in all the ways there are, another looks what of it arrived."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg=cfg, available_subroutines=["all"])

    def create_routine(self) -> None:
        """Two commands."""
        self.add(self.look_back, "after", after=[self.add(self.leave, "first", after=[])])

    def after_preparation_hook(self) -> None:
        """In the driver, before all commands."""
        self.prepared = ["here"]

    def leave(self, text: str) -> dict[str, Any]:
        """A file on the struct, an attribute, a result."""
        path = self.fm.construct_saving_path(text, "carried", task_name="toy")
        path.write_text(text)
        self.get_struct("toy").paths["carried"] = path
        self.memory = text
        self.prepared.append("changed")
        return {"pid": os.getpid(), "text": text}

    def look_back(self, _: str) -> dict[str, Any]:
        """What is here."""
        found = self.get_struct("toy").paths["carried"].read_text()
        attributes = [getattr(self, "memory", None), self.prepared]
        return {"file": found, "attributes": attributes, "results": [item["text"] for item in self.results(self.leave)]}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab.at(tmp_path / "lab")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(assignments, "_table", dict(assignments.assignments()))  # each test adds its own
    return made


def test_results_and_structs_travel_and_attributes_do_not(arena: Arena, lab: Lab) -> None:
    MMLFileManager.add_assignment_path(None, "carried", "PROJ_PATH/CARRIED/TASK_NAME/carried.txt")
    scheduler = Carrier(api.compose_run(["chaos", f"proj={PROJECT}", "sys.executor=ray", "sys.num_cpus=2"]).cfg)
    assert scheduler.create_session().run().exit_code == 0
    left, seen = (commit["result"] for key, commit in read_run(lab.run).commits.items() if key.startswith(("leave", "look")))
    assert left["pid"] != os.getpid()
    assert seen == {"file": "first", "attributes": [None, ["here"]], "results": ["first"]}
    assert not hasattr(scheduler, "memory") and scheduler.prepared == ["here"]
    (log,) = (lab.run / "logs").glob("leave--*.log")
    for name in ("memory", "prepared"):
        assert f"set self.{name}, which does not travel back" in log.read_text()


# -- the group resources -----------------------------------------------------------------------------------------------
def _refused(lab: Lab, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a run that does not start, in less than five seconds, and leaves nothing."""
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignments, "_table", dict(assignments.assignments()))
        assert main(["chaos", f"proj={PROJECT}", *arguments]) == 2
    assert time.monotonic() - began < promised(5)
    assert not list(lab.results.rglob("journal.jsonl"))
    return capsys.readouterr().err


def test_a_misspelt_command_is_refused_with_the_nearest_names(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    message = _refused(lab, capsys, "resources.fitt.num_gpus=1")
    assert "Unknown command in resources 'fitt'. Did you mean: fit?" in message
    assert "resources.fit.num_gpus" in _refused(lab, capsys, "resources.fit.num_gpus=some")


def test_what_no_node_can_hold_is_refused_with_the_sizes_of_this_machine(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    message = _refused(lab, capsys, "resources.fit.num_gpus=9", "sys.num_cpus=2", "sys.num_gpus=1", "sys.executor=ray")
    assert "'fit' asks for" in message and "9 GPU" in message and "The largest node has this machine: 2 CPU, 1 GPU" in message


@pytest.mark.parametrize(
    ("setting", "asked"), [("num_gpus=9", "9 GPU"), ("memory=9TB", "9216.0 GiB"), ("custom={microscope:1}", "1 microscope")]
)
def test_what_no_node_can_hold_is_refused_with_the_sizes_of_the_cluster(
    arena: Arena, lab: Lab, capsys: pytest.CaptureFixture[str], setting: str, asked: str
) -> None:
    message = _refused(lab, capsys, f"resources.fit.{setting}", "sys.executor=ray", "sys.address=auto")
    assert asked in message and f"The largest node has {arena.nodes[0].name}: 2 CPU, 2 GPU" in message


def test_settings_for_commands_of_other_modes_are_told_not_refused(
    arena: Arena, lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chaos", f"proj={PROJECT}", "resources.calibrate.num_gpus=1", "sys.executor=inline"]) == 0
    assert "resources.calibrate is not used" in capsys.readouterr().err


# -- the configuration that travels ------------------------------------------------------------------------------------
def test_a_configuration_travels_with_its_references_and_without_needing_the_environment(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference follows what a blueprint replaces; what a resolver gives is read in the driver."""
    odd = r"a${b\${c"
    monkeypatch.setenv("ONLY_IN_THE_DRIVER", odd)
    given = ["+mode.twin=${mode.steps}", "+mode.listed=['${oc.env:ONLY_IN_THE_DRIVER}']", "+mode.none=${oc.env:NOT_SET,null}"]
    scheduler = Carrier(api.compose_run(["chaos", f"proj={PROJECT}", *given]).cfg)
    sent = pickle.dumps(scheduler)
    monkeypatch.delenv("ONLY_IN_THE_DRIVER")
    monkeypatch.setenv("NOT_SET", "here it is")
    arrived = pickle.loads(sent).cfg
    assert list(arrived.mode.listed) == [odd] and arrived.mode.none is None
    arrived.mode.steps = 77
    assert arrived.mode.twin == 77


def test_a_training_writes_the_same_pipeline_inline_and_on_ray(
    arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignments, "_table", dict(assignments.assignments()))
    monkeypatch.setenv("ONLY_IN_THE_DRIVER", "0.007")
    places = [f"data_dir={tmp_path / 'data'}", f"out_dir={tmp_path / 'results'}", "tasks=digits", "num_workers=0"]
    assert main(["create", *places, "sys.executor=inline"]) == 0
    short = ["trainer.max_epochs=1", "mode.cv=false", "mode.nested=false"]
    short += [f"+trainer.limit_{part}_batches=1" for part in ("train", "val")]
    what = ["lr_scheduler=cosine", "optimizer.lr='${oc.decode:${oc.env:ONLY_IN_THE_DRIVER}}'"]
    written = []
    for executor in ("inline", "ray"):
        project = tmp_path / "results" / executor
        assert main(["train", *places, *short, *what, f"sys.executor={executor}", f"proj={executor}"]) == 0
        (pipeline,) = (project / "PIPELINES").glob("*/*.yaml")
        written.append(pipeline.read_text())
    assert written[0] == written[1]
    assert "T_max: ${trainer.max_epochs}" in written[0] and "lr: 0.007" in written[0]
