from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.tasks.attributes import Modality, TaskType
from mml_ray.tasks.description import TaskDescription
from mml_ray.tasks.struct import TaskStruct
from tests.tasks import builders


def struct_of(description: TaskDescription, name: str | None = None) -> TaskStruct:
    return TaskStruct.from_header(
        description.header(), num_samples=description.num_samples, n_folds=description.n_folds, name=name
    )


@pytest.mark.parametrize(
    ("task", "target", "count"),
    [
        (builders.classification(), Modality.CLASS, 2),
        (builders.segmentation(), Modality.MASK, 3),
        (builders.multilabel(), Modality.CLASSES, 3),
        (builders.soft(), Modality.SOFT_CLASSES, 2),
        (builders.regression(), Modality.VALUE, 0),
    ],
    ids=["classification", "segmentation", "multilabel", "soft", "regression"],
)
def test_target_and_classes(task: TaskDescription, target: Modality, count: int) -> None:
    struct = struct_of(task)
    assert struct.target is target and struct.num_classes == count
    spec = struct.to_model_spec()
    assert json.loads(json.dumps(spec)) == spec
    assert spec["target"] == target.value and spec["class_occ"] == task.class_occ


def test_a_struct_travels_and_keeps_what_was_attached() -> None:
    struct = struct_of(builders.classification(), name="toy+duplicate?1")
    struct.paths["foo"] = Path("/x")
    struct.models.append({"a": 1})
    back = pickle.loads(pickle.dumps(struct))
    assert back == struct and back.name == "toy+duplicate?1" and back.task_type is TaskType.CLASSIFICATION
    assert struct_of(builders.classification()).paths == {}


def test_types_without_a_target() -> None:
    unlabelled = builders.describe(TaskType.NO_TASK, {})
    assert struct_of(unlabelled).target is None
    with pytest.raises(MMLMisconfigurationException, match="has no target"):
        _ = struct_of(builders.describe(TaskType.DETECTION, {})).target


def test_a_missing_target_warns() -> None:
    task = builders.classification()
    del task.modalities[Modality.CLASS]
    with pytest.warns(UserWarning, match="none of its samples has class"):
        struct_of(task)
