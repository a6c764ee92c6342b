"""Metrics: values against scikit-learn, classes that do not occur, bootstrap, plugins, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.metrics.definition import Metric, MetricSet, metric
from mml_ray.metrics.rows import Array, Rows, pixel_counts, rows_of_predictions
from mml_ray.registry import registry
from mml_ray.seeding import keyed_seed
from mml_ray.store.predictions import load_predictions
from mml_ray.tasks.kinds import TaskKind, all_kinds

KINDS: dict[str, TaskKind] = {str(kind.route): kind for kind in all_kinds() if kind.route in ("cls", "mlcls", "seg", "reg")}
random = np.random.default_rng(1)
SCORES = random.normal(size=(60, 4)).astype(np.float32)
CLASSES = random.integers(0, 4, 60)
LABELS = random.integers(0, 2, (60, 4))
GUESS = random.normal(size=(60, 1)).astype(np.float32)
VALUES = GUESS + random.normal(size=(60, 1)).astype(np.float32).round()


def computed(route: str, scores: Array, targets: Array, *given: Any) -> dict[str, float]:
    return MetricSet(route, scores.shape[1], list(given) or None).compute(Rows.of(KINDS[route], scores, targets))


def softmax(scores: Array) -> Array:
    return np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def test_classification_agrees_with_sklearn() -> None:
    found = computed("cls", SCORES, CLASSES)
    assert list(found) == list(KINDS["cls"].metrics)
    guess, probabilities = SCORES.argmax(1), softmax(SCORES)
    assert found["accuracy"] == pytest.approx(reference.balanced_accuracy_score(CLASSES, guess))
    assert found["f1"] == pytest.approx(reference.f1_score(CLASSES, guess, average="macro"))
    assert found["precision"] == pytest.approx(reference.precision_score(CLASSES, guess, average="macro"))
    assert found["recall"] == pytest.approx(reference.recall_score(CLASSES, guess, average="macro"))
    assert found["auroc"] == pytest.approx(reference.roc_auc_score(CLASSES, probabilities, multi_class="ovr"))
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(np.eye(4)[CLASSES], probabilities))
    assert found["matthews_corrcoef"] == pytest.approx(reference.matthews_corrcoef(CLASSES, guess))
    for weights in (None, "linear", "quadratic"):
        kappa = computed("cls", SCORES, CLASSES, {"type": "cohen_kappa", "params": {"weights": weights}})["cohen_kappa"]
        assert kappa == pytest.approx(reference.cohen_kappa_score(CLASSES, guess, weights=weights))
    micro = computed("cls", SCORES, CLASSES, {"type": "accuracy", "params": {"average": "micro"}, "key": "correct"})
    assert micro == {"correct": pytest.approx((CLASSES == guess).mean())}
    weighted = computed("cls", SCORES, CLASSES, {"type": "f1", "params": {"average": "weighted"}})["f1"]
    assert weighted == pytest.approx(reference.f1_score(CLASSES, guess, average="weighted"))
    best = computed("cls", SCORES, CLASSES, {"type": "accuracy", "params": {"average": "micro", "top_k": 2}})["accuracy"]
    assert best == pytest.approx(reference.top_k_accuracy_score(CLASSES, SCORES, k=2))


def test_a_calibration_error_is_the_gap_of_confidence_and_accuracy_over_bins() -> None:
    confidence, right = softmax(SCORES).max(1), SCORES.argmax(1) == CLASSES
    gaps, shares = [], []
    for number in range(5):
        inside = (confidence >= number / 5) & (confidence < (number + 1) / 5)
        if inside.any():
            gaps.append(abs(right[inside].mean() - confidence[inside].mean()))
            shares.append(inside.mean())
    expected = {"l1": np.dot(gaps, shares), "l2": np.sqrt(np.dot(np.square(gaps), shares)), "max": max(gaps)}
    for norm, value in expected.items():
        item = {"type": "calibration_error", "params": {"n_bins": 5, "norm": norm}}
        assert computed("cls", SCORES, CLASSES, item)["calibration_error"] == pytest.approx(value, abs=1e-6)
    certain = np.eye(4, dtype=np.float32)[CLASSES] * 200  # a confidence of exactly 1
    assert computed("cls", certain, CLASSES, "calibration_error")["calibration_error"] == 0


def test_labels_agree_with_sklearn_and_soft_ones_count_from_one_half() -> None:
    found = computed("mlcls", SCORES, LABELS.astype(np.float32))
    probabilities = 1 / (1 + np.exp(-SCORES))
    assert list(found) == list(KINDS["mlcls"].metrics)
    assert found["multilabel_average_precision"] == pytest.approx(reference.average_precision_score(LABELS, probabilities))
    expected = reference.label_ranking_average_precision_score(LABELS, probabilities)
    assert found["multilabel_ranking_average_precision"] == pytest.approx(expected)
    assert found["multilabel_coverage_error"] == pytest.approx(reference.coverage_error(LABELS, probabilities))
    soft = (LABELS * 0.3 + 0.3).astype(np.float32)  # 0.3 or 0.6
    assert computed("mlcls", SCORES, soft) == found
    more = computed("mlcls", SCORES, LABELS.astype(np.float32), "f1", "accuracy", "matthews_corrcoef", "exact_match", "auroc")
    assert more["f1"] == pytest.approx(reference.f1_score(LABELS, SCORES > 0, average="macro"))
    assert more["accuracy"] == pytest.approx((LABELS == (SCORES > 0)).mean())
    assert more["matthews_corrcoef"] == pytest.approx(reference.matthews_corrcoef(LABELS.ravel(), SCORES.ravel() > 0))
    assert more["exact_match"] == pytest.approx(reference.accuracy_score(LABELS, SCORES > 0))
    assert more["auroc"] == pytest.approx(reference.roc_auc_score(LABELS, SCORES))


def test_regression_agrees_with_sklearn() -> None:
    names = [
        "mean_squared_error",
        "root_mean_squared_error",
        "mean_absolute_error",
        "r2_score",
        "pearson_corrcoef",
        "spearman_corrcoef",
    ]
    found = computed("reg", GUESS, VALUES, *names)
    truth, guess = VALUES.ravel().astype(float), GUESS.ravel().astype(float)
    assert found["mean_squared_error"] == pytest.approx(reference.mean_squared_error(truth, guess))
    assert found["root_mean_squared_error"] == pytest.approx(math.sqrt(reference.mean_squared_error(truth, guess)))
    assert found["mean_absolute_error"] == pytest.approx(reference.mean_absolute_error(truth, guess))
    assert found["r2_score"] == pytest.approx(reference.r2_score(truth, guess))
    stats = pytest.importorskip("scipy.stats")
    assert found["pearson_corrcoef"] == pytest.approx(stats.pearsonr(truth, guess)[0])
    expected = stats.spearmanr(GUESS.round(), VALUES.round())[0]
    assert computed("reg", GUESS.round(), VALUES.round(), "spearman_corrcoef")["spearman_corrcoef"] == pytest.approx(expected)


def _masks() -> tuple[Array, Array]:
    """Predicted and true classes of five images; 255 is ignored."""
    true = random.integers(0, 3, (5, 6, 6))
    true[0, :3] = 255
    true[1] = 0  # one class only
    return random.integers(0, 3, (5, 6, 6)), true


def test_segmentation_counts_pixels_per_image_and_leaves_the_ignored_out() -> None:
    predicted, true = _masks()
    counts = pixel_counts(predicted, true.astype(np.uint8), 3)  # as masks are stored
    for image in range(5):
        for label in range(3):
            valid = true[image] != 255
            right = ((predicted[image] == label) & (true[image] == label)).sum()
            expected = [right, ((predicted[image] == label) & valid).sum(), (true[image] == label).sum()]
            assert counts[image, label].tolist() == [int(value) for value in expected]


def test_overlaps_are_means_over_images_and_classes_that_occur() -> None:
    predicted, true = _masks()
    counts = pixel_counts(predicted, true, 3)
    valid, dice = true != 255, []
    for image in range(5):
        for label in range(3):
            is_true, is_predicted = true[image] == label, (predicted[image] == label) & valid[image]
            if is_true.sum() + is_predicted.sum():
                dice.append(2 * (is_true & is_predicted).sum() / (is_true.sum() + is_predicted.sum()))
    found = computed("seg", counts, np.empty(0), "dice", "iou", "pixel_accuracy")
    assert found["pixel_accuracy"] == pytest.approx((predicted == true)[valid].mean())
    assert found["dice"] == pytest.approx(np.mean(dice))
    assert found["iou"] == pytest.approx(np.mean([value / (2 - value) for value in dice]))
    overall = computed("seg", counts, np.empty(0), {"type": "dice", "params": {"samplewise": False, "average": "micro"}})
    assert overall["dice"] == pytest.approx(found["pixel_accuracy"])  # counted together, Dice is the accuracy
    perfect = pixel_counts(np.where(valid, true, 0), true, 3)
    assert computed("seg", perfect, np.empty(0)) == {"dice": 1.0}
    empty = computed("seg", np.zeros((2, 3, 3), np.int64), np.empty(0), "dice", "iou", "pixel_accuracy")
    assert all(math.isnan(value) for value in empty.values())


def test_absent_classes_give_no_warning_and_count_as_the_definitions_say() -> None:
    two = CLASSES.clip(max=1)
    found = computed("cls", SCORES, two)
    only_known = {"labels": [0, 1, 2, 3], "average": None, "zero_division": 0}
    each = reference.f1_score(two, SCORES.argmax(1), **only_known)
    assert found["f1"] == pytest.approx(each.mean())  # all four are true or predicted
    areas = [reference.average_precision_score(two == number, softmax(SCORES)[:, number]) for number in range(2)]
    assert found["average_precision"] == pytest.approx(np.mean(areas))  # a class without samples is left out
    areas = [reference.roc_auc_score(two == number, softmax(SCORES)[:, number]) for number in range(2)]
    assert found["auroc"] == pytest.approx(np.sum(areas) / 4)  # and counts 0 here
    constant = computed("cls", np.eye(4, dtype=np.float32)[np.zeros(60, int)], two, "matthews_corrcoef")
    assert constant == {"matthews_corrcoef": 0}
    right = (two == 0).sum()
    of_two = computed("cls", np.eye(2, dtype=np.float32)[np.zeros(60, int)], two, "matthews_corrcoef")["matthews_corrcoef"]
    assert of_two == pytest.approx((2 * right - 60) / np.sqrt(60 * right * (60 - right)))
    all_right = computed("cls", np.eye(2, dtype=np.float32)[np.zeros(60, int)], two * 0, "matthews_corrcoef", "average_precision")
    assert all_right == {"matthews_corrcoef": 1, "average_precision": 0.5}
    nothing = computed("mlcls", SCORES, np.zeros((60, 4), np.float32), *KINDS["mlcls"].metrics)
    assert nothing == {
        "multilabel_average_precision": 0, "multilabel_ranking_average_precision": 1, "multilabel_coverage_error": 0
    }  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_end_no_training(value: float) -> None:
    broken = SCORES.copy()
    broken[3, 1] = value
    found = computed("cls", broken, CLASSES)
    assert all(math.isnan(found[name]) for name in ("auroc", "average_precision", "calibration_error"))
    assert all(math.isnan(value) for value in computed("mlcls", np.full_like(SCORES, math.nan), LABELS).values())
    assert math.isnan(computed("reg", broken[:, 1:2], VALUES)["spearman_corrcoef"]) == math.isnan(value)
    assert all(
        math.isnan(value)
        for name, value in MetricSet("cls", 4).bootstrap(Rows.of(KINDS["cls"], broken, CLASSES), 2).items()
        if "auroc" in name
    )


@pytest.mark.parametrize(
    ("route", "item", "message"),
    [
        ("reg", "accuracy", "for cls, mlcls tasks, not for 'reg'"),
        ("cls", "mean_squared_error", "for reg tasks"),
        ("cls", "dice", "for seg tasks"),
        ("mlcls", "calibration_error", "for cls tasks"),
        ("cls", {"type": "f1", "params": {"avrage": "macro"}}, "no option 'avrage'; did you mean 'average'"),
        (
            "cls",
            {"type": "f1", "params": {"average": "mean"}},
            "metrics.cls.0.params.average must be macro, micro or weighted, got 'mean'",
        ),
        ("cls", {"type": "f1", "params": {"threshold": 0.3}}, "no option 'threshold'"),
        ("cls", {"type": "accuracy", "params": {"top_k": 0}}, "top_k must be an integer of at least 1, got 0"),
        ("reg", {"type": "r2_score", "params": {"x": 1}}, "metrics.reg.0.params has no option 'x'"),
        ("seg", {"type": "dice", "params": {"ignore_index": 0}}, "ignore_index must be 255, got 0"),
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


def test_more_best_classes_than_there_are_is_refused() -> None:
    with pytest.raises(MMLMisconfigurationException, match="at most the number of classes, 4, got 5"):
        computed("cls", SCORES, CLASSES, {"type": "accuracy", "params": {"top_k": 5}})


def test_bootstrap_is_a_function_of_its_seed() -> None:
    metrics, rows = MetricSet("cls", 4, ["accuracy"]), Rows.of(KINDS["cls"], SCORES, CLASSES)
    found = metrics.bootstrap(rows, 30, seed=5)
    assert set(found) == {"accuracy_mean", "accuracy_std"}
    assert found == metrics.bootstrap(rows, 30, seed=5) != metrics.bootstrap(rows, 30, seed=6)
    value = metrics.compute(rows)["accuracy"]
    assert abs(found["accuracy_mean"] - value) < 0.05 and 0.02 < found["accuracy_std"] < 0.12
    assert metrics.bootstrap(rows, 1)["accuracy_std"] == 0


def test_resamples_are_those_that_torch_drew() -> None:
    import torch

    from mml_ray.metrics.definition import _resamples

    generator = torch.Generator().manual_seed(2**40 + 7)
    drawn = [torch.randint(61, (61,), generator=generator).tolist() for _ in range(3)]
    assert _resamples(61, 3, 2**40 + 7).tolist() == drawn


def test_rows_may_be_chosen() -> None:
    rows = Rows.of(KINDS["cls"], SCORES, CLASSES, [f"s{number}" for number in range(60)])
    some = rows.take(CLASSES == 2)
    assert len(some) == (CLASSES == 2).sum() and set(some.targets) == {2}
    assert some.sample_ids == [f"s{number}" for number in np.flatnonzero(CLASSES == 2)]


def test_every_metric_says_what_it_measures() -> None:
    for name in registry.names("metric"):
        found = registry.lookup("metric", name)
        assert isinstance(found, Metric) and found.routes and len(str(found.function.__doc__)) > 40, name


def test_a_plugins_metric_is_a_function_of_rows() -> None:
    @metric("test_distance", "reg")
    def distance(rows: Rows, scale: float = 1.0) -> float:
        """The largest error."""
        return float(np.abs(rows.scores - rows.targets).max() * scale)

    try:
        item = {"type": "test_distance", "params": {"scale": 2.0}}
        assert computed("reg", GUESS, VALUES, item)["test_distance"] == pytest.approx(2 * np.abs(GUESS - VALUES).max())
        with pytest.raises(MMLMisconfigurationException, match="scale must be a number, got 'x'"):
            MetricSet("reg", 1, [{"type": "test_distance", "params": {"scale": "x"}}])
    finally:
        registry.remove("metric", "test_distance")


def test_a_bare_factory_of_a_plugin_gets_tensors() -> None:
    import torch

    from mml_ray.metrics.definition import MetricFunction

    def factory(route: str, num_classes: int, scale: float = 1.0) -> MetricFunction:
        return lambda rows: scale * torch.linalg.vector_norm(rows.scores - rows.targets, dim=-1).mean()

    registry.add("metric", "test_tensors", factory)
    try:
        item = {"type": "test_tensors", "params": {"scale": 2.0}}
        assert computed("reg", GUESS, VALUES, item)["test_tensors"] == pytest.approx(2 * np.abs(GUESS - VALUES).mean())
        with pytest.raises(MMLMisconfigurationException, match="metrics.reg.0.params: .*'scal'"):
            MetricSet("reg", 1, [{"type": "test_tensors", "params": {"scal": 2}}])
    finally:
        registry.remove("metric", "test_tensors")


def test_metrics_are_computed_without_torch() -> None:
    program = (
        "import sys, numpy as np\n"
        "from mml_ray.metrics.definition import MetricSet\n"
        "from mml_ray.metrics.rows import Rows\n"
        "from mml_ray.tasks.kinds import kind_of\n"
        "rows = Rows.of(kind_of('classification'), np.eye(3, dtype=np.float32), np.arange(3))\n"
        "print(MetricSet('cls', 3).compute(rows)['auroc'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", "False"], done.stderr


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_metrics_of_predictions_of_the_version_before_are_what_it_measured(fold: int) -> None:
    results = Path(__file__).parents[1] / "assets" / "runs_of_version_1" / "results" / "finished"
    task = f"shapes+nested?{fold}"
    (description,) = (results / "MODELS" / task).glob("*.json")
    measured = json.loads(description.read_text())["metrics"][-1]
    (file,) = (results / "PREDICTIONS" / task).glob("*.parquet")
    rows = rows_of_predictions(load_predictions(file).labelled("TEST"))
    metrics = MetricSet("cls", 2)
    seed = keyed_seed(42, "train_fold", [task, 0])  # a model keeps the seed of the command that trained it
    found = {**metrics.compute(rows), **metrics.bootstrap(rows, 20, seed)}
    expected = {name.rpartition("/")[2]: value for name, value in measured.items() if not name.endswith("loss")}
    assert set(found) == set(expected)
    for name in found:
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
