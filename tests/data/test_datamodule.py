"""Batches of every task type: shapes, types, order, and what users get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mml_ray.data.datamodule import MultiTaskDataModule
from mml_ray.data.normalization import Normalization
from mml_ray.data.options import DataTask, LoadingOptions, SamplingOptions
from mml_ray.errors import BrokenSampleError, DataError, MMLMisconfigurationException
from mml_ray.tasks.attributes import DataSplit
from mml_ray.tasks.description import TaskDescription
from tests.data import made

SIZES = {"classes": 3, "height": 24, "width": 32}


@pytest.mark.parametrize("kind", ["classification", "hard", "soft", "regression", "segmentation"])
def test_batches_of_each_task_type(kind: str, tmp_path: Path) -> None:
    module = MultiTaskDataModule([made.data_task(kind, tmp_path)], options=made.options())
    module.setup("fit")
    batches = list(module.train_dataloader())
    assert len(batches) == 2 == len(module.train_dataloader())
    fields = batches[0][f"made_{kind}"]
    facts = made.description(kind, tmp_path).kind
    assert facts.target_shape is not None
    shape = (4, *(SIZES.get(str(side), side) for side in facts.target_shape))
    assert set(fields) == {"image", "targets", "sample_id", "dataset_name", "dataset_type"}
    assert fields["image"].dtype == torch.float32 and fields["image"].shape == (4, 3, 24, 32) and fields["image"].is_contiguous()
    assert 0.0 <= float(fields["image"].min()) and float(fields["image"].max()) <= 1.0
    assert fields["targets"].dtype == getattr(torch, facts.target_dtype) and tuple(fields["targets"].shape) == shape
    assert fields["dataset_name"] == f"made_{kind}" and fields["dataset_type"] == "train"
    train = {sample for batch in made.ids_of(batches) for sample in batch}
    val = {sample for batch in made.ids_of(list(module.val_dataloader())) for sample in batch}
    assert train == set(module.sample_ids(f"made_{kind}", DataSplit.TRAIN)) and len(train) == 8
    assert val == {"s000", "s003", "s006", "s009"}


def test_targets_are_final_class_indices(tmp_path: Path) -> None:
    module = MultiTaskDataModule([made.data_task("classification", tmp_path)], options=made.options())
    fields = next(iter(module.val_dataloader()))["made_classification"]
    # raw 0, 9, 7, 3 -> background 0, debris 2, cell 1, cell 1
    assert fields["sample_id"] == ["s000", "s003", "s006", "s009"] and fields["targets"].tolist() == [0, 2, 1, 1]


def test_masks_are_mapped_unlisted_to_background_and_ignore_kept(tmp_path: Path) -> None:
    module = MultiTaskDataModule([made.data_task("segmentation", tmp_path, fold=1)], options=made.options())
    fields = next(iter(module.val_dataloader()))["made_segmentation"]
    lookup = np.zeros(256, np.int64)
    lookup[[3, 7, 9, 255]] = [1, 1, 2, 255]
    for sample, target in zip(fields["sample_id"], fields["targets"], strict=True):
        number = int(sample[1:])
        expected = np.zeros((24, 32), np.int64) if number % 5 == 4 else lookup[made.mask(number)]
        assert np.array_equal(target.numpy(), expected), sample


def test_predicting_unlabelled_data_has_no_targets_and_keeps_the_order(tmp_path: Path) -> None:
    module = MultiTaskDataModule([made.data_task("hard", tmp_path)], options=made.options(augmentations=made.FLIPS))
    for split, ids in (
        (DataSplit.UNLABELLED, ["s015", "s016"]),
        (DataSplit.TEST, ["s012", "s013", "s014"]),
        (DataSplit.VAL, ["s000", "s003", "s006", "s009"]),
        (DataSplit.TRAIN, module.sample_ids("made_hard", DataSplit.TRAIN)),
    ):
        module.predict_on = split
        module.setup("predict")
        batches = list(module.predict_dataloader())
        assert [sample for batch in made.ids_of(batches) for sample in batch] == ids
        for fields in (batch["made_hard"] for batch in batches):
            assert ("targets" in fields) is (split != DataSplit.UNLABELLED) and fields["dataset_type"] == "predict"
            for sample, shown in zip(fields["sample_id"], fields["image"], strict=True):
                original = made.image(int(sample[1:])).transpose(2, 0, 1) / 255.0
                assert np.allclose(shown.numpy(), original, atol=1e-6), "predictions must see unaugmented images"


@pytest.mark.parametrize(
    ("option", "mean", "std"),
    [
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("task", (0.5, 0.25, 0.125), (0.25, 0.5, 0.125)),
        ("pretraining", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        (None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_normalisation(option: str | None, mean: tuple[float, ...], std: tuple[float, ...], tmp_path: Path) -> None:
    given = made.options(augmentations={"normalization": option}, pretraining_stats=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    module = MultiTaskDataModule([made.data_task("regression", tmp_path)], options=given)
    fields = next(iter(module.test_dataloader()))["made_regression"]
    expected = (np.stack([made.image(n) for n in (12, 13, 14)]) / 255.0 - mean) / std
    assert np.allclose(fields["image"].numpy(), expected.transpose(0, 3, 1, 2), atol=2e-5)


def test_several_tasks_the_shorter_starts_over_in_another_order(tmp_path: Path) -> None:
    tasks = [made.data_task("classification", tmp_path / "a", count=24), made.data_task("regression", tmp_path / "b", count=12)]
    module = MultiTaskDataModule(tasks, options=made.options(batch_size=8))
    batches = list(module.train_dataloader())
    assert len(batches) == 4 and all(set(batch) == {"made_classification", "made_regression"} for batch in batches)
    assert all(len(fields["sample_id"]) == 4 for batch in batches for fields in batch.values())
    rounds = [sum((batch["made_regression"]["sample_id"] for batch in batches[part : part + 2]), []) for part in (0, 2)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == sorted(module.sample_ids("made_regression", DataSplit.TRAIN))
    assert rounds[0] != rounds[1]
    names = [list(batch) for batch in module.val_dataloader()]
    assert names == [["made_classification"]] * 2 + [["made_regression"]], "validation goes one task after the other"


def test_drop_last_never_loses_predictions(tmp_path: Path) -> None:
    given = made.options(batch_size=3, sampling={"drop_last": True})
    module = MultiTaskDataModule([made.data_task("classification", tmp_path)], options=given)
    assert [len(ids) for ids in made.ids_of(list(module.train_dataloader()))] == [3, 3]
    assert [len(ids) for ids in made.ids_of(list(module.val_dataloader()))] == [3, 1]


def test_a_single_left_over_training_sample_joins_the_last_batch(tmp_path: Path) -> None:
    module = MultiTaskDataModule([made.data_task("classification", tmp_path)], options=made.options(batch_size=7))
    assert [len(ids) for ids in made.ids_of(list(module.train_dataloader()))] == [8]


def test_batch_size_is_capped_by_the_data(tmp_path: Path) -> None:
    module = MultiTaskDataModule([made.data_task("classification", tmp_path)], options=made.options(batch_size=300))
    assert [len(ids) for ids in made.ids_of(list(module.train_dataloader()))] == [8]


def test_balanced_sampling_evens_the_classes(tmp_path: Path) -> None:
    given = made.options(batch_size=50, sampling={"balanced": True, "sample_num": 600})
    module = MultiTaskDataModule([made.data_task("classification", tmp_path, count=16)], options=given)
    targets = torch.cat([batch["made_classification"]["targets"] for batch in module.train_dataloader()])
    counts = np.bincount(targets.numpy(), minlength=3)
    assert counts.sum() == 600 and (abs(counts - 200) < 60).all()


def test_repeats_in_an_epoch_are_augmented_differently(tmp_path: Path) -> None:
    given = made.options(batch_size=200, sampling={"sample_num": 200})
    module = MultiTaskDataModule([made.data_task("classification", tmp_path, count=3)], options=given)
    fields = next(iter(module.train_dataloader()))["made_classification"]
    shown = [image for image, sample in zip(fields["image"], fields["sample_id"], strict=True) if sample == "s001"]
    assert len(shown) > 20 and len({image.numpy().tobytes() for image in shown}) > 10


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"sampling": {"batchsize": 3}}, "batch_size"),
        ({"sampling": {"batch_size": 0}}, "batch_size must be an integer greater than 0, got 0"),
        ({"sampling": {"cache": "always"}}, "auto or off"),
        ({"augmentations": {"normalisation": None}}, "normalization"),
        ({"augmentations": {"normalization": "imagenett"}}, "imagenet, task"),
        ({"augmentations": {"normalization": "pretraining"}}, "pretrained"),
        (
            {"augmentations": {"cpu": {"backend": "albumentation", "pipeline": [{"name": "HorizontalFlip"}]}}},
            "cpu/albumentations",
        ),
        ({"augmentations": {"cpu": {"backend": "albumentations", "pipeline": [{"name": "HorizontalFlipp"}]}}}, "HorizontalFlip"),
        (
            {"augmentations": {"cpu": {"backend": "albumentations", "pipeline": [{"name": "HorizontalFlip", "q": 1}]}}},
            "arguments: p",
        ),
        (
            {"augmentations": {"cpu": {"backend": "albumentations", "pipeline": ["HorizontalFlip"]}}},
            "must be a mapping, got 'HorizontalFlip'",
        ),
        ({"loaders": {"image": "opencvv"}}, "opencv"),
    ],
)
def test_wrong_options_are_named(broken: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(MMLMisconfigurationException, match=said):
        module = MultiTaskDataModule([made.data_task("classification", tmp_path)], options=made.options(**broken))
        module.setup("fit")


def test_wrong_tasks_are_named(tmp_path: Path) -> None:
    task = made.data_task("regression", tmp_path)
    with pytest.raises(MMLMisconfigurationException, match="balanced works for classification"):
        MultiTaskDataModule([task], options=made.options(sampling={"balanced": True})).train_dataloader()
    with pytest.raises(MMLMisconfigurationException, match="no fold 3"):
        MultiTaskDataModule([made.data_task("regression", tmp_path, fold=3)]).setup("fit")
    with pytest.raises(MMLMisconfigurationException, match="same name"):
        MultiTaskDataModule([task, task])
    with pytest.raises(DataError, match="at least two folds"):
        MultiTaskDataModule([made.data_task("regression", tmp_path, folds=1)]).train_dataloader()
    stored = DataTask(task.name, task.description, task.root, preprocessed="size224")
    with pytest.raises(MMLMisconfigurationException, match="size224"):
        MultiTaskDataModule([stored]).setup("fit")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_whoever_loads_it(workers: int, tmp_path: Path) -> None:
    task = made.data_task("classification", tmp_path)
    path = tmp_path / "images/3.png"
    path.write_bytes(path.read_bytes()[:200])
    module = MultiTaskDataModule([task], options=made.options(workers=workers))
    with pytest.raises(BrokenSampleError) as caught:
        list(module.val_dataloader())
    module.close()
    assert str(path) in str(caught.value) and "s003" in str(caught.value) and "Traceback" not in str(caught.value)


def test_images_of_different_sizes_need_a_preprocessing(tmp_path: Path) -> None:
    task = made.data_task("classification", tmp_path)
    made.write(tmp_path / "images/3.png", made.image(3, 30, 32))
    with pytest.raises(DataError, match=r"'s000' has \(3, 24, 32\) and 's003' \(3, 30, 32\).*preprocessing="):
        list(MultiTaskDataModule([task], options=made.options()).val_dataloader())
    given = made.options(preprocessing={"id": "size16", "pipeline": [{"name": "Resize", "height": 16, "width": 16}]})
    batch = next(iter(MultiTaskDataModule([task], options=given).val_dataloader()))
    assert batch["made_classification"]["image"].shape == (4, 3, 16, 16)


def test_a_crop_that_does_not_fit_says_so(tmp_path: Path) -> None:
    crop = {"backend": "albumentations", "pipeline": [{"name": "RandomCrop", "height": 224, "width": 224}]}
    module = MultiTaskDataModule([made.data_task("classification", tmp_path)], options=made.options(augmentations={"cpu": crop}))
    with pytest.raises(DataError, match="RandomCrop failed on image .24, 32, 3.*larger preprocessing"):
        list(module.train_dataloader())


def test_sampling_options_understand_the_configuration() -> None:
    group = {"sample_num": 0, "balanced": False, "batch_size": 300, "drop_last": False, "enable_caching": False, "cache": "auto"}
    assert SamplingOptions.of(group) == SamplingOptions(cache="auto")
    assert SamplingOptions.of({"cache": False}).cache == "off" and SamplingOptions.of({"enable_caching": True}).cache == "auto"
    assert LoadingOptions.of() == LoadingOptions()


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_for_a_gpu_travel_as_bytes_and_are_finished_there(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = made.options(augmentations={**made.FLIPS, "normalization": "task"}, workers=workers)
    module = MultiTaskDataModule([made.data_task("segmentation", tmp_path)], options=given)
    expected = [batch["made_segmentation"] for batch in module.train_dataloader()]
    module.close()
    monkeypatch.setattr(MultiTaskDataModule, "_device", lambda self: torch.device("mps"))
    raw = list(module.train_dataloader())
    module.close()
    for batch, wanted in zip(raw, expected, strict=True):
        assert batch["made_segmentation"]["image"].dtype == batch["made_segmentation"]["targets"].dtype == torch.uint8
        found = module.on_after_batch_transfer(batch, 0)["made_segmentation"]
        assert set(found) == set(wanted) and torch.equal(found["image"], wanted["image"])
        assert torch.equal(found["targets"], wanted["targets"]) and found["targets"].dtype == torch.int64
        again = module.on_after_batch_transfer({"made_segmentation": found}, 0)["made_segmentation"]
        assert torch.equal(again["image"], wanted["image"]), "a finished batch passes unchanged"


def test_arithmetic_on_a_device_agrees_with_the_table(tmp_path: Path) -> None:
    normalization = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    assert torch.allclose(normalization.from_bytes(images), normalization.from_floats(images.float() / 255), atol=1e-6)


def test_the_batch_size_can_be_changed(tmp_path: Path) -> None:
    module = MultiTaskDataModule([made.data_task("classification", tmp_path)], options=made.options(batch_size=2))
    assert len(module.train_dataloader()) == 4
    module.batch_size = 4
    assert module.batch_size == 4 and len(module.train_dataloader()) == 2


def test_a_fold_without_samples_has_no_validation(tmp_path: Path) -> None:
    task = made.data_task("classification", tmp_path)
    assert isinstance(task.description, TaskDescription)
    task.description.train_folds[0] = []
    module = MultiTaskDataModule([task], options=made.options())
    assert module.val_dataloader() == [] and len(module.train_dataloader()) == 2
