"""The multi-task model: heads, weights, metrics, redirection, freezing; all task types forward and backward."""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mml_ray.errors import DataError, MMLMisconfigurationException, UnknownNameError
from mml_ray.models import build_model
from mml_ray.models.checkpoint import load_model, load_weights, same_weights, save_weights
from mml_ray.models.multi_task import MultiTaskModel

SMALL = {"backend": "monai", "name": "resnet_small", "params": {"block_inplanes": [4, 4, 8, 8]}}
UNET = {"backend": "monai", "name": "basic_unet", "params": {"features": [4, 4, 8, 8, 8, 4]}}
CLASSES = {"task_type": "classification", "num_classes": 3, "class_occ": {"a": 4, "b": 2, "c": 1}}
LABELS = {"task_type": "multilabel_classification", "num_classes": 4}
VALUE = {"task_type": "regression", "num_classes": 0}
MASK = {"task_type": "semantic_segmentation", "num_classes": 3}


def model(tasks: dict[str, Any], arch: dict[str, Any] = SMALL, **more: Any) -> MultiTaskModel:
    made = build_model({"model": "multi_task", "seed": 0, "tasks": tasks, "arch": arch, **more})
    assert isinstance(made, MultiTaskModel)
    return made


def fields(kind: dict[str, Any], size: int = 4, side: int = 16) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(size)
    targets = {
        "classification": torch.arange(size) % 3,
        "multilabel_classification": torch.randint(0, 2, (size, 4), generator=generator).float(),
        "regression": torch.rand(size, 1, generator=generator),
        "semantic_segmentation": torch.randint(0, 3, (size, side, side), generator=generator),
    }[kind["task_type"]]
    return {
        "image": torch.rand(size, 3, side, side, generator=generator),
        "targets": targets,
        "sample_id": [f"s{i}" for i in range(size)],
    }


def batch(phase: str = "train", **tasks: dict[str, Any]) -> dict[str, Any]:
    return {name: {**content, "dataset_name": name, "dataset_type": phase} for name, content in tasks.items()}


@pytest.mark.parametrize("kind", [CLASSES, LABELS, VALUE, MASK])
def test_every_task_type_trains_validates_and_predicts(kind: dict[str, Any]) -> None:
    made = model({"t": kind}, UNET)
    loss = made.training_step(batch(t=fields(kind)), 0)["loss"]
    loss.backward()
    assert torch.isfinite(loss) and all(p.grad is not None for p in made.heads.parameters())
    made.eval()
    made.validation_step(batch("val", t=fields(kind)), 0)
    found = made.summarize("val")
    assert len(found) > 2 and found["val/t/loss"] == found["val/loss"]
    predicted = made.predict_step(batch("predict", t=fields(kind)), 0)["t"]
    assert predicted["sample_ids"] == ["s0", "s1", "s2", "s3"]
    expected = {
        "classification": (4, 3),
        "multilabel_classification": (4, 4),
        "regression": (4, 1),
        "semantic_segmentation": (4, 3, 16, 16),
    }
    assert tuple(predicted["logits"].shape) == expected[kind["task_type"]]


def test_names_with_dots_and_tags_are_fine_and_kept_apart() -> None:
    made = model({"a.b+nested?0": CLASSES, "a%2Eb+nested?0": CLASSES, "keys": CLASSES, "training": CLASSES})
    assert len(made.heads) == 4
    assert made.infer(torch.rand(2, 3, 16, 16)).keys() == {"a.b+nested?0", "a%2Eb+nested?0", "keys", "training"}


def test_weights_are_normalised_over_the_tasks_present() -> None:
    tasks = {"a": {**CLASSES, "weight": 3.0}, "b": {**VALUE, "weight": 1.0}}
    content = batch(a=fields(CLASSES), b=fields(VALUE))

    def losses(**more: Any) -> tuple[float, dict[str, float]]:
        made = model(tasks, **more).eval()
        total = made.training_step(content, 0)["loss"].item()
        return total, made.summarize("train")

    total, parts = losses()
    assert total == pytest.approx((3 * parts["train/a/loss"] + parts["train/b/loss"]) / 4)
    assert parts["train/loss"] == pytest.approx(total)
    summed, _ = losses(loss_reduction="sum")
    assert summed == pytest.approx(4 * total)
    alone = model(tasks).eval().training_step(batch(a=fields(CLASSES)), 0)["loss"].item()
    assert alone == pytest.approx(parts["train/a/loss"])
    with pytest.raises(MMLMisconfigurationException, match="must be task_mean or sum"):
        losses(loss_reduction="mean")


def test_the_epoch_loss_weighs_samples_and_does_not_mix_tasks() -> None:
    made = model({"a": CLASSES, "b": CLASSES}).eval()
    values = []
    for size in (6, 2):
        made.validation_step(batch("val", a=fields(CLASSES, size)), 0)
        values.append(
            model({"a": CLASSES, "b": CLASSES}).eval().validation_step(batch("val", a=fields(CLASSES, size)), 0)["loss"].item()
        )
    made.validation_step(batch("val", b=fields(CLASSES, 4)), 0)
    found = made.summarize("val")
    assert found["val/a/loss"] == pytest.approx((6 * values[0] + 2 * values[1]) / 8)
    assert found["val/loss"] == pytest.approx((found["val/a/loss"] + found["val/b/loss"]) / 2)


def test_several_terms_are_logged_beside_their_sum() -> None:
    made = model({"a": CLASSES}, losses={"cls": ["cross_entropy", {"type": "focal", "weight": 0.5}]})
    made.training_step(batch(a=fields(CLASSES)), 0)
    found = made.summarize("train")
    assert found["train/a/loss"] == pytest.approx(found["train/a/cross_entropy"] + found["train/a/focal"])


def test_mixed_targets_train_but_are_not_measured() -> None:
    made = model({"a": CLASSES}, metrics={"cls": ["accuracy"]})
    content = fields(CLASSES)
    content["targets"] = torch.softmax(torch.rand(4, 3), 1)
    assert torch.isfinite(made.training_step(batch(a=content), 0)["loss"])
    assert set(made.summarize("train")) == {"train/a/loss", "train/loss"}
    quiet = model({"a": CLASSES}, metrics={"cls": ["accuracy"]}, train_metrics=False)
    quiet.training_step(batch(a=fields(CLASSES)), 0)
    assert set(quiet.summarize("train")) == {"train/a/loss", "train/loss"}


def test_a_bootstrap_is_for_tests_only() -> None:
    made = model({"a": CLASSES}, metrics={"cls": ["accuracy"], "bootstrap": 5}).eval()
    for phase in ("val", "test"):
        getattr(made, {"val": "validation_step", "test": "test_step"}[phase])(batch(phase, a=fields(CLASSES)), 0)
    assert "val/a/accuracy_mean" not in made.summarize("val")
    assert {"test/a/accuracy", "test/a/accuracy_mean", "test/a/accuracy_std"} <= set(made.summarize("test"))


def test_unlabelled_data_are_predicted_and_give_no_loss() -> None:
    made = model({"a": CLASSES}).eval()
    content = {key: value for key, value in fields(CLASSES).items() if key != "targets"}
    assert made.predict_step(batch("predict", a=content), 0)["a"]["targets"] is None
    assert made.validation_step(batch("val", a=content), 0) == {}


def test_a_redirected_task_gets_losses_and_metrics_of_its_own() -> None:
    made = model({"a": CLASSES}).eval()
    made.redirect("a", "b")
    made.test_step(batch("test", b=fields(CLASSES)), 0)
    found = made.summarize("test")
    assert found["test/b/loss"] > 0 and "test/b/accuracy" in found and "test/a/loss" not in found
    images = fields(CLASSES)["image"]
    outputs = [made(batch("predict", **{task: {"image": images}}))["scores"] for task in ("a", "b")]
    assert torch.equal(*outputs)
    with pytest.raises(MMLMisconfigurationException, match="already"):
        made.redirect("a", "b")
    with pytest.raises(UnknownNameError, match="Unknown head 'x'"):
        made.redirect("x", "c")
    with pytest.raises(MMLMisconfigurationException, match="cannot predict"):
        made.redirect("a", "c", {**CLASSES, "num_classes": 5})
    configured = model({"a": CLASSES}, head_map={"b": "a"})
    assert len(configured.heads) == 1 and configured.head_of == {"a": "a", "b": "a"}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(MMLMisconfigurationException, match="basic_unet"):
        model({"t": MASK})
    with pytest.raises(MMLMisconfigurationException, match="needs 'tasks'"):
        model({})
    with pytest.raises(MMLMisconfigurationException, match="must be greater than 0"):
        model({"t": {**CLASSES, "weight": 0}})
    with pytest.raises(MMLMisconfigurationException, match="needs a .task_type."):
        model({"t": {"num_classes": 3}})
    with pytest.raises(MMLMisconfigurationException, match="at least one class, got 0"):
        model({"t": {"task_type": "classification"}})
    with pytest.raises(MMLMisconfigurationException, match="drop_rate"):
        model({"t": CLASSES}, {**SMALL, "drop_rate": 1.0})
    made = model({"t": CLASSES})
    with pytest.raises(KeyError, match="already"):
        made.add_head("t", CLASSES)
    with pytest.raises(UnknownNameError, match="no head for it"):
        made(batch(other=fields(CLASSES)))


def test_freezing_keeps_the_architecture_as_it_is_and_unfreezing_restores_what_was_trainable() -> None:
    made = model({"a": CLASSES})
    own = next(made.backbone.parameters())
    own.requires_grad_(False)
    before = {name: value.clone() for name, value in made.backbone.state_dict().items()}
    made.freeze_backbone()
    made.train()
    made.training_step(batch(a=fields(CLASSES)), 0)["loss"].backward()
    assert same_weights(before, made.backbone.state_dict())  # running statistics, too
    assert all(p.grad is None for p in made.backbone.parameters())
    assert made.count_parameters(only_trainable=True) == {"backbone": 0, "a": 27}
    made.unfreeze_backbone()
    assert not own.requires_grad and made.backbone.training
    assert made.count_parameters(only_trainable=True)["backbone"] == made.count_parameters()["backbone"] - own.numel()


# -- weights in files --------------------------------------------------------------------------------------------------
def test_load_add_a_head_save_load(tmp_path: Path) -> None:
    first = model({"a.b": CLASSES})
    save_weights(first, tmp_path / "first.safetensors")
    second = load_model(tmp_path / "first.safetensors")
    assert isinstance(second, MultiTaskModel) and same_weights(first.state_dict(), second.state_dict()) and not second.training
    second.add_head("new", {**VALUE, "weight": 2.0})
    second.redirect("a.b", "elsewhere")
    save_weights(second, tmp_path / "second.safetensors")
    third = load_model(tmp_path / "second.safetensors")
    assert isinstance(third, MultiTaskModel)
    assert third.head_of == {"a.b": "a.b", "new": "new", "elsewhere": "a.b"} and third.specs["new"].weight == 2.0
    assert same_weights(second.state_dict(), third.state_dict())
    assert third.training_step(batch(new=fields(VALUE)), 0)["loss"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.safetensors", "second.safetensors"]


def test_a_new_heads_weights_depend_on_the_seed_and_the_task_only() -> None:
    one, other = model({"a": CLASSES}), model({"a": CLASSES})
    torch.rand(100)
    one.add_head("b", CLASSES)
    torch.rand(3)
    other.add_head("b", CLASSES)
    other.add_head("c", CLASSES)
    state = other.state_dict()
    assert torch.equal(one.state_dict()["heads.task:b.linear.weight"], state["heads.task:b.linear.weight"])
    assert not torch.equal(state["heads.task:c.linear.weight"], state["heads.task:b.linear.weight"])


def test_weights_that_are_kept_come_from_the_given_state(tmp_path: Path) -> None:
    made = model({"a": CLASSES})
    zeros = {name: torch.zeros_like(value) for name, value in made.state_dict().items()}
    save_weights(made, tmp_path / "w.safetensors", state=zeros)
    assert same_weights(load_weights(tmp_path / "w.safetensors")[1], zeros)


def test_weights_that_find_no_room_are_an_error_of_the_disk(tmp_path: Path) -> None:
    """Which the run waits for; the library makes an error of its own of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = model({"a": CLASSES})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="w.safetensors") as caught:
            save_weights(made, tmp_path / "w.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_shared_and_partial_tensors_can_be_written(tmp_path: Path) -> None:
    made = model({"a": CLASSES})
    base = torch.arange(10.0)
    state = {**made.state_dict(), "x": base, "y": base, "z": base[2:4]}
    save_weights(made, tmp_path / "w.safetensors", state=state)
    assert same_weights(load_weights(tmp_path / "w.safetensors")[1], state)


def test_damaged_foreign_and_newer_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(DataError, match="no weights at"):
        load_weights(path)
    save_weights(model({"a": CLASSES}), path)
    content = path.read_bytes()
    for cut in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match="damaged"):
            load_weights(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="no header of mml-ray"):
        load_weights(path)
    save_file({"x": torch.zeros(1)}, path, metadata={"mml_ray": json.dumps({"format": 99, "config": {}})})
    with pytest.raises(DataError, match="format 99"):
        load_weights(path)


def test_old_names_of_weights_are_understood(tmp_path: Path) -> None:
    made = model({"a": CLASSES})
    save_weights(made, tmp_path / "w.safetensors")
    state = load_file(tmp_path / "w.safetensors")
    made.load_state_dict({f"model.{name}": value for name, value in state.items()})
    assert MultiTaskModel.format_state_key(MultiTaskModel.format_state_key("model.heads.x")) == "heads.x"
