"""Run in a process of its own, where the example plugin is installed: what the data module makes of the task ``three_dots``.

    python landmark_batches.py <data root>

Prints one JSON object. The dots are coloured, so whether a landmark moved along with the image is seen in the pixels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mml_ray import plugins
from mml_ray.data.datamodule import MultiTaskDataModule
from mml_ray.data.options import DataTask, LoadingOptions
from mml_ray.errors import UserError
from mml_ray.models import build_model
from mml_ray.prepare.task import TaskCreator
from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import TaskType

RESIZE = [{"name": "Resize", "height": 32, "width": 48}]
MOVES = {
    "crop": [{"name": "RandomCrop", "height": 48, "width": 64}],
    "flip": [{"name": "HorizontalFlip", "p": 1.0}],
    "both flips": [{"name": "HorizontalFlip", "p": 1.0}, {"name": "VerticalFlip", "p": 1.0}],
    "affine": [{"name": "Affine", "rotate": [-40, 40], "scale": [0.8, 1.2], "translate_percent": [-0.1, 0.1], "p": 1.0}],
    "turn": [{"name": "RandomRotate90", "p": 1.0}, {"name": "Resize", "height": 64, "width": 64}],
    "holes": [{"name": "CoarseDropout", "p": 1.0, "hole_height_range": [4, 6], "hole_width_range": [4, 6]}],
}


class Data:
    """Batches of the task with different options."""

    def __init__(self, root: DataRoot) -> None:
        self.description = root.description("three_dots")
        self.folder = root.path / str(root.header("three_dots").relative_root)

    def batches(self, **options: Any) -> list[dict[str, Any]]:
        """The training batches of one epoch."""
        loading = LoadingOptions.of(sampling={"batch_size": 16}, loaders={"landmarks": "landmark_list"}, num_workers=0, **options)
        module = MultiTaskDataModule([DataTask("three_dots", self.description, self.folder)], options=loading)
        module.setup("fit")
        found = [batch["three_dots"] for batch in module.train_dataloader()]
        module.close()
        return found

    def refusal(self, **options: Any) -> str:
        """The message of options that are refused."""
        return refusal(lambda: self.batches(**options))


def seen(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """How many landmarks lie in their image, and how many of them on a pixel of their colour."""
    inside = right = 0
    for batch in batches:
        for image, points in zip(batch["image"], batch["targets"], strict=True):
            for channel, (x, y) in enumerate(points.round().long().tolist()):
                if 1 <= x < image.shape[2] - 1 and 1 <= y < image.shape[1] - 1:
                    inside += 1
                    right += int(image[:, y, x].argmax()) == channel and float(image[channel, y, x]) > 0.5
    images, targets = batches[0]["image"], batches[0]["targets"]
    return {
        "image": [list(images.shape), str(images.dtype)],
        "targets": [list(targets.shape), str(targets.dtype)],
        "inside": inside,
        "right": right,
    }


def turn(folder: Path) -> dict[str, Any]:
    """What becomes of a task of the kind ``direction``: its batch, and a step of a model."""
    creator = TaskCreator(folder, "turn", task_type=TaskType("direction"))
    samples = [{"sample_id": str(n), "image": f"{n:03d}.png", "direction": 36.0 * n} for n in range(10)]
    creator.find_data(train_iterator=samples)
    creator.split_folds(n_folds=2)
    module = MultiTaskDataModule(
        [DataTask("turn", creator.task, folder)], options=LoadingOptions.of(sampling={"batch_size": 5}, num_workers=0)
    )
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    module.close()
    spec = {"task_type": "direction", "target": "direction", "num_classes": 0}
    arch = {"backend": "monai", "name": "resnet10"}
    model = build_model({"model": "multi_task", "tasks": {"turn": spec}, "arch": arch, "losses": {"reg": ["mse"]}})
    output = model(batch)
    return {
        "targets": batch["turn"]["targets"][:3].tolist(),
        "norm": float(output["scores"].norm(dim=1).mean()),
        "loss": float(model.total_loss(output)),
        "stored": creator.task.train_samples["5"]["direction"],
        "refused": refusal(
            lambda: TaskCreator(folder, "odd", task_type=TaskType("direction")).find_data(
                train_iterator=[{**samples[0], "direction": "north"}]
            )
        ),
    }


def refusal(action: Callable[[], Any]) -> str:
    """The message of the user error that ``action`` raises."""
    try:
        action()
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    """Look at everything."""
    plugins.load()
    data = Data(DataRoot(Path(sys.argv[1])))
    plain = data.batches()
    known = json.loads((data.folder / "dots.json").read_text())
    pairs = [
        (known[name], point.tolist()) for batch in plain for name, point in zip(batch["sample_id"], batch["targets"], strict=True)
    ]
    moved = {name: {"cpu": {"backend": "albumentations", "pipeline": steps}} for name, steps in MOVES.items()}
    twice = [data.batches(augmentations=moved["affine"], seed=5) for _ in range(2)]
    creator = TaskCreator(data.folder, "wrong", task_type=data.description.task_type)
    samples = [{"sample_id": "one", "image": "000.png", "landmarks": [[1, 2]]}]
    wrong = refusal(lambda: creator.find_data(train_iterator=samples, idx_to_class=data.description.idx_to_class))
    print(
        json.dumps(
            {
                "plain": seen(plain),
                "as stored": len(pairs) == 40 and all(stored == given for stored, given in pairs),
                "resized": seen(data.batches(preprocessing={"id": "small", "pipeline": RESIZE})),
                "moved": {name: seen(data.batches(augmentations=options)) for name, options in moved.items()},
                "repeated": all(torch.equal(a["targets"], b["targets"]) for a, b in zip(*twice, strict=True)),
                "kornia": data.refusal(
                    augmentations={"cpu": {"backend": "kornia", "pipeline": [{"name": "RandomHorizontalFlip"}]}}
                ),
                "gpu": data.refusal(augmentations={"gpu": {"backend": "kornia", "pipeline": [{"name": "RandomHorizontalFlip"}]}}),
                "wrong": wrong,
                "direction": turn(data.folder),
            }
        )
    )


if __name__ == "__main__":
    main()
