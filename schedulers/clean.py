"""The mode ``clean``: deletes leftovers of creations, downloads and caches. Shows sizes before anything is deleted."""

from __future__ import annotations

import contextlib
import glob
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omegaconf import DictConfig

from mml_ray.data.cache.node_folder import Claim, stores_of_node
from mml_ray.errors import CommandInterrupted, DataError, StorageError
from mml_ray.preflight.facts import ModeOptions
from mml_ray.registry import registry
from mml_ray.report.tables import Table
from mml_ray.schedulers.base import AbstractBaseScheduler, Handle
from mml_ray.schedulers.folds import base_of
from mml_ray.store.data_root import DATASET_PREFIX, DOWNLOADS, PREPROCESSED, RAW, WIP_MARKER
from mml_ray.tasks.header import read_header

#: a temporary file of this age does not belong to a living writer
_STALE_SECONDS = 60.0


class CleanOptions(ModeOptions):
    """Of the mode ``clean``."""

    force: bool = False
    all: bool = False


class CleanScheduler(AbstractBaseScheduler):
    """Subroutines: ``temp`` (temporary files, incomplete datasets), ``download`` (archives) and ``cache`` (what
    ``sampling.cache=auto`` stored on this node).

    ``mode.all``: of everything in the data root, not only of the given tasks. ``mode.force``: delete without asking. Files that
    a process is using are kept.
    """

    requires_tasks = False
    mode_options = CleanOptions
    uses = {"temp": (), "download": (), "cache": ()}

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__(cfg=cfg, available_subroutines=["temp", "download", "cache"])

    # -- the plan --------------------------------------------------------------------------------------------------------
    def create_routine(self) -> None:
        """Commands for tasks (``temp``) and datasets (all), in sequence, since they may ask, and a wrong answer ends the run."""
        names = sorted(self.fm.data.index()) if self.cfg.mode.all else [str(name) for name in self.cfg.task_list]
        tasks = list(dict.fromkeys(base_of(name) for name in names))
        known = [dataset for task in tasks if (dataset := self._dataset(task)) is not None]
        datasets = list(dict.fromkeys([*known, *(self._all_datasets() if self.cfg.mode.all else [])]))
        if not tasks and not datasets:
            print("There is nothing to clean, since no tasks are given. Choose some with tasks=..., or set mode.all=true.")
        steps: dict[str, list[tuple[Callable[[str], int], list[str]]]] = {
            "temp": [(self.clean_temp, tasks), (self.clean_unfinished, datasets)],
            "download": [(self.clean_download, datasets)],
            "cache": [(self.clean_cache, datasets)],
        }
        last: list[Handle] = []
        for subroutine, commands in steps.items():
            for command, chosen in commands if subroutine in self.subroutines else ():
                for name in chosen:
                    last = [self.add(command, name, after=last)]

    def _dataset(self, task: str) -> str | None:
        from mml_ray.prepare.create import dataset_of_task

        if (stored := self.fm.data.index().get(task)) is not None:
            return Path(next(iter(stored.values()))).parent.name.removeprefix(DATASET_PREFIX)
        source = self.cfg.get("source", None) or {}
        if registry.find("task_creator", task) is not None or source.get("name", None) == task:
            return dataset_of_task(task, dict(source))
        print(f"Task '{task}' is neither in the data root nor known to any creator, so its dataset is unknown.", file=sys.stderr)
        return None

    def _all_datasets(self) -> list[str]:
        """Every dataset with downloads, raw or preprocessed data, or a store on this node."""
        root = self.fm.data.path
        folders = [*root.glob(f"{RAW}/{DATASET_PREFIX}*"), *root.glob(f"{PREPROCESSED}/*/{DATASET_PREFIX}*")]
        downloads = [path.name for path in root.glob(f"{DOWNLOADS}/*") if path.is_dir()]
        if "cache" in self.subroutines:
            folders += [files for files in stores_of_node().values() if files.is_relative_to(root.resolve())]
        return sorted({*(path.name.removeprefix(DATASET_PREFIX) for path in folders), *downloads})

    # -- preview -----------------------------------------------------------------------------------------------------
    def prepare_exp(self) -> None:
        """Show what can be deleted before anything is."""
        rows = []
        seen: set[Path] = set()
        total = 0
        for command in self.plan.commands:
            title, paths = self._found(command.name, str(command.params[0]))
            found = set(paths) - seen
            seen |= found
            size = sum(map(_size, found))
            total += size
            if found:
                rows.append([title, str(len(found)), f"{size / 2**20:.1f}"])
        if rows:
            columns = ["what", "items", "MiB"]
            Table("Can be deleted", columns, rows, footer=[["all", "", f"{total / 2**20:.1f}"]]).print()
        self.after_preparation_hook()

    def before_finishing_hook(self) -> None:
        """Show how much was freed in total."""
        commands = (self.clean_temp, self.clean_unfinished, self.clean_download, self.clean_cache)
        freed = sum(int(size) for command in commands for size in self.results(command))
        print(f"Freed {freed / 2**20:.1f} MiB.")

    # -- the commands ------------------------------------------------------------------------------------------------------
    def clean_temp(self, task: str) -> int:
        """Delete the temporary descriptions of a task; returns the bytes freed."""
        return self._delete("clean_temp", task)

    def clean_unfinished(self, dataset: str) -> int:
        """Delete an incomplete dataset, raw or preprocessed, and temporary files in it; returns the bytes freed."""
        stores = [f"PP_{folder.parent.name}_{dataset}" for folder in self._stores(dataset)]
        return self._delete_locked("clean_unfinished", dataset, [f"DSET_{dataset}", *stores])

    def clean_download(self, dataset: str) -> int:
        """Delete the downloads of a dataset; returns the bytes freed."""
        return self._delete_locked("clean_download", dataset, [f"DSET_{dataset}"])

    def clean_cache(self, dataset: str) -> int:
        """Delete what ``sampling.cache=auto`` stored of a dataset on this node; returns the bytes freed."""
        with contextlib.ExitStack() as stack:
            for store in self._cached(dataset):
                claim = Claim(store)
                stack.callback(claim.release)
                if not claim.acquire():
                    print(f"The cache of dataset {dataset} is being filled right now, so it is kept.")
                    return 0
            return self._delete("clean_cache", dataset)

    # -- finding -----------------------------------------------------------------------------------------------------
    def _found(self, command: str, name: str) -> tuple[str, list[Path]]:
        """What a command deletes, in words and as paths."""
        title, find = {
            "clean_temp": ("temporary files of task", self._temporary),
            "clean_unfinished": ("unfinished files of dataset", self._unfinished),
            "clean_download": ("downloads of dataset", self._downloads),
            "clean_cache": ("cache on this node of dataset", self._cached),
        }[command]
        return f"{title} {name}", list(find(name))

    def _temporary(self, task: str) -> Iterator[Path]:
        """Temporary descriptions of the task."""
        root = self.fm.data.path
        for path in sorted([*root.glob(f"{RAW}/*/temp*.json"), *root.glob(f"{PREPROCESSED}/*/*/temp*.json")]):
            if _described_task(path) == task:
                yield path

    def _unfinished(self, dataset: str) -> Iterator[Path]:
        """Incomplete folders; in others, files of killed writers and unreadable temporary descriptions."""
        raw = self.fm.data.dataset_path(dataset)
        for folder in [raw, *self._stores(dataset)]:
            if (folder / WIP_MARKER).exists() or (folder != raw and not any(folder.glob("TASK*.json"))):
                yield folder
                continue
            yield from sorted(path for path in folder.glob("temp*.json") if _described_task(path) is None)
            leftovers = [*folder.glob(".*.tmp.*"), *folder.glob("*/.part-*.tmp.*")]
            yield from sorted(path for path in leftovers if time.time() - path.lstat().st_mtime > _STALE_SECONDS)

    def _stores(self, dataset: str) -> list[Path]:
        """The folders of preprocessed data of a dataset."""
        return sorted(self.fm.data.path.glob(f"{PREPROCESSED}/*/{DATASET_PREFIX}{glob.escape(dataset)}"))

    def _downloads(self, dataset: str) -> Iterator[Path]:
        folder = self.fm.data.download_path(dataset)
        if folder.exists():
            yield folder

    def _cached(self, dataset: str) -> Iterator[Path]:
        """The stores on this node that were filled from files of the dataset, raw or preprocessed."""
        data = self.fm.data.path.resolve()
        for store, files in stores_of_node().items():
            if files.name == f"{DATASET_PREFIX}{dataset}" and files.is_relative_to(data):
                yield store

    # -- deleting ----------------------------------------------------------------------------------------------------------
    def _delete_locked(self, command: str, dataset: str, locks: Sequence[str]) -> int:
        """As :meth:`_delete`; nothing while another process holds one of the locks."""
        with contextlib.ExitStack() as stack:
            try:
                for lock in locks:
                    stack.enter_context(self.fm.data.locked(lock, wait=False))
            except BlockingIOError:
                print(f"Dataset {dataset} is being created right now, so the {self._found(command, dataset)[0]} are kept.")
                return 0
            return self._delete(command, dataset)

    def _delete(self, command: str, name: str) -> int:
        title, paths = self._found(command, name)
        if not paths:
            return 0
        size = sum(map(_size, paths))
        print(f"{title}: {len(paths)} item(s), {size / 2**20:.1f} MiB")
        for path in paths[:20]:
            print(f"  {path} ({_size(path) / 2**20:.1f} MiB)")
        if len(paths) > 20:
            print(f"  and {len(paths) - 20} more")
        if not self.cfg.mode.force and not self._confirmed(size):
            print("Kept.")
            return 0
        _remove(paths)
        return size

    def _confirmed(self, size: int) -> bool:
        """Ask for confirmation; any answer but yes, no or an empty one ends the run."""
        print("Delete? [Y/n] ", end="", flush=True)
        while not select.select([sys.stdin], [], [], 0.2)[0]:
            if self.fm.should_stop():
                raise CommandInterrupted("The run was stopped; nothing of this was deleted.")
        line = sys.stdin.readline()
        if not sys.stdin.isatty():
            print(line.strip())
        if not line:
            raise StorageError(
                f"{size / 2**20:.1f} MiB were kept, since there is no terminal to ask on. To delete without asking, set mode.force=true."
            )
        answer = line.strip().lower()
        if answer not in ("", "y", "yes", "n", "no"):
            raise StorageError(f"{size / 2**20:.1f} MiB were kept, since '{answer}' is neither yes nor no.")
        return answer in ("", "y", "yes")


def _described_task(path: Path) -> str | None:
    """The task of a description, ``None`` if it cannot be read."""
    try:
        return read_header(path).name
    except DataError:
        return None


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{error.filename or path} could not be deleted: {error.strerror}.") from error


def _size(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(item.lstat().st_size for item in path.rglob("*") if not item.is_dir())
