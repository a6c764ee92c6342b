"""Tables that fit the terminal."""

from __future__ import annotations

import io
import math
import statistics
from typing import Any

import pytest
from rich.cells import cell_len

from mml_ray.report.tables import Table, number, score_table

SCORES = [
    (["digits+nested?0", "0"], {"loss": 0.25, "accuracy": 0.5, "epochs": 3}),
    (["digits+nested?1", "0"], {"loss": 0.75, "accuracy": 1.0}),
]


def _text(table: Table, width: int = 120) -> str:
    return "\n".join(table.lines(width))


def test_scores_have_a_row_for_each_fold_their_mean_and_deviation() -> None:
    assert _text(score_table("Test", ["model of", "fold"], SCORES)) == (
        "Test (fold 0)\n"
        "\n"
        "  model of           loss  accuracy  epochs\n"
        "  ─────────────────────────────────────────\n"
        "  digits+nested?0  0.2500    0.5000       3\n"
        "  digits+nested?1  0.7500    1.0000\n"
        "  ─────────────────────────────────────────\n"
        "  mean             0.5000    0.7500     3.0\n"
        f"  deviation        {statistics.stdev([0.25, 0.75]):.4f}    {statistics.stdev([0.5, 1.0]):.4f}\n"
    )


def test_one_fold_has_no_mean() -> None:
    text = _text(score_table("Test", ["task", "fold"], SCORES[:1]))
    assert "mean" not in text and "deviation" not in text and "(fold 0)" not in text


def test_what_is_not_finite_is_shown_and_left_out_of_the_mean() -> None:
    rows: list[tuple[list[str], dict[str, Any]]] = [
        (["a"], {"loss": math.nan}),
        (["b"], {"loss": math.inf}),
        (["c"], {"loss": 2.0}),
        (["d"], {"loss": None}),
    ]
    lines = score_table("Test", ["task"], rows).lines(80)
    assert [line.split() for line in lines[4:8]] == [["a", "nan"], ["b", "inf"], ["c", "2.0000"], ["d"]]
    assert lines[9].split() == ["mean", "2.0000"] and lines[10].split() == ["deviation"]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(width: int) -> None:
    values = {f"a_rather_long_metric_{n}": n / 7 for n in range(12)}
    table = score_table("Test", ["model of"], [([f"digits+nested?{fold}"], values) for fold in range(5)])
    lines = table.lines(width)
    assert max(map(cell_len, lines)) <= width
    for value in values.values():
        assert sum(line.split().count(number(value)) for line in lines) >= 6, "five folds and the mean"
    blocks = sum(line.strip().startswith("model of") for line in lines)
    assert (blocks == 1) == (width == 200)
    assert sum(line.strip().startswith("digits+nested?4") for line in lines) == blocks


def test_long_texts_are_folded_within_their_column() -> None:
    rows = [["1", "/a/rather/long/path/" + "x" * 60, "done"], ["2", "two words " * 8, "waiting"]]
    table = Table("Plan", ["no", "what", "state"], rows)
    lines = table.lines(60)
    assert max(map(len, lines)) <= 60
    column = slice(lines[2].index("what"), lines[2].index("state"))
    assert "".join(line[column].strip() for line in lines[4:6]) == rows[0][1]
    assert lines[4].split()[0] == "1" and lines[4].split()[-1] == "done"


def test_words_are_broken_only_where_there_is_no_other_way() -> None:
    table = Table("T", ["task", "kind", "seen"], [["pets", "classification", "one two three four five six"]])
    assert [line.split()[:2] for line in table.lines(44)][4] == ["pets", "classification"]
    assert max(map(len, table.lines(36))) <= 36 and "classification" in "\n".join(table.lines(36))
    assert max(map(len, table.lines(26))) <= 26


def test_a_table_of_texts_goes_on_below_before_a_word_is_broken() -> None:
    columns = ["task", "type", "modalities", "preprocessed"]
    table = Table("Tasks", columns, [["digits+nested?0", "classification", "class, image", "default, size224"]])
    lines = table.lines(50)
    assert max(map(len, lines)) <= 50
    words = " ".join(lines).split()
    assert all(word in words for word in ("digits+nested?0", "classification", "class,", "image", "preprocessed", "size224"))
    assert words.count("digits+nested?0") == 2, "the label is repeated"


def test_numbers_are_right_aligned_and_texts_are_not() -> None:
    lines = Table("Plan", ["no", "seconds", "state"], [["9", "unknown", "new"], ["10", "3.5", "committed"]]).lines(80)
    assert lines[4:6] == ["   9  unknown  new", "  10      3.5  committed"]


def test_wide_characters_take_two_columns() -> None:
    lines = Table("T", ["task", "state"], [["网络", "new"], ["abcd", "new"]]).lines(80)
    assert [cell_len(line) for line in lines[4:6]] == [11, 11]


def test_a_file_gets_no_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    score_table("Test", ["task", "fold"], SCORES).print(out)
    assert "\033" not in out.getvalue() and out.getvalue().endswith("\n")
    out.isatty = lambda: True  # type: ignore[method-assign]
    score_table("Test", ["task", "fold"], SCORES).print(out)
    assert "\033[1mTest (fold 0)\033[0m" in out.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (3, "3"), (0.123456, "0.1235"), (12345.678, "12345.7"), (math.nan, "nan"), ("text", "text"), (True, "True")],
)
def test_number(value: object, text: str) -> None:
    assert number(value) == text
