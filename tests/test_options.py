"""Option objects: what they take, and in which words they refuse the rest."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.options import AS_TEXT, Field, Off, Options, Text, Texts, build, choices, resolved, schema_of


class Retries(Options):
    system: int = Field(default=3, ge=0)


class Made(Options):
    n_folds: int = Field(5, gt=1)
    share: float = Field(0.5, ge=0, lt=1)
    flag: bool = True
    name: Text = "a"
    seed: Off | Annotated[int, Field(ge=1)] = False
    pivot: Off | Text = Field(False, union_mode="left_to_right")
    names: Texts = ()
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field((0.9, 0.99), strict=False)
    weights: tuple[float, ...] | None = Field(None, strict=False)
    where: Literal["auto", "inline", "ray"] = "auto"
    precision: Annotated[Literal["auto", "32"], AS_TEXT] = "auto"
    params: dict[str, Any] = {}
    retries: Retries = Retries()
    going_on: bool = Field(False, alias="continue")


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"n_folds": 2}, {"n_folds": 2}),
        ({"share": 0}, {"share": 0.0}),
        ({"name": 2024}, {"name": "2024"}),
        ({"seed": 0}, {"seed": False}),
        ({"seed": 7}, {"seed": 7}),
        ({"pivot": False}, {"pivot": False}),
        ({"pivot": "x"}, {"pivot": "x"}),
        ({"names": "a"}, {"names": ["a"]}),
        ({"names": ["a", 1]}, {"names": ["a", "1"]}),
        ({"weights": [1, 0.5]}, {"weights": [1, 0.5]}),
        ({"precision": 32}, {"precision": "32"}),
        ({"params": {"a": [1]}}, {"params": {"a": [1]}}),
        ({"continue": True}, {"continue": True}),
    ],
)
def test_taken(given: dict[str, Any], taken: dict[str, Any]) -> None:
    assert build(Made, "made", given).plain() == taken


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"n_folds": 1}, "made.n_folds must be an integer greater than 1, got 1."),
        ({"n_folds": True}, "made.n_folds must be an integer greater than 1, got true."),
        ({"n_folds": 2.0}, "made.n_folds must be an integer greater than 1, got 2.0."),
        ({"share": 1}, "made.share must be a number of at least 0 and less than 1, got 1."),
        ({"share": float("nan")}, "made.share must be a number of at least 0 and less than 1, got nan."),
        ({"flag": "yes"}, "made.flag must be true or false, got 'yes'."),
        ({"name": None}, "made.name must be text, got null."),
        ({"name": [1]}, "made.name must be text, got [1]."),
        ({"seed": True}, "made.seed must be false or an integer of at least 1, got true."),
        ({"names": None}, "made.names must be a list of texts, got null."),
        ({"betas": [1, 2]}, "made.betas must be a list of 2, each a number of at least 0 and less than 1, got [1,2]."),
        ({"betas": [0.9]}, "made.betas must be a list of 2, each a number of at least 0 and less than 1, got [0.9]."),
        ({"weights": [1, "a"]}, "made.weights.1 must be a number, got 'a'."),
        ({"where": "dask"}, "made.where must be auto, inline or ray, got 'dask'."),
        ({"params": 3}, "made.params must be a mapping, got 3."),
        ({"retries": {"system": -1}}, "made.retries.system must be an integer of at least 0, got -1."),
        ({"n_fold": 3}, "made has no option 'n_fold'; did you mean 'n_folds'?"),
        ({"retries": {"sistem": 1}}, "made.retries has no option 'sistem'; did you mean 'system'?"),
        ({"zzz": 3}, "made has no option 'zzz'. It has betas, continue, "),
    ],
)
def test_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MMLMisconfigurationException) as caught:
        build(Made, "made", given)
    assert sentence in str(caught.value).splitlines() or str(caught.value).startswith(sentence)


def test_several_faults_are_told_together() -> None:
    with pytest.raises(MMLMisconfigurationException) as caught:
        build(Made, "", {"n_folds": 1, "flag": 3, "nam": "x"})
    assert str(caught.value).splitlines() == [
        "n_folds must be an integer greater than 1, got 1.",
        "flag must be true or false, got 3.",
        "There is no setting 'nam'; did you mean 'name' or 'names'?",
    ]


def test_text_is_taken_as_it_was_typed() -> None:
    assert build(Made, "made", {"name": 202401}, typed={"made.name": "2024_01", "other.name": "x"}).name == "2024_01"
    assert build(Made, "made", {"names": True}, typed={"made.names": "True"}).names == ("True",)


def test_unknown_keys_of_another_version_can_be_passed_over() -> None:
    made = build(Made, "made", {"n_folds": 3, "old": 1, "retries": {"system": 1, "older": 2}}, ignore_unknown=True)
    assert made.plain() == {"n_folds": 3, "retries": {"system": 1}}


def test_choices_for_completion() -> None:
    schema = schema_of(Made)
    listed = {name: choices(resolved(node, schema)) for name, node in schema["properties"].items()}
    assert listed["where"] == ["auto", "inline", "ray"]
    assert listed["flag"] == ["true", "false"]
    assert listed["seed"] == ["false"]
    assert listed["n_folds"] == []
