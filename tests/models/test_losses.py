"""Losses: forms of configuration, names of results, values against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.models.criteria import ScoreLoss
from mml_ray.models.heads import TaskSpec
from mml_ray.models.losses import LossConfig, Losses, LossTerm, MMFLoss, balancing_weights, parse_losses
from mml_ray.models.sample import ContractError
from mml_ray.models.task_losses import losses_for
from mml_ray.registry import registry

torch.manual_seed(0)
SCORES = torch.randn(5, 4)
CLASSES = torch.tensor([0, 1, 2, 3, 1])


def value(config: Any, scores: Tensor = SCORES, targets: Tensor | None = CLASSES, **fields: Any) -> Tensor:
    batch = {"dataset_name": "d", "dataset_type": "train", "targets": targets, **fields}
    (found,) = LossTerm(config)(batch, {"scores": scores}).values()
    assert isinstance(found, Tensor) and found.shape == (1,)
    return found.squeeze(0)


@pytest.mark.parametrize(
    "form", ["mse", {"type": "mse"}, {"type": "mse", "params": None}, LossConfig("mse"), ["mse"], [LossConfig("mse")]]
)
def test_forms_of_a_configuration(form: Any) -> None:
    (config,) = parse_losses(form)
    assert (config.type, config.params, config.weight) == ("mse", {}, 1.0)


@pytest.mark.parametrize("form", [3, [3], {}, {"params": {}}, {"type": ""}, {"type": "mse", "wieght": 2}])
def test_wrong_forms_name_what_is_allowed(form: Any) -> None:
    with pytest.raises(MMLMisconfigurationException, match="type"):
        parse_losses(form)


def test_unknown_names_and_parameters() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean: cross_entropy"):
        LossTerm("cross_entrpy")
    with pytest.raises(MMLMisconfigurationException, match="Its parameters: delta"):
        LossTerm({"type": "huber", "params": {"dleta": 1}})


def test_results_are_named_by_phase_data_set_and_type_and_duplicates_are_kept_apart() -> None:
    losses = Losses(["cross_entropy", {"type": "cross_entropy", "weight": 2.0}])
    found = losses({"dataset_name": "d", "dataset_type": "val", "targets": CLASSES}, {"scores": SCORES})
    assert list(found) == ["val/d/cross_entropy", "val/d/cross_entropy#2"]
    assert found["val/d/cross_entropy#2"] == 2 * found["val/d/cross_entropy"]  # a weight on top counts
    assert MMFLoss is LossTerm


def test_a_loss_skips_other_data_sets_and_batches_without_what_it_needs() -> None:
    term = LossTerm({"type": "mse", "datasets": ["other"]})
    assert term({"dataset_name": "d", "dataset_type": "val", "targets": SCORES}, {"scores": SCORES}) == {}
    assert Losses("mse")({"dataset_name": "d", "dataset_type": "predict"}, {"scores": SCORES}) == {}
    with pytest.warns(UserWarning, match="No loss applies"):
        assert Losses("mse")({"dataset_name": "d", "dataset_type": "train"}, {"scores": SCORES}) == {}


def test_a_self_supervised_loss_needs_no_targets() -> None:
    class Norm(nn.Module):
        requires = ()

        def forward(self, batch: Any, output: Any) -> dict[str, Any]:
            return {"l1": output["scores"].abs().mean(), "count": 3}

    registry.register_loss("norm_for_test", force=True)(Norm)
    try:
        found = LossTerm("norm_for_test")({"dataset_name": "d", "dataset_type": "train"}, {"scores": SCORES})
        assert list(found) == ["train/d/norm_for_test/l1", "train/d/norm_for_test/count"]
        assert found["train/d/norm_for_test/count"].tolist() == [3.0]
    finally:
        registry.remove("loss", "norm_for_test")


def test_cross_entropies_agree_with_torch() -> None:
    weight = [1.0, 2.0, 0.5, 1.0]
    tensor = torch.tensor(weight)
    soft = torch.softmax(torch.randn(5, 4), 1)
    torch.testing.assert_close(value("cross_entropy"), F.cross_entropy(SCORES, CLASSES))
    torch.testing.assert_close(
        value({"type": "cross_entropy", "params": {"weight": weight}}), F.cross_entropy(SCORES, CLASSES, tensor)
    )
    torch.testing.assert_close(
        value({"type": "cross_entropy", "params": {"weight": weight, "label_smoothing": 0.2}}),
        F.cross_entropy(SCORES, CLASSES, tensor, label_smoothing=0.2),
    )
    torch.testing.assert_close(value("label_smoothing_cross_entropy"), F.cross_entropy(SCORES, CLASSES, label_smoothing=0.1))
    torch.testing.assert_close(value("cross_entropy", targets=soft), F.cross_entropy(SCORES, soft))
    torch.testing.assert_close(value("soft_label_cross_entropy", targets=soft), F.cross_entropy(SCORES, soft))
    torch.testing.assert_close(value("soft_label_cross_entropy"), F.cross_entropy(SCORES, CLASSES))
    torch.testing.assert_close(value({"type": "focal", "params": {"gamma": 0.0}}), F.cross_entropy(SCORES, CLASSES))
    torch.testing.assert_close(value("nll_loss", SCORES.log_softmax(1)), F.cross_entropy(SCORES, CLASSES))


def test_pixels_with_the_ignored_label_count_for_nothing() -> None:
    scores = torch.randn(2, 3, 4, 4, requires_grad=True)
    targets = torch.randint(0, 3, (2, 4, 4))
    targets[:, :2] = 255
    config = {"type": "cross_entropy", "params": {"ignore_index": 255}}
    torch.testing.assert_close(value(config, scores, targets), F.cross_entropy(scores, targets, ignore_index=255))
    kept = value("dice", scores, targets)
    changed = scores.detach().clone()
    changed[:, :, :2] += 5
    torch.testing.assert_close(value("dice", changed, targets), kept)
    for name in (config, "dice"):
        none = value(name, scores, torch.full_like(targets, 255))
        none.backward()
        assert none == 0 and torch.isfinite(scores.grad).all()  # type: ignore[arg-type]


def test_dice_is_zero_for_a_perfect_and_one_for_a_wrong_mask() -> None:
    targets = torch.randint(0, 2, (2, 8, 8))
    right = 50 * F.one_hot(targets, 3).movedim(-1, 1).float()
    assert value("dice", right, targets) == pytest.approx(0, abs=1e-5)
    wrong = 50 * F.one_hot(1 - targets, 3).movedim(-1, 1).float()
    assert value("dice", wrong, targets) == pytest.approx(1, abs=1e-5)


def test_binary_and_regression_losses_agree_with_torch_and_refuse_other_shapes() -> None:
    labels = torch.randint(0, 2, (5, 4)).float()
    plain = F.binary_cross_entropy_with_logits(SCORES, labels)
    for name in ("bce", "logit_bce", "bce_with_logits"):
        torch.testing.assert_close(value(name, targets=labels), plain)
    positive = {"type": "bce", "params": {"pos_weight": [1, 2, 3, 4]}}
    expected = F.binary_cross_entropy_with_logits(SCORES, labels, pos_weight=torch.tensor([1.0, 2, 3, 4]))
    torch.testing.assert_close(value(positive, targets=labels), expected)
    torch.testing.assert_close(value("mse", targets=labels), F.mse_loss(SCORES, labels))
    torch.testing.assert_close(value("l1", targets=labels), F.l1_loss(SCORES, labels))
    huber = F.huber_loss(SCORES, labels, delta=0.3)
    torch.testing.assert_close(value({"type": "huber", "params": {"delta": 0.3}}, targets=labels), huber)
    with pytest.raises(ContractError):
        value("mse", targets=labels[:, 0])


def test_multi_is_the_weighted_sum_and_its_parts_are_submodules() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "cross_entropy", "weight": 0.3, "params": {"weight": [1, 2, 3, 4]}},
        {"type": "focal"},
    ]
    term = LossTerm({"type": "multi", "params": parts, "weight": 2.0})
    assert sum(1 for _ in term.buffers()) == 1
    expected = 2 * (0.3 * value(parts[0] | {"weight": 1.0}) + value("focal"))
    torch.testing.assert_close(value({"type": "multi", "params": parts, "weight": 2.0}), expected)
    with pytest.raises(MMLMisconfigurationException, match="list of losses"):
        LossTerm({"type": "multi", "params": []})


def test_lists_become_buffers_that_are_no_part_of_the_state() -> None:
    term = LossTerm({"type": "cross_entropy", "params": {"weight": [1, 2]}})
    assert [b.tolist() for b in term.buffers()] == [[1.0, 2.0]] and not term.state_dict()


def test_a_score_loss_has_to_implement_compute() -> None:
    with pytest.raises(NotImplementedError):
        ScoreLoss().compute(SCORES, CLASSES)


# -- which losses a task gets ------------------------------------------------------------------------------------------
def spec(route: str = "classification", classes: int = 3, **more: Any) -> TaskSpec:
    return TaskSpec.parse("t", {"task_type": route, "num_classes": classes, "class_occ": {"a": 40, "b": 20, "c": 0}, **more})


def test_balancing_weights_favour_rare_classes_and_bear_classes_that_never_occur() -> None:
    assert balancing_weights({"a": 40, "b": 20, "c": 0}, ["a", "b", "c"]) == [1.0, 2.0, 2.0]
    assert balancing_weights({}, ["a"]) == [1.0]


def test_class_weights_go_to_losses_that_take_them() -> None:
    group = {"auto_activate_weighing": True, "cls": ["cross_entropy", {"type": "multi", "params": ["focal"]}], "seg": ["dice"]}
    plain, multi = losses_for(spec(), group)
    assert plain.params["weight"] == [1.0, 2.0, 2.0]
    children: Any = multi.params
    assert children[0].params["weight"] == [1.0, 2.0, 2.0]
    assert "weight" not in losses_for(spec(), group, balanced=True)[0].params
    assert losses_for(spec("semantic_segmentation"), group)[0].params == {"ignore_index": 255}
    given = {"cls": [{"type": "cross_entropy", "params": {"weight": [9, 9, 9]}}], "auto_activate_weighing": True}
    assert losses_for(spec(), given)[0].params["weight"] == [9, 9, 9]


def test_explicit_class_weights_are_checked(caplog: pytest.LogCaptureFixture) -> None:
    assert losses_for(spec(), {"class_weights": [1, 2, 3]})[0].params["weight"] == [1.0, 2.0, 3.0]
    with pytest.raises(MMLMisconfigurationException, match="has 2 values, but task 't' has 3 classes"):
        losses_for(spec(), {"class_weights": [1, 2]})
    with pytest.raises(MMLMisconfigurationException, match="class_weights needs loss.auto_activate_weighing=false"):
        losses_for(spec(), {"class_weights": [1, 2, 3], "auto_activate_weighing": True})
    losses_for(spec("semantic_segmentation"), {"class_weights": [1, 2, 3]})
    assert "does not take class weights" in caplog.text


def test_without_a_list_for_its_route_a_task_gets_the_routes_default() -> None:
    assert [config.type for config in losses_for(spec("regression", 0), {"cls": ["focal"]})] == ["huber"]
    assert [config.type for config in losses_for(spec(), ["focal", "cross_entropy"])] == ["focal", "cross_entropy"]
    assert [config.type for config in losses_for(spec(), {"type": "focal"})] == ["focal"]
