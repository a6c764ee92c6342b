"""From archives to a dataset folder.

::

    creator = DSetCreator("my_scans")
    creator.download(url, "scans.zip", data_kind=DataKind.TRAINING_DATA, md5sum="...")
    dset_path = creator.unpack_and_store()
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mml_ray import atomic
from mml_ray.errors import DataError, MMLMisconfigurationException, StorageError
from mml_ray.prepare.archives import DataArchive, DataKind, Limits, extract
from mml_ray.prepare.checks import masks as mask_rules
from mml_ray.prepare.context import current, default_workers
from mml_ray.prepare.download import fetch, kaggle_credentials
from mml_ray.prepare.torch_datasets import extract_dataset
from mml_ray.store.data_root import DATASET_PREFIX, WIP_MARKER, DataRoot, writing
from mml_ray.tasks.attributes import TaskType

log = logging.getLogger(__name__)
KAGGLE_URL = "https://www.kaggle.com/api/v1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


def check_source(path: Path, target: Path, where: str) -> None:
    """Raise :class:`DataError` for raw data that is not there, or a folder that holds the ``target``: a copy would never end."""
    if not path.exists():
        raise DataError(f"{where} must be an existing file or folder, got {path}.")
    if target.resolve().is_relative_to(path.resolve()):
        raise DataError(
            f"{where} must not contain the folder to which it is copied, but {path} contains {target}. Name the folder of the "
            "images alone, or put the data root elsewhere: data_dir=..., or MML_DATA_PATH."
        )


class DSetCreator:
    """Collects archives and unpacks them into one dataset. Needs a data root: that of the running creation, or ``data_root``."""

    def __init__(
        self,
        dset_name: str,
        *,
        download_path: Path | None = None,
        dset_path: Path | None = None,
        data_root: DataRoot | None = None,
    ) -> None:
        if not _NAME.fullmatch(dset_name):
            raise MMLMisconfigurationException(
                f"The name of a dataset must be up to 60 letters, digits and . _ - without blanks, got {dset_name!r}."
            )
        self.dset_name = dset_name
        self.archives: list[DataArchive] = []
        self._context = current()
        self._root = data_root or (self._context.data_root if self._context is not None else None)
        if download_path is not None and not download_path.is_dir():
            raise MMLMisconfigurationException(f"The download folder {download_path} does not exist.")
        if dset_path is not None and DATASET_PREFIX not in dset_path.name:
            raise MMLMisconfigurationException(f"The name of a dataset folder must start with {DATASET_PREFIX}, got {dset_path}.")
        self.download_path = download_path or self._data_root.download_path(dset_name)
        self.dset_path = dset_path

    @property
    def _data_root(self) -> DataRoot:
        if self._root is None:
            raise MMLMisconfigurationException(
                "A DSetCreator outside of mml-ray create needs a data root: pass data_root=DataRoot(<folder>)."
            )
        return self._root

    @property
    def _workers(self) -> int:
        return self._context.workers if self._context is not None else default_workers()

    # -- archives --------------------------------------------------------------------------------------------------------
    def download(
        self, url: str, file_name: str, *, data_kind: DataKind = DataKind.MIXED_DATA, md5sum: str | None = None, **options: Any
    ) -> DataArchive:
        """Download a file, resuming an earlier attempt. ``options`` are those of :class:`DataArchive`."""
        path = self._new_file(file_name)
        fetch(url, path, checksum=md5sum, progress=self._context.progress if self._context is not None else None)
        return self._add(DataArchive(path, DataKind(data_kind), md5sum, **options))

    def kaggle_download(
        self,
        *,
        competition: str | None = None,
        dataset: str | None = None,
        data_kind: DataKind = DataKind.MIXED_DATA,
    ) -> DataArchive:
        """Download a competition's files or a dataset (``<owner>/<name>``) from Kaggle; needs credentials."""
        if (competition is None) == (dataset is None):
            raise MMLMisconfigurationException("kaggle_download needs either a competition or a dataset.")
        name = competition or str(dataset)
        path = self._new_file(f"kaggle/{name.rpartition('/')[2]}.zip")
        what = f"competitions/data/download-all/{name}" if competition else f"datasets/download/{name}"
        progress = self._context.progress if self._context is not None else None
        fetch(f"{KAGGLE_URL}/{what}", path, auth=kaggle_credentials(), progress=progress)
        return self._add(DataArchive(path, DataKind(data_kind)))

    def verify_pre_download(
        self,
        file_name: str,
        instructions: str,
        *,
        data_kind: DataKind = DataKind.MIXED_DATA,
        md5sum: str | None = None,
        **options: Any,
    ) -> DataArchive:
        """Use a file (or folder) that the user has put into the download folder; raises with ``instructions`` if it is missing."""
        path = self._new_file(file_name)
        if not path.exists():
            raise DataError(f"{path} is missing. {' '.join(instructions.split())}")
        archive = DataArchive(path, DataKind(data_kind), md5sum, **options)
        archive.verify()
        return self._add(archive)

    def use_source(self, path: Path | str, *, data_kind: DataKind = DataKind.MIXED_DATA, **options: Any) -> DataArchive:
        """Use an archive, file or folder in its place; it is copied or unpacked, never changed."""
        found = Path(path).expanduser()
        check_source(found, self.dset_path or self._data_root.path, "source")
        return self._add(DataArchive(found, DataKind(data_kind), **options))

    def _new_file(self, file_name: str) -> Path:
        if Path(file_name).is_absolute() or ".." in Path(file_name).parts:
            raise MMLMisconfigurationException(
                f"The name of a download must be a file within the download folder, got {file_name!r}."
            )
        return self.download_path / file_name

    def _add(self, archive: DataArchive) -> DataArchive:
        if any(known.path == archive.path for known in self.archives):
            raise DataError(f"{archive.path} has already been added to dataset '{self.dset_name}'.")
        self.archives.append(archive)
        return archive

    # -- the dataset -----------------------------------------------------------------------------------------------------
    def unpack_and_store(self, *, clear_download_folder: bool = False) -> Path:
        """Unpack all archives into the folders named after their kind; returns the dataset folder."""
        if not self.archives:
            raise DataError(f"Dataset '{self.dset_name}' has no archives to unpack.")
        order = list(DataKind)
        with self._under_construction() as folder:
            for number, archive in enumerate(sorted(self.archives, key=lambda archive: order.index(archive.kind))):
                self._report(number, len(self.archives), f"unpacking {archive.path.name}")
                extract(archive, folder / archive.kind.value)
        if clear_download_folder:
            shutil.rmtree(self.download_path, ignore_errors=True)
        return folder

    def extract_from_pytorch_datasets(
        self,
        datasets: Mapping[str, Any],
        task_type: TaskType,
        *,
        allow_transforms: bool = False,
        class_names: Sequence[str] | None = None,
    ) -> Path:
        """Write the samples of map-style datasets (keys ``training``, ``testing``, ``unlabeled``) as PNG files; see
        :mod:`mml_ray.prepare.torch_datasets` for the layout."""
        with self._under_construction() as folder:
            extract_dataset(
                datasets,
                TaskType(task_type),
                folder=folder,
                allow_transforms=allow_transforms,
                class_names=class_names,
                workers=self._workers,
            )
        return folder

    def transform_masks(
        self,
        masks: Sequence[Path],
        transform: Mapping[tuple[int, ...], int],
        *,
        load: str = "rgb",
        train: bool = True,
        ignore: Iterable[tuple[int, ...]] = (),
    ) -> list[Path]:
        """Map colors to class numbers (:func:`mml_ray.prepare.checks.masks.transform_masks`); returns the new files."""
        if self.dset_path is None:
            raise MMLMisconfigurationException("transform_masks must be called after unpack_and_store.")
        kind = DataKind.TRAINING_LABELS if train else DataKind.TESTING_LABELS
        return mask_rules.transform_masks(
            masks, transform, labels_folder=self.dset_path / kind.value, load=load, ignore=ignore, workers=self._workers
        )

    def _report(self, done: int, total: int, what: str) -> None:
        if self._context is not None:
            self._context.report(done, total, what)

    def _under_construction(self) -> DatasetUnderConstruction:
        folder = self.dset_path or self._data_root.dataset_path(self.dset_name)
        self.dset_path = folder
        return DatasetUnderConstruction(folder)


class DatasetUnderConstruction:
    """A dataset folder that is marked as unfinished within the block; an error removes it, a kill leaves the mark.

    Blocks may be nested: the outermost one owns the mark.
    """

    _open: set[Path] = set()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outermost = folder not in self._open

    def __enter__(self) -> Path:
        if self.outermost:
            with writing(self.folder):
                if self.folder.exists():
                    raise StorageError(
                        f"The dataset folder {self.folder} already exists. To recreate the dataset, delete the folder first."
                    )
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                self.folder.mkdir()
                (self.folder / WIP_MARKER).write_text(
                    "mml-ray is creating this dataset. If no run of it is alive, the folder can be deleted.\n"
                )
                atomic.sync(self.folder)
            self._open.add(self.folder)
        return self.folder

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.outermost:
            return
        self._open.discard(self.folder)
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        os.sync()  # everything must be durable before the mark is removed
        atomic.fs.unlink(self.folder / WIP_MARKER)
        atomic.sync(self.folder)


__all__ = ["DSetCreator", "DataArchive", "DataKind", "Limits", "DatasetUnderConstruction"]
