"""Blood smears (BCCD): ``bccd_count`` (regression), ``bccd_tiles`` and ``bccd_tiles_soft`` (multi-label).

The archive (``source.path=.../bccd.zip``) holds 364 images, their boxes (Pascal VOC), and two tables made from them. The tiles
are cut when the dataset is made; those of one image are a group.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mml_ray.imaging import read_image, write_png
from mml_ray.prepare.checks.stats import in_threads
from mml_ray.prepare.context import CreationContext
from mml_ray.prepare.own.table_files import Row, read_table
from mml_ray.prepare.ready.tables import find_table, register_table_task, unpack_source
from mml_ray.prepare.registration import register_dsetcreator
from mml_ray.tasks.attributes import Keyword, License, Modality, TaskType

NAME = "bccd"
TILES = "tiles"
KINDS = {"rbc": "RBC", "wbc": "WBC", "platelets": "Platelets"}
#: left, top, width, height
Box = tuple[int, int, int, int]


@register_dsetcreator(NAME)
def create_dataset(context: CreationContext) -> Path:
    """Unpack, and cut the tiles that ``tiles.csv`` lists."""
    folder = unpack_source(NAME, context, "bccd.zip")
    table = find_table(folder, "tiles.csv")
    by_image: dict[str, list[Row]] = defaultdict(list)
    for row in read_table(table):
        by_image[row["image"]].append(row)

    def cut(item: tuple[str, list[Row]]) -> None:
        image = read_image(table.parent / item[0])
        for row in item[1]:
            x, y, width, height = _tile(row)
            write_png(folder / TILES / f"{_tile_id(row)}.png", image[y : y + height, x : x + width].copy(), compression=1)

    in_threads(cut, list(by_image.items()), workers=context.workers, progress=context.progress, what="tiles")
    return folder


def _tile(row: Row) -> Box:
    return int(row["x"]), int(row["y"]), int(row["w"]), int(row["h"])


def _tile_id(row: Row) -> str:
    return f"{Path(row['image']).stem}_{row['x']}_{row['y']}"


def _counted(row: Row, folder: Path) -> dict[Modality, Any]:
    return {
        Modality.SAMPLE_ID: Path(row["image"]).stem,
        Modality.IMAGE: folder / row["image"],
        Modality.VALUE: float(row["n_rbc"]),
    }


def _tile_sample(row: Row, folder: Path) -> dict[Modality, Any]:
    return {
        Modality.SAMPLE_ID: _tile_id(row),
        Modality.IMAGE: Path(TILES) / f"{_tile_id(row)}.png",
        Modality.GROUP: Path(row["image"]).stem,
    }


def _with_kinds(row: Row, folder: Path) -> dict[Modality, Any]:
    """The kinds in a tile."""
    return {**_tile_sample(row, folder), Modality.CLASSES: [i for i, kind in enumerate(KINDS) if row[kind] == "1"]}


def _with_shares(row: Row, folder: Path) -> dict[Modality, Any]:
    """How much of a cell of each kind is in a tile: the largest share of a box that lies within it."""
    boxes = _boxes(folder / "Annotations" / f"{Path(row['image']).stem}.xml")
    shares = [max((_share(box, _tile(row)) for box in boxes.get(kind, ())), default=0.0) for kind in KINDS.values()]
    return {**_tile_sample(row, folder), Modality.SOFT_CLASSES: shares}


@lru_cache(maxsize=1)  # the tiles of an image follow one another
def _boxes(annotation: Path) -> dict[str, list[Box]]:
    """The boxes of an image by kind."""
    found: dict[str, list[Box]] = defaultdict(list)
    for item in ElementTree.parse(annotation).iter("object"):
        box = item.find("bndbox")
        if box is not None:
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


def _about(what: str) -> dict[str, Any]:
    return {
        "desc": f"Blood smears with red and white cells and platelets; {what}. Some cells at borders are not annotated.",
        "ref": "Shenggan: BCCD Dataset; images by cosmicad and akshaylamba.",
        "url": "https://github.com/Shenggan/BCCD_Dataset",
        "instr": "364 unaltered images with their boxes",
        "lic": License.MIT,
        "release": "2019",
        "keywords": [Keyword.MEDICAL, Keyword.TISSUE_PATHOLOGY],
    }


register_table_task(
    "bccd_count",
    dset_name=NAME,
    table="counts.csv",
    sample_of=_counted,
    task_type=TaskType.REGRESSION,
    about=_about("count the red cells"),
)
for _name, _sample_of, _what in (
    ("bccd_tiles", _with_kinds, "name the kinds in a tile"),
    ("bccd_tiles_soft", _with_shares, "how much of each kind is in a tile"),
):
    register_table_task(
        _name,
        dset_name=NAME,
        table="tiles.csv",
        sample_of=_sample_of,
        task_type=TaskType.MULTILABEL_CLASSIFICATION,
        classes=tuple(KINDS),
        about=_about(_what),
    )
