"""Sizes and channel statistics of many images, in threads (decoding and summing release the interpreter lock)."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2

from mml_ray.errors import DataError
from mml_ray.imaging import Pixels, read_image
from mml_ray.prepare.context import Progress, default_workers
from mml_ray.tasks.attributes import RGBInfo, Sizes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ImageFacts:
    """What one pass over an image tells: sides in pixels, channel moments of its values in [0, 1], and a digest of its pixels."""

    height: int
    width: int
    mean: tuple[float, float, float]
    mean_of_squares: tuple[float, float, float]
    digest: str

    @classmethod
    def of(cls, image: Pixels) -> ImageFacts:
        """Of an image ``[H, W, 3]`` uint8."""
        means, deviations = cv2.meanStdDev(image)
        mean = means.ravel() / 255
        squares = (deviations.ravel() / 255) ** 2 + mean**2
        digest = hashlib.blake2b(image.data, digest_size=16, person=str(image.shape).encode()[:16])
        r, g, b = (float(value) for value in mean)
        r2, g2, b2 = (float(value) for value in squares)
        return cls(image.shape[0], image.shape[1], (r, g, b), (r2, g2, b2), digest.hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> ImageFacts:
        """Of an image file; a broken one raises :class:`BrokenSampleError` naming it."""
        return cls.of(read_image(path))


@dataclass(frozen=True)
class ImageStats:
    """The statistics in a task description: channels as RGB in [0, 1], sides in pixels."""

    means: RGBInfo
    stds: RGBInfo
    sizes: Sizes


def in_threads(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    what: str = "",
) -> list[R]:
    """``[function(item) for item in items]`` in ``workers`` threads (default: all CPUs); the first error ends it.

    ``progress`` is called now and then with (done, total, ``what``). Few items are in flight at a time.
    """
    count = workers or default_workers()
    results: list[R] = []
    in_flight: deque[Future[R]] = deque()

    def collect_next() -> None:
        results.append(in_flight.popleft().result())
        if progress is not None and (len(results) % 100 == 0 or len(results) == len(items)):
            progress(len(results), len(items), what)

    with ThreadPoolExecutor(max_workers=count) as pool:
        try:
            for item in items:
                in_flight.append(pool.submit(function, item))
                if len(in_flight) > 32 * count:
                    collect_next()
            while in_flight:
                collect_next()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def scan_images(paths: Sequence[Path], *, workers: int | None = None) -> list[ImageFacts]:
    """The facts of each image file; the first broken one raises :class:`BrokenSampleError` naming it."""
    return in_threads(ImageFacts.of_file, paths, workers=workers, what="images")


def summarize(facts: Iterable[ImageFacts]) -> ImageStats:
    """Combine the facts of images into the statistics of a task. Every image counts the same, whatever its size.

    The mean is that of the images' means. The variance is ``(sum of mean squares - n * mean**2) / (n - 1)`` (n = 1: / 1).
    """
    found = list(facts)
    if not found:
        raise DataError("Statistics need at least one image, got none.")
    count = len(found)
    means = [math.fsum(fact.mean[channel] for fact in found) / count for channel in range(3)]
    squares = [math.fsum(fact.mean_of_squares[channel] for fact in found) for channel in range(3)]
    variances = [(squares[channel] - count * means[channel] ** 2) / max(count - 1, 1) for channel in range(3)]
    heights, widths = [fact.height for fact in found], [fact.width for fact in found]
    return ImageStats(
        means=RGBInfo(*means),
        stds=RGBInfo(*(math.sqrt(max(variance, 0.0)) for variance in variances)),
        sizes=Sizes(min(heights), max(heights), min(widths), max(widths)),
    )
