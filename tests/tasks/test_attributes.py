from __future__ import annotations

import copy
import json
import pickle

import pytest

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.tasks.attributes import CONFIGS_ROUTES, DataSplit, Keyword, License, Modality, Sizes, TaskKind, TaskType
from mml_ray.tasks.kinds import all_kinds, kind_of, kinds_of
from mml_ray.tasks.open_enum import OpenEnum, member


class Colour(OpenEnum):
    RED = member("red")
    DARK_BLUE = member("dark blue")


def test_w_enum_equality_agrees_with_the_hash() -> None:
    for text in ("red", "RED", "Red"):
        assert (text == Colour.RED) == (Colour.RED == text) == (text in {Colour.RED}) == (Colour.RED in {text: 1})
    assert Colour.RED == "red"
    assert {"image": 1}[Modality.IMAGE] == 1
    by_member: dict[str, int] = {Modality.IMAGE: 1}
    assert by_member["image"] == 1


@pytest.mark.parametrize("given", ["dark blue", "Dark Blue", "DARK_BLUE", "dark_blue"])
def test_members_are_found_by_value_or_name_in_any_case(given: str) -> None:
    assert Colour(given) is Colour.DARK_BLUE


def test_an_unknown_value_names_the_close_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown Modality 'imgae'. Did you mean: image"):
        Modality("imgae")
    with pytest.raises(UnknownNameError):
        Modality(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        Colour["GREEN"]


def test_members_survive_copies_pickles_and_json() -> None:
    assert pickle.loads(pickle.dumps(Modality.SOFT_CLASSES)) is Modality.SOFT_CLASSES
    assert copy.deepcopy([DataSplit.TEST])[0] is DataSplit.TEST
    assert json.dumps({"a": Colour.RED}) == '{"a": "red"}'
    assert f"{Colour.RED}" == "red" and repr(Colour.DARK_BLUE) == "Colour.DARK_BLUE"
    assert type(Colour.RED.value) is str


def test_iteration_length_and_membership() -> None:
    assert list(Colour) == ["red", "dark blue"] and len(Colour) == 2
    assert "red" in Colour and "green" not in Colour and 3 not in Colour
    assert [split.name for split in DataSplit] == ["TRAIN", "FULL_TRAIN", "VAL", "TEST", "UNLABELLED"]


def test_registering_twice_gives_the_same_member() -> None:
    class Taste(OpenEnum):
        SWEET = member("sweet")

    sour = Taste.register("very sour")
    assert Taste.register("Very Sour") is sour is Taste("VERY_SOUR")
    assert Taste.VERY_SOUR is sour  # type: ignore[attr-defined]
    with pytest.raises(MMLMisconfigurationException, match="non-empty string"):
        Taste.register("")
    assert "very sour" not in Colour


def test_a_plugin_registers_a_task_type() -> None:
    before = dict(CONFIGS_ROUTES)
    found = TaskType.register(
        "toy_keypoints", requires=[[Modality.KEYPOINTS, Modality.IMAGE]], target=Modality.KEYPOINTS, route="toy_kp"
    )
    assert found is TaskType("toy_keypoints")
    assert found.requires() == [["keypoints", "image"]]
    assert found.target_modalities == (Modality.KEYPOINTS,) and found.route == "toy_kp"
    assert {key: value for key, value in CONFIGS_ROUTES.items() if key != found} == before


def test_a_plugin_registers_one_object() -> None:
    kind = TaskKind(
        task_type="toy_pose", target="toy_angles", requires=(("toy_angles", "image"),), route="toy_pose", losses=("l1",)
    )
    found = TaskType.register(kind)
    assert kind_of(found, ["toy_angles", "image"]) is kind and found.has_classes is False
    assert found.target_modalities == (Modality("toy_angles"),) and found.requires() == [["toy_angles", "image"]]
    assert CONFIGS_ROUTES[found] == found.route == "toy_pose"


def test_facts_that_come_one_after_the_other_fill_a_kind() -> None:
    found = TaskType.register("toy_ranking")
    with pytest.raises(KeyError):
        _ = CONFIGS_ROUTES[found]
    CONFIGS_ROUTES[found] = "rank"
    TaskType.register("toy_ranking", requires=[[Modality.VALUE, Modality.IMAGE]], target=Modality.VALUE)
    assert kinds_of(found) == (TaskKind(task_type="toy_ranking", target="value", requires=(("value", "image"),), route="rank"),)
    del CONFIGS_ROUTES[found]
    assert found not in CONFIGS_ROUTES and kind_of(found).target == "value"


def test_a_kind_is_found_by_type_and_target() -> None:
    hard, soft = kinds_of("multilabel_classification")
    assert kind_of("multilabel_classification", {"image": "png", "soft_classes": ""}) is soft
    assert kind_of("multilabel_classification", ["soft_classes", "classes"]) is hard is kind_of("multilabel_classification")
    assert kind_of("detection") == TaskKind(task_type="detection")
    assert {kind.task_type for kind in all_kinds()} >= {"classification", "regression", "semantic_segmentation", "no_task"}


def test_what_the_built_in_types_ask_for() -> None:
    assert TaskType.MULTILABEL_CLASSIFICATION.requires() == [["classes", "image"], ["soft_classes", "image"]]
    assert TaskType.REGRESSION.requires() == [["image", "value"]]
    assert TaskType.DETECTION.requires() == [[]]
    assert TaskType.DEFAULT is TaskType.UNKNOWN
    with pytest.raises(MMLMisconfigurationException, match="has no configuration route"):
        _ = TaskType.NO_TASK.route


def test_vocabulary_keeps_the_established_values() -> None:
    assert Keyword.CLE == "confocal laser endomicroscopy" and Keyword.NEPHRECTOMY == "Nephrectomy"
    assert License("mit") == "Massachusetts Institute of Technology"
    assert Sizes(1, 2, 3, 4).to_list() == [1, 2, 3, 4]
