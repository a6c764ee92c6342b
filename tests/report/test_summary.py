"""The tables at the end of a training: one for each task that its models were evaluated on."""

from __future__ import annotations

from typing import Any

from mml_ray.schedulers.train import tables_of_tests


def _result(fold: int, evaluated: str | None, accuracy: float) -> dict[str, Any]:
    metrics = {"test/pets/accuracy": accuracy, "test/pets/accuracy_mean": 0.5, "test/pets/accuracy_std": 0.1}
    return {"params": [f"pets+nested?{fold}", 0, evaluated], "result": metrics}


def test_a_mean_is_one_over_folds_not_over_tasks() -> None:
    results = [_result(fold, evaluated, score + fold / 10) for fold in range(2) for evaluated, score in (("a", 0.2), ("b", 0.7))]
    of_a, of_b = tables_of_tests(results)
    assert (of_a.title, of_b.title) == ("Test (fold 0, evaluated on a)", "Test (fold 0, evaluated on b)")
    assert [row[1] for row in of_a.rows] == ["0.2000", "0.3000"] and of_a.footer[0] == ["mean", "0.2500"]
    assert of_b.footer[0] == ["mean", "0.7500"]


def test_a_model_is_evaluated_on_its_own_test_data_unless_told_otherwise() -> None:
    (table,) = tables_of_tests([_result(0, None, 0.5), _result(1, None, 0.7)])
    assert table.title == "Test (fold 0, evaluated on its own test data)" and len(table.rows) == 2
    assert tables_of_tests([]) == []
