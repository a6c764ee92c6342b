"""Lists of samples from folders, as ``TaskCreator.find_data`` takes them, sorted by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mml_ray.errors import DataError
from mml_ray.imaging import is_image
from mml_ray.tasks.attributes import Modality

SampleList = list[dict[Modality, Any]]


def images_below(root: Path) -> list[Path]:
    """All image files in a folder, at any depth; hidden files and folders are left out."""
    if not root.is_dir():
        raise DataError(f"The folder {root} does not exist.")
    found = (path for path in root.rglob("*") if path.is_file() and is_image(path))
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def get_iterator_and_mapping_from_image_dataset(
    root: Path, *, dup_id_flag: bool | None = None, classes: Sequence[str] | None = None
) -> tuple[SampleList, dict[int, str]]:
    """Samples of a folder with one folder of images for each class, and the mapping from index to class.

    ``classes`` gives the order (default: by name) and leaves other folders out. The id is the file's path in its class folder
    without suffix; ``dup_id_flag`` puts the class before it (default: where ids would not be unique).
    """
    if not root.is_dir():
        raise DataError(f"The folder {root} does not exist.")
    names = list(classes) if classes is not None else sorted(p.name for p in root.iterdir() if p.is_dir() and p.name[0] != ".")
    if not names:
        raise DataError(f"{root} must contain one folder per class, but it has no folders.")
    found = [
        (index, name, path, path.relative_to(root / name).with_suffix("").as_posix())
        for index, name in enumerate(names)
        for path in images_below(root / name)
    ]
    unique = max(Counter(sample_id for *_, sample_id in found).values(), default=1) == 1
    prefix = not unique if dup_id_flag is None else dup_id_flag
    samples: SampleList = [
        {
            Modality.SAMPLE_ID: f"{name}/{sample_id}" if prefix else sample_id,
            Modality.IMAGE: path,
            Modality.CLASS: index,
        }
        for index, name, path, sample_id in found
    ]
    return samples, dict(enumerate(names))


def get_iterator_from_segmentation_dataset(
    images_root: Path, masks_root: Path, *, path_matcher: Callable[[Path], Path] | None = None
) -> SampleList:
    """Pairs of image and mask. ``path_matcher`` maps an image's path relative to ``images_root`` to its mask's relative to
    ``masks_root`` (default: the same path, whatever the suffix). Ids are relative paths of the images; a missing mask raises."""
    masks = {path.relative_to(masks_root).with_suffix("").as_posix(): path for path in images_below(masks_root)}
    samples: SampleList = []
    for path in images_below(images_root):
        relative = path.relative_to(images_root)
        if path_matcher is not None:
            mask: Path | None = masks_root / path_matcher(relative)
        else:
            mask = masks.get(relative.with_suffix("").as_posix())
        if mask is None or not mask.is_file():
            raise DataError(f"The image {path} has no mask in {masks_root}.")
        samples.append({Modality.SAMPLE_ID: relative.as_posix(), Modality.IMAGE: path, Modality.MASK: mask})
    return samples


def get_iterator_from_unlabeled_dataset(root: Path) -> SampleList:
    """All images of a folder; ids are relative paths."""
    return [{Modality.SAMPLE_ID: path.relative_to(root).as_posix(), Modality.IMAGE: path} for path in images_below(root)]
