"""The reader: a file of an image or a mask to pixels, through the backend that reads its format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from mml_ray.errors import BrokenSampleError, UserError
from mml_ray.imaging.backends import SHIPPED, ImageBackend
from mml_ray.imaging.pixels import Pixels, to_rgb8, to_single_channel
from mml_ray.registry import registry


def read_image(path: Path | str, backend: str | None = None) -> Pixels:
    """The image as ``uint8 [H, W, 3]``, RGB: gray is repeated, alpha is dropped, the EXIF orientation is applied.

    ``backend`` is the name of one; ``None`` picks the first that reads files of this suffix.

    Raises:
        BrokenSampleError: the file does not exist, is damaged, truncated or too large, or holds something else.
        MissingExtraError: the backend needs a package that is not installed.
    """
    place = os.fspath(path)
    chosen = _by_suffix(place) if backend is None else _named(backend)
    try:
        return to_rgb8(chosen.image(place), place)
    except Exception as error:
        refuse_file(place, error, hint=_hint(place, backend))


def read_mask(path: Path | str) -> Pixels:
    """The mask as ``[H, W]``, values as stored: ``uint8``, or ``uint16`` of files that hold more than a byte per pixel.

    Raises:
        BrokenSampleError: as :func:`read_image`, and for color images.
    """
    place = os.fspath(path)
    try:
        return to_single_channel(_by_suffix(place, masks=True).mask(place), place)
    except Exception as error:
        refuse_file(place, error)


def is_image(path: Path) -> bool:
    """Whether the name of a file says it is an image (hidden files are not)."""
    return not path.name.startswith(".") and any(path.suffix.lower() in backend.suffixes for _, backend in _backends())


def image_suffixes() -> list[str]:
    """The suffixes of all files that can be read."""
    return sorted({suffix for _, backend in _backends() for suffix in backend.suffixes})


def refuse_file(path: str, error: Exception, *, hint: str = "") -> NoReturn:
    """To be called where reading ``path`` raised ``error``: raises a :class:`BrokenSampleError` that names the file and ends with
    ``hint``; our errors of other kinds are raised as they are."""
    if isinstance(error, UserError) and not (hint and isinstance(error, BrokenSampleError)):
        raise error
    if isinstance(error, FileNotFoundError):
        raise BrokenSampleError(f"The file {path} does not exist. Restore it, or create the task again.") from None
    what = str(error) if isinstance(error, UserError) else f"The file {path} cannot be read ({type(error).__name__}: {error})."
    raise BrokenSampleError(f"{what} {hint}".rstrip()) from error


def _hint(path: str, backend: str | None) -> str:
    """Which backend reads the file, where the chosen one does not."""
    suffix = _suffix(path)
    readers = [name for name, other in _backends() if suffix in other.suffixes]
    if backend is None or backend in readers or not readers:
        return ""
    return f"The loader '{backend}' does not read {suffix} files: choose loaders=uni, which picks one by the suffix ('{readers[0]}')."


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _named(name: str) -> ImageBackend:
    backend: type[ImageBackend] = registry.lookup("image_backend", name)
    return backend()


def _by_suffix(path: str, *, masks: bool = False) -> ImageBackend:
    """The first backend that reads files of this suffix; OpenCV, which looks at the content, for unknown ones."""
    suffix = _suffix(path)
    fitting = (name for name, backend in _backends() if suffix in backend.suffixes and (backend.reads_masks or not masks))
    return _named(next(fitting, "opencv"))


def _backends() -> Iterator[tuple[str, type[ImageBackend]]]:
    """All by name, in the order of :data:`SHIPPED`."""
    for name in SHIPPED:
        yield name, registry.lookup("image_backend", name)
    for name in registry.names("image_backend"):
        if name not in SHIPPED:
            yield name, registry.lookup("image_backend", name)
