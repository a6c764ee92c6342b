"""What loading costs: 640x480 JPEGs on the fly, already resized JPEGs, and preprocessed Arrow arrays, side by side.

    python tests/benchmarks/loading.py [--rounds 9] [--batch 32]

One process, one thread, the data module as a training uses it: preprocessing to 256, the default augmentations to 224, batches
of normalised tensors. Seconds are those of this process (files are in the page cache, so nothing waits), the ways take turns,
and each way's best round counts: a busy neighbour does little harm. Ends with exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from mml_ray.data.augment import build_preprocessing
from mml_ray.data.cache.arrow import STORE_FOLDER, ArrowReader, ArrowWriter
from mml_ray.data.datamodule import MultiTaskDataModule
from mml_ray.data.loaders import build_loader
from mml_ray.data.options import DataTask, LoadingOptions
from mml_ray.tasks.attributes import DataSplit, Modality, TaskType
from mml_ray.tasks.description import TaskDescription

ROOT = Path(__file__).parents[2]
ARCHIVE = Path(os.environ.get("MML_RAY_TEST_DATA") or ROOT.parent / "shared/data") / "bccd/bccd.zip"


def option(group: str, name: str) -> dict[str, Any]:
    """An option file of the configuration."""
    content: dict[str, Any] = yaml.safe_load((ROOT / f"configs/{group}/{name}.yaml").read_text())
    return content


PREPROCESSING = option("preprocessing", "size256")


def described(entries: Mapping[str, str]) -> TaskDescription:
    """A regression over all images, in two folds: one sample is held out."""
    samples = {name: {Modality.IMAGE: path, Modality.VALUE: 1.0} for name, path in entries.items()}
    names = list(samples)
    return TaskDescription(
        name="bccd", task_type=TaskType.REGRESSION, modalities={Modality.IMAGE: "jpg; ", Modality.VALUE: ""},
        train_folds=[names[:1], names[1:]], train_samples=samples,  # type: ignore[arg-type]
    )  # fmt: skip


def prepare(folder: Path) -> dict[str, DataTask]:
    """The three ways to hold the same images."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        images = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        archive.extractall(folder / "raw", images)
    description = described({Path(name).stem: name for name in images})
    load = build_loader("image", "opencv", description)
    preprocess = build_preprocessing(PREPROCESSING["pipeline"])
    assert preprocess is not None
    (folder / "small").mkdir()
    definition = {"id": PREPROCESSING["id"], "pipeline": PREPROCESSING["pipeline"]}
    with ArrowWriter(folder / "arrow" / STORE_FOLDER, definition=definition) as writer:
        for name in images:
            image = preprocess({"image": load.load(name, str(folder / "raw"))})["image"]
            writer.add(image, key=name, sample_id=Path(name).stem)
            cv2.imwrite(str(folder / "small" / Path(name).name), image[..., ::-1])
    small = described({Path(name).stem: Path(name).name for name in images})
    return {
        "on the fly": DataTask("bccd", description, folder / "raw", fold=0),
        "resized JPEGs": DataTask("bccd", small, folder / "small", fold=0, preprocessed="size256"),
        "Arrow": DataTask("bccd", description, folder / "arrow", fold=0, preprocessed="size256"),
    }


def epochs(task: DataTask, batch: int) -> Callable[[], int]:
    """Something that loads one epoch and says how many images it had."""
    options = LoadingOptions.of(
        sampling={"batch_size": batch, "cache": "off"},
        preprocessing=PREPROCESSING,
        augmentations=option("augmentations", "default"),
        num_workers=0,
    )
    loader = MultiTaskDataModule([task], options=options).train_dataloader()

    def run() -> int:
        count = 0
        for batch in loader:
            images = batch["bccd"]["image"]
            assert images.shape[1:] == (3, 224, 224) and images.dtype == torch.float32
            count += len(images)
        return count

    return run


def rates(ways: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Images per second of each way's best round; one round warms up."""
    best = dict.fromkeys(ways, 0.0)
    for number in range(rounds + 1):
        for name, run in ways.items():
            start = time.process_time()
            count = run()
            if number:
                best[name] = max(best[name], count / (time.process_time() - start))
    return best


def reading(tasks: Mapping[str, DataTask]) -> dict[str, Callable[[], int]]:
    """Decoding JPEGs of the stored size, and copying stored arrays: every byte ends in one buffer."""
    task = tasks["resized JPEGs"]
    assert isinstance(task.description, TaskDescription)
    load, root = build_loader("image", "opencv", task.description), str(task.root)
    entries = [sample[Modality.IMAGE] for sample in task.description.samples(DataSplit.FULL_TRAIN).values()]
    reader = ArrowReader(Path(tasks["Arrow"].root) / STORE_FOLDER)
    buffer = np.empty((256, 256, 3), np.uint8)

    def decode() -> int:
        for entry in entries:
            np.copyto(buffer, load.load(entry, root))
        return len(entries)

    def read() -> int:
        for row in range(len(reader)):
            np.copyto(buffer, reader.array(row))
        return len(reader)

    return {"decode": decode, "read": read}


# -- memory of a second process ------------------------------------------------------------------------------------------
_READER = """
import sys
import tempfile
import numpy as np
from mml_ray.data.cache.arrow import STORE_FOLDER, ArrowReader, ArrowWriter
from mml_ray.data.datamodule import MultiTaskDataModule
with tempfile.TemporaryDirectory() as folder:  # libraries take what they need with the first store they see
    with ArrowWriter(folder, definition={}) as writer:
        writer.add(np.zeros((2, 2), np.uint8), key="x")
    ArrowReader(folder).array(0).sum()
print("ready", flush=True); sys.stdin.readline()
reader = ArrowReader(sys.argv[1])
total = sum(int(np.add.reduce(reader.array(row), axis=None, dtype=np.int64)) for row in range(len(reader)))
print("read", flush=True); sys.stdin.readline()
"""


def memory(folder: Path) -> tuple[float, float]:
    """Size of the store, and what reading all of it adds to the memory of the node in a second process, in MB."""
    readers = [
        subprocess.Popen([sys.executable, "-c", _READER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for process in readers:
            _expect(process, "ready")
        _go_on(readers[0])
        before = sum(map(_proportional, readers))
        _go_on(readers[1])
        added = sum(map(_proportional, readers)) - before
        return sum(path.stat().st_size for path in folder.glob("part-*")) / 1e6, added
    finally:
        for process in readers:
            process.kill()
            process.communicate()


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    _expect(process, "read")


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if said != word:
        raise RuntimeError(f"A reading process said {said!r} instead of {word!r}.")


def _proportional(process: subprocess.Popen[str]) -> float:
    """MB of the process for data: what it has alone, and its share of the mapped arrays; the sum is what all take together.

    Program code is left out, its share depends on what else runs on the machine.
    """
    total, mapped = 0, False
    for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if not word.endswith(":"):  # the first line of a mapping
            mapped = "/part-" in rest
        elif word == ("Pss:" if mapped else "Anonymous:"):
            total += int(rest.split()[0])
    return total / 1e3


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    if not ARCHIVE.exists():
        print(f"No images: {ARCHIVE} is not there (set MML_RAY_TEST_DATA).")
        return 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        tasks = prepare(Path(name))
        size, added = memory(Path(tasks["Arrow"].root) / STORE_FOLDER)  # before this process maps the arrays as well
        loading = rates({way: epochs(task, given.batch) for way, task in tasks.items()}, given.rounds)
        single = rates(reading(tasks), given.rounds)
    for way, rate in loading.items():
        print(f"{way:34s}{rate:10.0f} images/s")
    print(f"{'decoding a JPEG of 256x256':34s}{single['decode']:10.0f} images/s")
    print(f"{'reading an array of 256x256':34s}{single['read']:10.0f} images/s\n")
    checks = [
        ("Arrow / on the fly", loading["Arrow"] / loading["on the fly"], 5.0, True),
        ("Arrow / resized JPEGs", loading["Arrow"] / loading["resized JPEGs"], 1.6, True),
        ("reading / decoding", single["read"] / single["decode"], 15.0, True),
        (f"second process, % of {size:.0f} MB", 100 * added / size, 5.0, False),
    ]
    for what, found, wanted, least in checks:
        good = found >= wanted if least else found < wanted
        print(f"{what:34s}{found:10.2f}   {'at least' if least else 'below'} {wanted:g}   {'reached' if good else 'MISSED'}")
    return 0 if all(found >= wanted if least else found < wanted for _, found, wanted, least in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
