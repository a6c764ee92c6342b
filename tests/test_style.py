"""What a reader would stumble over: coined names, sentences that no native engineer writes, folders too large to be held in mind."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(path for folder in ("mml_ray", "schedulers") for path in (ROOT / folder).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

#: names of modules, functions, methods and classes that have a usual word instead
COINED = {
    "suits", "foresight", "surroundings", "ray_words", "patience", "patiently", "words", "beside", "get_beside", "told", "said", "saw", "took",
    "_flying", "_later", "_full", "_polite", "_mind_interrupts", "_bring_back", "_look_around", "being_made", "settle", "_mend", "mend",
}  # fmt: skip
#: what stands for "is not a", "already exists", "recreate", "fix", "is unknown"
PHRASES = re.compile(
    r"(?<!there )\b(is|are) no (?!(longer|more|other|one)\b)[A-Za-z`'\"{]"
    r"|\b(is|are) there already\b|\bmake it anew\b|\bhow-manieth\b|\bmend(s|ed)?\b|\bcannot be told\b|\bin our words\b|\bgive the run free\b"
    r"|\bcounts them round\b|\brooms?\b|[a-z]isation\b|\bcolour|\bnormalis|\brecognis|\blicence\b",
    re.I,
)


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of comments, docstrings and messages; of a page or an option file, all lines."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if path.suffix != ".py" or "#" in line or '"' in line or "'" in line or not re.search(r"[=():]", line):
            yield number, line


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_the_terms_of_the_field(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert path.stem not in COINED
    assert sorted(COINED & set(_names(tree))) == []


@pytest.mark.parametrize("path", [*CODE, *CONFIGS, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sentences_are_plain_english(path: Path) -> None:
    found = [f"{number}: {line.strip()}" for number, line in _prose(path) if PHRASES.search(line)]
    assert found == []


def test_a_folder_can_be_held_in_mind() -> None:
    counts = Counter(path.parent.relative_to(ROOT).as_posix() for path in CODE if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > 14} == {}
