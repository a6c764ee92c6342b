"""Samples and batches: the contract's behaviour, and where ours is stricter on purpose."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch

from mml_ray.models.sample import (
    BatchCollator,
    ContractError,
    Sample,
    SampleList,
    TaskBatch,
    convert_batch_to_sample_list,
    to_device,
)


def test_importing_samples_imports_torch_and_nothing_else_that_is_heavy() -> None:
    heavy = "('lightning', 'monai', 'torchmetrics', 'omegaconf')"
    code = f"import sys, mml_ray.models.sample; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_sample_nests_mappings_however_they_are_set() -> None:
    sample = Sample({"a": {"b": 1}})
    sample["c"] = {"d": 2}
    sample.e = {"f": 3}
    sample.update({"g": {"h": 4}})
    assert (sample.a.b, sample.c.d, sample.e.f, sample.g.h) == (1, 2, 3, 4)
    assert sample.fields() == ["a", "c", "e", "g"]
    with pytest.raises(AttributeError, match="The fields are: a, c, e, g"):
        _ = sample.x


def test_collation_stacks_tensors_promotes_dtypes_and_lists_the_rest() -> None:
    made = SampleList(
        [
            {"x": torch.tensor(1), "n": "a", "m": {"y": torch.zeros(2)}},
            {"x": torch.tensor(1.5), "n": "b", "m": {"y": torch.ones(2)}},
        ]
    )
    assert made.x.tolist() == [1.0, 1.5]  # in the first sample's dtype the 1.5 would have become 1
    assert made.n == ["a", "b"]
    assert isinstance(made.m, SampleList) and made.m.y.shape == (2, 2)
    assert made.get_batch_size() == 2


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        ([{"x": torch.zeros(2)}, {"x": torch.zeros(3)}], ContractError),
        ([{"x": torch.zeros(2)}, {"x": torch.zeros(1)}], ContractError),  # no silent broadcast
        ([{"x": torch.zeros(2)}, {"y": torch.zeros(2)}], KeyError),
        ([{"x": torch.zeros(2)}, {"x": torch.zeros(2), "y": 1}], KeyError),  # no field is dropped silently
        ([torch.zeros(2)], ContractError),
        ({"x": torch.zeros(2), "y": torch.zeros(3)}, ContractError),
    ],
)
def test_what_does_not_fit_together_is_refused(samples: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        SampleList(samples)


def test_the_contract_error_is_an_assertion_and_a_type_error() -> None:
    assert issubclass(ContractError, AssertionError) and issubclass(ContractError, TypeError)


def test_batch_size_and_device_come_from_the_first_tensor_however_it_was_set() -> None:
    samples = SampleList()
    with pytest.raises(ContractError):
        samples.get_batch_size()
    samples["scalar"] = torch.tensor(3.0)
    samples["x"] = torch.zeros(4, 2)
    assert samples.get_batch_size() == 4
    assert samples.get_device() == torch.device("cpu")
    with pytest.raises(ContractError, match="'y' has 3 samples, 'x' has 4"):
        samples.add_field("y", torch.zeros(3))


def test_forms_of_making_and_reading() -> None:
    pairs = SampleList([("x", torch.zeros(2)), ("m", {"y": torch.zeros(2)})])
    assert pairs.get_fields(["x"]).fields() == ["x"]
    with pytest.raises(AttributeError):
        pairs.get_fields(["z"])
    with pytest.raises(KeyError):
        pairs.get_field("z")
    assert pairs.get_item_list("m").y.shape == (1, 2)
    assert pairs.to_dict().keys() == {"x", "m"} and type(pairs.to_dict()["m"]) is dict
    assert SampleList([]).fields() == [] == SampleList().fields()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), SampleList.copy])
def test_copies_keep_the_tensor_field(duplicate: Any) -> None:
    made = duplicate(SampleList({"n": ["a", "b"], "x": torch.zeros(2), "m": {"y": torch.zeros(2)}}))
    assert made.get_batch_size() == 2 and isinstance(made.m, SampleList)


def test_moving_gives_a_new_list_unless_it_is_there_already() -> None:
    samples = SampleList({"x": torch.zeros(2), "m": {"y": torch.zeros(2)}, "n": [1, 2]})
    moved = samples.to("meta")
    assert moved.x.device.type == "meta" and moved.m.y.device.type == "meta" and samples.x.device.type == "cpu"
    assert to_device(samples, "cpu") is samples
    with pytest.raises(TypeError):
        samples.to(0)
    with pytest.warns(UserWarning, match="Only mappings"):
        assert to_device([1], "cpu") == [1]
    if not torch.cuda.is_available():
        with pytest.warns(UserWarning, match="CUDA is not available"):
            assert to_device({"x": torch.zeros(2)}).get_device().type == "cpu"


def test_detach_is_in_place_and_nested() -> None:
    samples = SampleList({"x": torch.zeros(2, requires_grad=True), "m": {"y": torch.zeros(2, requires_grad=True)}})
    assert samples.detach() is samples and not samples.x.requires_grad and not samples.m.y.requires_grad


def test_converting_and_collating_a_loaders_batch() -> None:
    samples = SampleList({"x": torch.zeros(2)})
    assert convert_batch_to_sample_list([samples]) is samples
    assert convert_batch_to_sample_list(samples) is samples
    made = BatchCollator("birds", "val")([{"x": torch.zeros(1)}, {"x": torch.ones(1)}])
    assert (made.dataset_name, made.dataset_type, made.get_batch_size()) == ("birds", "val", 2)


def test_a_task_batch_comes_from_nested_fields_or_from_one_tasks_list() -> None:
    nested = TaskBatch.of({"a": {"image": torch.zeros(2, 3, 4, 4)}, "b": {"image": torch.zeros(3, 3, 4, 4)}}, "train")
    assert (nested["a"].dataset_name, nested["a"].dataset_type, nested.get_batch_size()) == ("a", "train", 5)
    single = TaskBatch.of(SampleList({"image": torch.zeros(2, 3, 4, 4), "dataset_name": "a", "dataset_type": "val"}))
    assert list(single) == ["a"] and single["a"].dataset_type == "val"
    assert TaskBatch.of(nested) is nested
    with pytest.raises(ContractError, match="dataset_name"):
        TaskBatch.of({"image": torch.zeros(2, 3, 4, 4)})
    with pytest.raises(ContractError):
        TaskBatch.of([1])
