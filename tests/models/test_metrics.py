"""Metrics: values against scikit-learn, collecting over batches, bootstrap, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as reference
from torch import Tensor

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.models.meters import EpochMeter, Rows, pixel_counts, rows_of
from mml_ray.models.metrics import DEFAULTS, MetricSet

torch.manual_seed(1)
SCORES = torch.randn(60, 4)
CLASSES = torch.randint(0, 4, (60,))
LABELS = torch.randint(0, 2, (60, 4))
GUESS = torch.randn(60, 1)
VALUES = GUESS + torch.randn(60, 1).round()


def computed(route: str, rows: Rows, *given: Any) -> dict[str, float]:
    return MetricSet(route, 4, list(given) or None).compute(rows)


def test_classification_agrees_with_sklearn() -> None:
    found = computed("cls", Rows(SCORES, CLASSES))
    assert list(found) == DEFAULTS["cls"]
    truth, guess, probabilities = CLASSES.numpy(), SCORES.argmax(1).numpy(), F.softmax(SCORES, 1).numpy()
    assert found["accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, guess), abs=1e-6)
    assert found["f1"] == pytest.approx(reference.f1_score(truth, guess, average="macro"), abs=1e-6)
    assert found["precision"] == pytest.approx(reference.precision_score(truth, guess, average="macro"), abs=1e-6)
    assert found["recall"] == pytest.approx(reference.recall_score(truth, guess, average="macro"), abs=1e-6)
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(truth, probabilities, multi_class="ovr"), abs=1e-6)
    one_hot = F.one_hot(CLASSES, 4).numpy()
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(one_hot, probabilities), abs=1e-6)
    assert found["matthews_corrcoef"] == pytest.approx(reference.matthews_corrcoef(truth, guess), abs=1e-6)
    micro = computed("cls", Rows(SCORES, CLASSES), {"type": "accuracy", "params": {"average": "micro"}, "key": "correct"})
    assert micro == {"correct": pytest.approx((truth == guess).mean())}


def test_labels_agree_with_sklearn_and_soft_ones_count_from_one_half() -> None:
    found = computed("mlcls", Rows(SCORES, LABELS.float()))
    probabilities, truth = torch.sigmoid(SCORES).numpy(), LABELS.numpy()
    assert list(found) == DEFAULTS["mlcls"]
    assert found["multilabel_average_precision"] == pytest.approx(
        reference.average_precision_score(truth, probabilities), abs=1e-6
    )
    expected = reference.label_ranking_average_precision_score(truth, probabilities)
    assert found["multilabel_ranking_average_precision"] == pytest.approx(expected, abs=1e-6)
    assert found["multilabel_coverage_error"] == pytest.approx(reference.coverage_error(truth, probabilities), abs=1e-5)
    soft = LABELS * 0.3 + 0.3  # 0.3 or 0.6
    assert computed("mlcls", Rows(SCORES, soft)) == found


def test_regression_agrees_with_sklearn() -> None:
    names = [
        "mean_squared_error",
        "root_mean_squared_error",
        "mean_absolute_error",
        "r2_score",
        "pearson_corrcoef",
        "spearman_corrcoef",
    ]
    found = computed("reg", Rows(GUESS, VALUES), *names)
    truth, guess = VALUES.flatten().double().numpy(), GUESS.flatten().double().numpy()
    assert found["mean_squared_error"] == pytest.approx(reference.mean_squared_error(truth, guess))
    assert found["root_mean_squared_error"] == pytest.approx(math.sqrt(reference.mean_squared_error(truth, guess)))
    assert found["mean_absolute_error"] == pytest.approx(reference.mean_absolute_error(truth, guess))
    assert found["r2_score"] == pytest.approx(reference.r2_score(truth, guess))
    stats = pytest.importorskip("scipy.stats")
    assert found["pearson_corrcoef"] == pytest.approx(stats.pearsonr(truth, guess)[0])
    tied = Rows(GUESS.round(), VALUES.round())
    expected = stats.spearmanr(tied.scores.flatten(), tied.targets.flatten())[0]
    assert computed("reg", tied, "spearman_corrcoef")["spearman_corrcoef"] == pytest.approx(expected)


def _masks() -> tuple[Tensor, Tensor]:
    targets = torch.randint(0, 3, (5, 6, 6))
    targets[0, :3] = 255
    targets[1] = 0  # one class only
    return torch.randn(5, 3, 6, 6), targets


def test_segmentation_counts_pixels_per_image_and_leaves_the_ignored_out() -> None:
    scores, targets = _masks()
    counts = pixel_counts(scores, targets)
    guess = scores.argmax(1)
    for image in range(5):
        for label in range(3):
            valid = targets[image] != 255
            hit = ((guess[image] == label) & (targets[image] == label)).sum()
            expected = [hit, ((guess[image] == label) & valid).sum(), (targets[image] == label).sum()]
            assert counts[image, label].tolist() == [int(value) for value in expected]


def test_overlaps_are_means_over_images_and_classes_that_occur() -> None:
    scores, targets = _masks()
    rows = rows_of("seg", scores, targets)
    dice, guess = [], scores.argmax(1)
    for image in range(5):
        for label in range(3):
            true, guessed = targets[image] == label, (guess[image] == label) & (targets[image] != 255)
            if true.sum() + guessed.sum():
                dice.append(float(2 * (true & guessed).sum() / (true.sum() + guessed.sum())))
    found = MetricSet("seg", 3, ["dice", "iou", "pixel_accuracy"]).compute(rows)
    valid = targets != 255
    assert found["pixel_accuracy"] == pytest.approx(float((guess == targets)[valid].float().mean()))
    assert found["iou"] < found["dice"]
    per_image = [sum(dice[i : i + 3]) for i in range(0, len(dice), 3)] if len(dice) == 15 else None
    if per_image is not None:
        assert found["dice"] == pytest.approx(sum(dice) / 15)
    overall = MetricSet("seg", 3, [{"type": "dice", "params": {"samplewise": False, "average": "micro"}}]).compute(rows)
    assert overall["dice"] == pytest.approx(found["pixel_accuracy"])  # counted together, Dice is the accuracy
    perfect = rows_of("seg", F.one_hot(targets.clamp(max=2), 3).movedim(-1, 1).float(), targets)
    assert MetricSet("seg", 3).compute(perfect)["dice"] == 1.0


def test_absent_classes_give_no_warning_and_are_left_out() -> None:
    found = computed("cls", Rows(SCORES, CLASSES.clamp(max=1)))
    assert all(math.isfinite(found[name]) for name in ("accuracy", "f1", "matthews_corrcoef"))


@pytest.mark.parametrize(
    ("route", "item", "message"),
    [
        ("reg", "accuracy", "for cls, mlcls tasks, not for 'reg'"),
        ("cls", "mean_squared_error", "for reg tasks"),
        ("cls", "dice", "for seg tasks"),
        ("mlcls", "calibration_error", "for cls tasks"),
        ("cls", {"type": "f1", "params": {"avrage": "macro"}}, "takes .*average"),
        ("reg", {"type": "r2_score", "params": {"x": 1}}, "Its parameters: none"),
        ("seg", {"type": "dice", "params": {"ignore_index": 0}}, "ignore_index is 255"),
        ("cls", {"name": "f1"}, "type is needed"),
        ("cls", 3, "type is needed"),
    ],
)
def test_wrong_items_are_refused(route: str, item: Any, message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        MetricSet(route, 4, [item])


def test_unknown_and_doubled_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean: accuracy"):
        MetricSet("cls", 4, ["acuracy"])
    with pytest.raises(MMLMisconfigurationException, match="given twice"):
        MetricSet("cls", 4, ["f1", "f1"])


def test_bootstrap_is_a_function_of_its_seed() -> None:
    metrics, rows = MetricSet("cls", 4, ["accuracy"]), Rows(SCORES, CLASSES)
    found = metrics.bootstrap(rows, 30, seed=5)
    assert set(found) == {"accuracy_mean", "accuracy_std"}
    assert found == metrics.bootstrap(rows, 30, seed=5) != metrics.bootstrap(rows, 30, seed=6)
    value = metrics.compute(rows)["accuracy"]
    assert abs(found["accuracy_mean"] - value) < 0.05 and 0.02 < found["accuracy_std"] < 0.12


def test_a_meter_gives_the_same_after_its_state_went_through_a_checkpoint() -> None:
    whole, first, second = EpochMeter(), EpochMeter(), EpochMeter()
    for index, part in enumerate(torch.split(torch.arange(60), 17)):
        for meter in (whole, first if index < 2 else second):
            meter.add_loss("a", SCORES[part].mean(), len(part))
            meter.add_rows("t", rows_of("cls", SCORES[part], CLASSES[part]))
        if index == 1:
            second.load(first.state())
    assert second.losses() == whole.losses()
    assert torch.equal(second.rows()["t"].scores, whole.rows()["t"].scores)
    assert whole.losses()["a"] == pytest.approx(float(SCORES.mean()), abs=1e-6)
    whole.reset()
    assert whole.losses() == {} and whole.rows() == {}
