"""A training that goes on at any batch sees what an undisturbed one would have seen, bit for bit."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import psutil
import pytest
import torch

from mml_ray.data.datamodule import MultiTaskDataModule
from tests.data import made
from tests.patience import promised


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*num_workers.*")
        warnings.filterwarnings("ignore", message=".*logging interval.*")
        warnings.filterwarnings("ignore", message=".*checkpoint directory.*")
        yield


def module(root: Path, *, workers: int = 0, tasks: int = 1, seed: int = 1) -> MultiTaskDataModule:
    made_tasks = [made.data_task("classification", root / "a", count=16)]
    if tasks > 1:
        made_tasks.append(made.data_task("segmentation", root / "b", count=8))
    return MultiTaskDataModule(made_tasks, options=made.options(batch_size=3 * tasks, workers=workers, seed=seed))


def fingerprint(batch: dict[str, dict[str, Any]]) -> list[Any]:
    return [
        (task, fields["sample_id"], fields["image"].numpy().tobytes(), fields["targets"].numpy().tobytes())
        for task, fields in batch.items()
    ]


def run(data: MultiTaskDataModule, epochs: int) -> list[Any]:
    seen = []
    loader = data.train_dataloader()
    for epoch in range(epochs):
        seen += [(epoch, index, fingerprint(batch)) for index, batch in enumerate(loader)]
    data.close()
    return seen


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_number_of_loader_processes_changes_nothing(tasks: int, tmp_path: Path) -> None:
    expected = run(module(tmp_path, tasks=tasks), 2)
    assert expected == run(module(tmp_path, tasks=tasks, workers=2), 2)
    assert [f for _, _, f in expected[: len(expected) // 2]] != [f for _, _, f in expected[len(expected) // 2 :]]


def test_another_seed_is_another_order_and_augmentation(tmp_path: Path) -> None:
    one, other = (run(module(tmp_path, seed=seed), 1) for seed in (1, 2))
    assert one != other and sorted(sum((f[0][1] for _, _, f in one), [])) == sorted(sum((f[0][1] for _, _, f in other), []))


def test_resume_at_every_batch(tmp_path: Path) -> None:
    whole = module(tmp_path, tasks=2)
    length = len(whole.train_dataloader())
    expected = run(whole, 3)
    for start in range(length * 2 + 1):
        data = module(tmp_path, tasks=2)
        data.resume(*divmod(start, length))
        loader = data.train_dataloader()
        assert len(loader) == length, "the length is that of a whole epoch"
        seen = [f for _ in range(3 - start // length) for f in map(fingerprint, loader)]
        assert seen == [f for _, _, f in expected[start:]], f"resumed after {start} batches"


def test_state_of_a_loader_continues_in_another(tmp_path: Path) -> None:
    expected = run(module(tmp_path), 2)
    loader = module(tmp_path).train_dataloader()
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    state = loader.state_dict()
    assert state == {"epoch": 0, "batch": 2}
    other = module(tmp_path, workers=1)
    continued = other.train_dataloader()
    continued.load_state_dict(state)
    seen = [fingerprint(batch) for _ in range(2) for batch in continued]
    other.close()
    assert seen == [f for _, _, f in expected[2:]]


def test_an_abandoned_epoch_leaves_no_trace(tmp_path: Path) -> None:
    expected = [f for _, _, f in run(module(tmp_path), 2)]
    data = module(tmp_path, workers=2)
    loader = data.train_dataloader()
    next(iter(loader))
    loader.set_epoch(1)
    assert [fingerprint(batch) for batch in loader] == expected[len(expected) // 2 :]
    data.close()


class Recorder(pl.LightningModule):
    """Records the batches it is trained on, and trains."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.seen: list[Any] = []
        self.stop_after = stop_after

    def training_step(self, batch: dict[str, dict[str, Any]], batch_idx: int) -> torch.Tensor:
        if self.stop_after is not None and len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        self.seen.append((self.current_epoch, batch_idx, fingerprint(batch)))
        fields = batch["made_classification"]
        return torch.nn.functional.cross_entropy(self.layer(fields["image"].mean((2, 3))), fields["targets"])

    def validation_step(self, batch: dict[str, dict[str, Any]], batch_idx: int) -> None:
        assert batch["made_classification"]["dataset_type"] == "val"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(root: Path, *callbacks: pl.Callback, **others: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=bool(callbacks), callbacks=list(callbacks),
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=root, **others,
    )  # fmt: skip


class SaveAt(pl.callbacks.Checkpoint):
    """Saves after one training batch, as a checkpoint by time would; or at the end of an epoch."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if -self.step == trainer.current_epoch + 1:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 8, -1, -2])
@pytest.mark.parametrize("announce", [True, False])
def test_lightning_continues_at_the_very_batch(step: int, announce: bool, tmp_path: Path) -> None:
    whole = Recorder()
    torch.manual_seed(0)
    start = {key: value.clone() for key, value in whole.state_dict().items()}
    trainer(tmp_path, SaveAt(tmp_path / "at.ckpt", step)).fit(whole, datamodule=module(tmp_path))
    length = len(whole.seen) // 3
    assert length == 3 and [(epoch, batch) for epoch, batch, _ in whole.seen] == [(e, b) for e in range(3) for b in range(length)]

    done = step if step > 0 else -step * length
    again = Recorder()
    again.load_state_dict(start)
    data = module(tmp_path, workers=1)
    if announce:  # as from a checkpoint that knows nothing of the loader
        checkpoint = torch.load(tmp_path / "at.ckpt", weights_only=True)
        del checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        torch.save(checkpoint, tmp_path / "at.ckpt")
        data.resume(*divmod(done, length))
    trainer(tmp_path).fit(again, datamodule=data, ckpt_path=tmp_path / "at.ckpt", weights_only=True)
    data.close()
    assert again.seen == whole.seen[done:]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_limited_epochs_go_on_with_the_right_order(tmp_path: Path) -> None:
    whole, limited = Recorder(), Recorder()
    trainer(tmp_path).fit(whole, datamodule=module(tmp_path))
    trainer(tmp_path, limit_train_batches=2).fit(limited, datamodule=module(tmp_path, workers=1))
    assert limited.seen == [record for record in whole.seen if record[1] < 2]


_CHILD = """
import sys, time
from pathlib import Path
from mml_ray.data.datamodule import MultiTaskDataModule
from tests.data import made
data = MultiTaskDataModule([made.data_task("classification", Path(sys.argv[1]))], options=made.options(batch_size=1, workers=2))
batches = iter(data.train_dataloader())
next(batches)
print(*[worker.pid for worker in data.train_dataloader().torch_loader._iterator._workers], flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_loader_processes_die_with_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + promised(3)
    while time.monotonic() < deadline and any(_alive(pid) for pid in workers):
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="the sender of a signal is told on Linux")
def test_a_sigterm_for_everybody_ends_no_loader_process(tmp_path: Path) -> None:
    """The training is to stop behind a checkpoint, for which it needs them."""
    data = module(tmp_path, workers=2)
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    workers = [child.pid for child in psutil.Process().children() if child.name() == "pt_data_worker"]
    assert len(workers) == 2
    subprocess.run(["sh", "-c", f"kill -TERM {' '.join(map(str, workers))}"], check=True)
    time.sleep(0.1)
    assert all(_alive(pid) for pid in workers)
    assert len(list(batches)) == len(loader) - 1
    data.close()
    assert not any(_alive(pid) for pid in workers)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX" and os.kill(pid, 0) is None
    except (OSError, ProcessLookupError):
        return False
