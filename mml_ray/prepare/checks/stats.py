"""Sizes and channel statistics of many images, in threads (decoding and summing release the interpreter lock)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mml_ray.errors import DataError
from mml_ray.prepare.context import Progress, default_workers
from mml_ray.prepare.images import ImageFacts, look_at
from mml_ray.tasks.attributes import RGBInfo, Sizes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ImageStats:
    """What a task description says of its images; channels as RGB in [0, 1], sides in pixels."""

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
    flying: deque[Future[R]] = deque()

    def land() -> None:
        results.append(flying.popleft().result())
        if progress is not None and (len(results) % 100 == 0 or len(results) == len(items)):
            progress(len(results), len(items), what)

    with ThreadPoolExecutor(max_workers=count) as pool:
        try:
            for item in items:
                flying.append(pool.submit(function, item))
                if len(flying) > 32 * count:
                    land()
            while flying:
                land()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def scan_images(paths: Sequence[Path], *, workers: int | None = None, progress: Progress | None = None) -> list[ImageFacts]:
    """Look at each image once; a broken one raises :class:`BrokenSampleError` naming its file."""
    return in_threads(look_at, paths, workers=workers, progress=progress, what="images")


def infer_stats(paths: Sequence[Path], *, workers: int | None = None, progress: Progress | None = None) -> ImageStats:
    """Statistics of these image files."""
    return summarize(scan_images(paths, workers=workers, progress=progress))


def summarize(facts: Iterable[ImageFacts]) -> ImageStats:
    """Every image counts the same, whatever its size.

    The mean is that of the images' means. The variance is ``(sum of mean squares - n * mean**2) / (n - 1)`` (n = 1: / 1).
    """
    found = list(facts)
    if not found:
        raise DataError("There is no image to take statistics from.")
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
