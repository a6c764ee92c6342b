"""What a setting may be."""

from __future__ import annotations

from typing import Any

import pytest

from mml_ray.composition.rules import MODE_RULES, RULES, check, parse_rule, rule_from_default, rule_of, take, walk
from mml_ray.errors import MMLMisconfigurationException


@pytest.mark.parametrize(
    ("rule", "value", "taken"),
    [
        ("bool", True, True),
        ("int", 3, 3),
        ("int>=2", 2, 2),
        ("number>0", 0.5, 0.5),
        ("number in [0,1)", 0, 0),
        ("number in (0,1)", 0.999, 0.999),
        ("false | int>=2", False, False),
        ("false | int>=2", 0, False),
        ("null | text", None, None),
        ("text", 2024, "2024"),
        ("texts", "a", ["a"]),
        ("texts", ["a", 1], ["a", "1"]),
        ("numbers", [1, 0.5], [1, 0.5]),
        ("random | texts", "random", "random"),
        ("auto | int>=0", "auto", "auto"),
        ("map", {"a": 1}, {"a": 1}),
    ],
)
def test_taken(rule: str, value: Any, taken: Any) -> None:
    got = take("key", value, str(value), parse_rule(rule))
    assert got == taken
    assert type(got) is type(taken)


@pytest.mark.parametrize(
    ("rule", "value", "allowed"),
    [
        ("bool", 1, "true or false"),
        ("bool", "yes", "true or false"),
        ("int", True, "a whole number"),
        ("int", 2.0, "a whole number"),
        ("int>=2", 1, "a whole number from 2"),
        ("number>0", 0, "a number above 0"),
        ("number>0", float("nan"), "a number above 0"),
        ("number in [0,1)", 1, r"a number from 0 to 1 \(excluded\)"),
        ("number in (0,1)", 0, r"a number from 0 \(excluded\) to 1 \(excluded\)"),
        ("false | int>=2", True, "false or a whole number from 2"),
        ("auto | inline | ray", "dask", "auto, inline or ray"),
        ("texts", None, "a list of texts"),
        ("numbers", [1, "a"], "a list of numbers"),
        ("text", None, "a text"),
        ("text", [1], "a text"),
    ],
)
def test_refused(rule: str, value: Any, allowed: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=f"key=.*: allowed is .*{allowed}"):
        take("key", value, str(value), parse_rule(rule))


def test_text_keeps_what_was_written() -> None:
    rule = parse_rule("text")
    assert take("proj", 202401, "2024_01", rule) == "2024_01"
    assert take("proj", True, "True", rule) == "True"


@pytest.mark.parametrize(
    ("default", "good", "bad"), [(True, False, 1), (3, 4, 4.5), (0.5, 1, "x"), ("a", "b", None), ([1], [2], 2)]
)
def test_a_default_value_implies_its_type(default: Any, good: Any, bad: Any) -> None:
    rule = rule_from_default(default)
    assert rule is not None
    take("key", good, str(good), rule)
    with pytest.raises(MMLMisconfigurationException):
        take("key", bad, str(bad), rule)


def test_nothing_is_implied_by_null_and_mappings() -> None:
    assert rule_from_default(None) is None
    assert rule_from_default({}) is None


def test_patterns_match_one_part() -> None:
    assert rule_of("resources.train_fold.num_gpus", RULES) is not None
    assert rule_of("resources.num_gpus", RULES) is None
    assert rule_of("resources.a.b.num_gpus", RULES) is None


def test_every_rule_can_be_read() -> None:
    for rule in {**RULES, **MODE_RULES}.values():
        assert parse_rule(rule)


def test_check_reports_what_is_taken_as_something_else() -> None:
    settings = {"task_list": "digits", "seed": 3, "sys": {"executor": "auto"}}
    assert dict(check(settings, RULES)) == {"task_list": ["digits"]}


def test_check_refuses_values_deep_inside() -> None:
    with pytest.raises(MMLMisconfigurationException, match=r"sys.executor=dask: allowed is auto, inline or ray"):
        list(check({"sys": {"executor": "dask"}}, RULES))


def test_walk_gives_parents_first() -> None:
    assert [key for key, _ in walk({"a": {"b": {"c": 1}}, "d": [1]})] == ["a", "a.b", "a.b.c", "d"]
