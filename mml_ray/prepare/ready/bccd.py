"""Blood smears (BCCD): ``bccd_count`` (regression), ``bccd_tiles`` and ``bccd_tiles_soft`` (multi-label).

The archive (``source.path=.../bccd.zip``) holds 364 images, their boxes (Pascal VOC), and two tables made from them. The tiles
are cut when the dataset is made; those of one image are a group.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mml_ray.errors import DataError
from mml_ray.imaging import read_image, write_png
from mml_ray.prepare.archives import DataKind
from mml_ray.prepare.checks.stats import in_threads
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.dataset import DSetCreator
from mml_ray.prepare.iterators import SampleList
from mml_ray.prepare.registration import register_dsetcreator, register_taskcreator
from mml_ray.prepare.task import TaskCreator
from mml_ray.tasks.attributes import Keyword, License, Modality, TaskType

NAME = "bccd"
TILES = "tiles"
KINDS = {"rbc": "RBC", "wbc": "WBC", "platelets": "Platelets"}
Box = tuple[int, int, int, int]


@register_dsetcreator(NAME)
def create_dataset(context: CreationContext) -> Path:
    """Unpack, and cut the tiles that ``tiles.csv`` lists."""
    creator = DSetCreator(NAME)
    creator.use_source(context.required("path", "the archive bccd.zip, or the folder it was unpacked to"))
    folder = creator.unpack_and_store()
    root = _root(folder)
    by_image: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows(root / "tiles.csv"):
        by_image[row["image"]].append(row)

    def cut(item: tuple[str, list[dict[str, str]]]) -> None:
        image = read_image(root / item[0])
        for row in item[1]:
            x, y, width, height = _tile(row)
            write_png(folder / _tile_file(row), image[y : y + height, x : x + width].copy(), compression=1)

    in_threads(cut, list(by_image.items()), workers=context.workers, progress=context.progress, what="tiles")
    return folder


def _root(folder: Path) -> Path:
    """Where the tables lie: at the top of the archive, or in a folder around everything."""
    found = sorted((folder / DataKind.MIXED_DATA.value).rglob("tiles.csv"))
    if not found:
        raise DataError(f"{folder} has no tiles.csv: the source is not the archive bccd.zip.")
    return found[0].parent


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _tile(row: Mapping[str, str]) -> Box:
    return int(row["x"]), int(row["y"]), int(row["w"]), int(row["h"])


def _tile_id(row: Mapping[str, str]) -> str:
    return f"{Path(row['image']).stem}_{row['x']}_{row['y']}"


def _tile_file(row: Mapping[str, str]) -> str:
    return f"{TILES}/{_tile_id(row)}.png"


def _creator(folder: Path, name: str, task_type: TaskType, what: str) -> TaskCreator:
    return TaskCreator(
        folder,
        name,
        task_type=task_type,
        desc=f"Blood smears with red and white cells and platelets; {what}. Some cells at borders are not annotated.",
        ref="Shenggan: BCCD Dataset; images by cosmicad and akshaylamba.",
        url="https://github.com/Shenggan/BCCD_Dataset",
        instr="364 unaltered images with their boxes",
        lic=License.MIT,
        release="2019",
        keywords=[Keyword.MEDICAL, Keyword.TISSUE_PATHOLOGY],
    )


@register_taskcreator("bccd_count", dset_name=NAME)
def create_count(dset_path: Path) -> Path:
    """The number of red cells."""
    root = _root(dset_path)
    samples = [
        (
            {
                Modality.SAMPLE_ID: Path(row["image"]).stem,
                Modality.IMAGE: root / row["image"],
                Modality.VALUE: float(row["n_rbc"]),
            },
            row,
        )
        for row in _rows(root / "counts.csv")
    ]
    creator = _creator(dset_path, "bccd_count", TaskType.REGRESSION, "count the red cells")
    creator.find_data(**_splits(samples))
    return creator.auto_complete()


@register_taskcreator("bccd_tiles", dset_name=NAME)
def create_tiles(dset_path: Path) -> Path:
    """Which kinds are in a tile."""
    tiles = [
        (_tile_sample(dset_path, row, {Modality.CLASSES: [i for i, kind in enumerate(KINDS) if row[kind] == "1"]}), row)
        for row in _rows(_root(dset_path) / "tiles.csv")
    ]
    return _finish_tiles(_creator(dset_path, "bccd_tiles", TaskType.MULTILABEL_CLASSIFICATION, "name the kinds in a tile"), tiles)


@register_taskcreator("bccd_tiles_soft", dset_name=NAME)
def create_soft_tiles(dset_path: Path) -> Path:
    """How much of a cell of each kind is in a tile: the largest share of a box that lies within it."""
    root = _root(dset_path)
    boxes = {row["image"]: _boxes(root / "Annotations" / f"{Path(row['image']).stem}.xml") for row in _rows(root / "tiles.csv")}
    tiles = []
    for row in _rows(root / "tiles.csv"):
        soft = [max((_share(box, _tile(row)) for box in boxes[row["image"]][name]), default=0.0) for name in KINDS.values()]
        tiles.append((_tile_sample(dset_path, row, {Modality.SOFT_CLASSES: soft}), row))
    creator = _creator(dset_path, "bccd_tiles_soft", TaskType.MULTILABEL_CLASSIFICATION, "how much of each kind is in a tile")
    return _finish_tiles(creator, tiles)


def _finish_tiles(creator: TaskCreator, tiles: Iterable[tuple[dict[Modality, Any], Mapping[str, str]]]) -> Path:
    creator.find_data(**_splits(tiles), idx_to_class=dict(enumerate(KINDS)))
    return creator.auto_complete()


def _tile_sample(folder: Path, row: Mapping[str, str], target: Mapping[Modality, Any]) -> dict[Modality, Any]:
    return {
        Modality.SAMPLE_ID: _tile_id(row),
        Modality.IMAGE: folder / _tile_file(row),
        Modality.GROUP: Path(row["image"]).stem,
        **target,
    }


def _splits(samples: Iterable[tuple[dict[Modality, Any], Mapping[str, str]]]) -> dict[str, Any]:
    """Training samples (train and val of the table) and test samples, as ``find_data`` takes them."""
    splits: dict[str, SampleList] = {"train_iterator": [], "test_iterator": []}
    for sample, row in samples:
        splits["test_iterator" if row["split"] == "test" else "train_iterator"].append(sample)
    return splits


def _boxes(annotation: Path) -> dict[str, list[Box]]:
    """The boxes of an image by kind, as (left, top, width, height)."""
    found: dict[str, list[Box]] = defaultdict(list)
    for item in ElementTree.parse(annotation).iter("object"):
        box = item.find("bndbox")
        if box is None:
            continue
        left, top, right, bottom = (int(float(box.findtext(key, "0"))) for key in ("xmin", "ymin", "xmax", "ymax"))
        found[item.findtext("name", "")].append((left, top, right - left, bottom - top))
    return found


def _share(box: Box, tile: Box) -> float:
    """How much of ``box`` lies in ``tile``, from 0 to 1; rounded to four digits."""
    width = min(box[0] + box[2], tile[0] + tile[2]) - max(box[0], tile[0])
    height = min(box[1] + box[3], tile[1] + tile[3]) - max(box[1], tile[1])
    if width <= 0 or height <= 0 or box[2] <= 0 or box[3] <= 0:
        return 0.0
    return round(width * height / (box[2] * box[3]), 4)
