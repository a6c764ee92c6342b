"""The methods of AbstractBaseScheduler, with the names and arguments that the document gives them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from mml_ray.api import compose_run
from mml_ray.schedulers.base import AbstractBaseScheduler
from mml_ray.store.manager import MMLFileManager

#: method -> parameters besides self, with their defaults as they are written
METHODS = {
    "__init__": "cfg, available_subroutines",
    "after_preparation_hook": "",
    "before_finishing_hook": "",
    "compare_schedule_entries": "entry_1, entry_2",
    "create_datamodule": "task_structs, fold=0",
    "create_model": "task_structs, task_weights=None, load_parameters=None",
    "create_routine": "",
    "create_trainer": "monitor=None, metrics_callback=False",
    "finish_exp": "",
    "get_checkpoints_dir": "",
    "get_struct": "task_name",
    "highlight_text": "text",
    "lightning_tune": "trainer, model, datamodule, train_dataloaders=None",
    "prepare_exp": "",
    "run": "",
    "set_active_naming": "command_ix",
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_what_the_document_says(name: str) -> None:
    parameters = list(inspect.signature(getattr(AbstractBaseScheduler, name)).parameters.values())
    written = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters if p.name != "self"]
    assert ", ".join(written) == METHODS[name]


def test_the_static_and_the_abstract_method_are_what_they_should_be() -> None:
    assert AbstractBaseScheduler.__abstractmethods__ == {"create_routine"}
    compare = AbstractBaseScheduler.compare_schedule_entries
    assert compare("method: a / [<X object at 0x7f01>]", "method: a / [<X object at 0x7f02>]")
    assert not compare("method: a / ['one']", "method: a / ['two']")


class Noted(AbstractBaseScheduler):
    """One step that uses what a step may use without data."""

    requires_tasks = False

    def __init__(self, cfg: object) -> None:
        super().__init__(cfg=cfg, available_subroutines=["tasks", "hpo", "samples", "models"])  # type: ignore[arg-type]

    def create_routine(self) -> None:
        self.commands.append(self.step)
        self.params.append([1])

    def prepare_exp(self) -> None:
        self.after_preparation_hook()

    def step(self, number: int) -> list[str]:
        return [self.active_step_naming, str(self.get_checkpoints_dir()), str(self.status_log), self.highlight_text("x")]

    def before_finishing_hook(self) -> None:
        self.return_value = 2.5


def test_the_attributes_of_a_run(tmp_path: Path) -> None:
    cfg = compose_run(["info", f"out_dir={tmp_path}/r", f"data_dir={tmp_path}/d", "sys.executor=inline"]).cfg
    scheduler = Noted(cfg)
    try:
        assert (scheduler.pivot, scheduler.continue_status, scheduler.return_value) == (False, False, None)
        assert scheduler.active_step_naming == "init"
        scheduler.set_active_naming(0)
        assert scheduler.active_step_naming.startswith("step--1")
        assert scheduler.run() == 2.5
        (run,) = (tmp_path / "r/default/runs").glob("*/*")
        content = (run / "journal.jsonl").read_text()
        for said in (f"{run}/CHECKPOINTS/step--1", f"{run}/journal.jsonl", '"x"'):
            assert said in content
    finally:
        MMLFileManager.clear_instance()
