"""What a setting may be: a table for those whose default value does not tell, and that default value for all others.

A rule is a list of alternatives, ``false | int>=2``. An alternative is a literal (``null``, ``true``, ``auto``), or one of

==========================  ============================================
``bool``                    true or false
``int``, ``int>=2``         a whole number, with a lower bound
``number``, ``number>0``    any number; ``number in [0,1)`` for a range
``text``                    a string; numbers given on the command line are taken as written
``texts``, ``numbers``      a list of them; one alone is taken as a list of one (``texts`` only)
``pair>0``, ``pair in ...`` a list of two numbers, each with that bound or range
``map``                     a mapping
==========================  ============================================
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mml_ray.errors import MMLMisconfigurationException

#: dotted key (``*``: any one part) to rule
RULES: dict[str, str] = {
    "proj": "text",
    "seed": "false | int>=0",
    "continue": "false | text",
    "use_best_params": "false | text",
    "data_dir": "text",
    "out_dir": "text",
    "num_workers": "auto | int>=0",
    "task_list": "texts",
    "pivot.name": "false | text",
    "pivot.tags": "text",
    "tagging.all": "false | text",
    "tagging.variants": "texts",
    "source.name": "text",
    "source.path": "null | text",
    "source.images": "null | text",
    "source.password": "null | text",
    "source.classes": "null | map | texts",
    "source.class_columns": "null | texts",
    "source.test_fraction": "null | number in (0,1)",
    "reuse.*": "null | text | texts",
    "remove.*": "bool",
    "arch.drop_rate": "number in [0,1)",
    "optimizer.lr": "number>0",
    "optimizer.betas": "pair in [0,1)",
    "optimizer.eps": "number>=0",
    "optimizer.weight_decay": "number>=0",
    "optimizer.momentum": "number>=0",
    "optimizer.dampening": "number>=0",
    "lr_scheduler.T_max": "null | int>=1",
    "lr_scheduler.T_0": "int>=1",
    "lr_scheduler.step_size": "int>=1",
    "lr_scheduler.gamma": "number>0",
    "lr_scheduler.patience": "int>=0",
    "lr_scheduler.threshold": "number>=0",
    "lr_scheduler.max_lr": "null | number>0",
    "lr_scheduler.total_steps": "null | auto | int>=1",
    "cbs.early.monitor": "text",
    "cbs.early.mode": "min | max",
    "cbs.early.patience": "int>=0",
    "cbs.swa.swa_lrs": "number>0",
    "cbs.mixup.alpha": "number>0",
    "cbs.mixup.label_smoothing": "number in [0,1)",
    "cbs.cutmix.alpha": "number>0",
    "cbs.cutmix.label_smoothing": "number in [0,1)",
    "cbs.cutmix.minmax": "null | pair in [0,1]",
    "augmentations.normalization": "null | imagenet | task | pretraining",
    "augmentations.cpu": "map",
    "augmentations.gpu": "map",
    "loss.class_weights": "null | numbers",
    "metrics.bootstrap": "null | int>=0",
    "sampling.sample_num": "int>=0",
    "sampling.batch_size": "int>=1",
    "sampling.cache_max_size": "int>=0",
    "sampling.cache": "auto | off | bool",
    "sys.executor": "auto | inline | ray",
    "sys.address": "null | text",
    "sys.on_failure": "finish_others | stop",
    "sys.retries.*": "int>=0",
    "sys.stall_timeout": "null | number>0",
    "sys.min_free_disk_gb": "number>=0",
    "sys.num_cpus": "null | number>0",
    "sys.num_gpus": "null | number>=0",
    "resources.*.num_cpus": "auto | number>=0",
    "resources.*.num_gpus": "auto | number>=0",
    "resources.*.memory": "null | int>=0 | text",
    "resources.*.retries": "null | int>=0",
    "trainer.accelerator": "auto | cpu | gpu | cuda | mps",
    "trainer.benchmark": "bool",
    "trainer.enable_progress_bar": "bool",
    "trainer.limit_train_batches": "null | int>=0 | number in [0,1]",
    "trainer.limit_val_batches": "null | int>=0 | number in [0,1]",
    "trainer.limit_test_batches": "null | int>=0 | number in [0,1]",
    "trainer.limit_predict_batches": "null | int>=0 | number in [0,1]",
    "trainer.overfit_batches": "int>=0 | number in [0,1]",
    "trainer.val_check_interval": "null | int>=1 | number in (0,1]",
    "trainer.gradient_clip_algorithm": "null | norm | value",
    "trainer.devices": "auto | int>=-1 | numbers",
    "trainer.precision": "auto | 32-true | bf16-mixed | 16-mixed | bf16-true | 16-true | 64-true | bf16 | 64 | 32 | 16",
    "trainer.min_epochs": "null | int>=0",
    "trainer.max_epochs": "int>=1",
    "trainer.max_time": "null | text | map",
    "trainer.checkpoint_every_minutes": "null | number>0",
    "trainer.deterministic": "warn | bool",
    "trainer.gradient_clip_val": "null | number>=0",
    "trainer.accumulate_grad_batches": "int>=1",
    "trainer.check_val_every_n_epoch": "null | int>=1",
    "hpo.direction": "minimize | maximize",
    "hpo.trials": "null | int>=1",
    "tta.mode": "mean",
    "tta.size": "pair>0",
    "mode.subroutines": "texts",
}
#: of the modes that ship with the package; a plugin's mode may use these names for something else
MODE_RULES: dict[str, str] = {
    "mode.n_folds": "int>=2",
    "mode.on_broken": "refuse | skip",
    "mode.study_name": "null | text",
    "mode.multitask": "false | int>=2",
    "mode.co_tasks": "random | texts",
    "mode.task_weights": "null | numbers",
    "mode.eval_on": "null | texts",
    "mode.pipeline_keys": "texts",
    "mode.pretrain_task": "text",
    "mode.model_selection": "performance | created | random",
    "mode.version": "text | numbers",
    "mode.prior": "val | test | quantify | numbers",
    "mode.eval_frac": "number in (0,1)",
    "mode.temperature": "number in [0,1)",
    "mode.weights_temperature": "number in [0,1)",
    "mode.budget": "int>=1",
    "mode.weights_budget": "int>=0",
    "mode.max_ensemble_size": "int>=1",
}


class _Refused(Exception):
    """A value does not fit an alternative."""


@dataclass(frozen=True)
class Alternative:
    """One thing a setting may be: how to name it, and how to take a value as it (raises :class:`_Refused`)."""

    words: str
    take: Callable[[Any, str], Any]
    choices: tuple[str, ...] = ()


def is_exact(key: str, rules: Mapping[str, str]) -> bool:
    """Whether a rule says of every value of a key whether it is right; of a mapping it cannot."""
    rule = rule_of(key, rules)
    return rule is not None and all(alternative.words != _KINDS["map"][0] for alternative in rule)


def rule_of(key: str, rules: Mapping[str, str]) -> tuple[Alternative, ...] | None:
    """The rule of a dotted key, or ``None``."""
    text = rules.get(key)
    if text is None:
        text = next((rule for pattern, rule in rules.items() if "*" in pattern and _fits(key, pattern)), None)
    return parse_rule(text) if text is not None else None


def _fits(key: str, pattern: str) -> bool:
    parts, wanted = key.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(fnmatch.fnmatchcase(part, want) for part, want in zip(parts, wanted, strict=True))


def take(key: str, value: Any, written: str, rule: tuple[Alternative, ...]) -> Any:
    """``value`` as the rule wants it; ``written`` is its text on the command line.

    Raises:
        MMLMisconfigurationException: no alternative fits; the message names them all.
    """
    for alternative in rule:
        try:
            return alternative.take(value, written)
        except _Refused:
            continue
    words = [alternative.words for alternative in rule]
    raise MMLMisconfigurationException(f"{key}={written}: allowed is {_or(words)}.")


def rule_from_default(default: Any) -> tuple[Alternative, ...] | None:
    """The rule that a default value implies: its own type. ``None`` and mappings imply nothing."""
    for kind, rule in ((bool, "bool"), (int, "int"), (float, "number"), (str, "text"), (list, "list")):
        if isinstance(default, kind):
            return parse_rule(rule)
    return None


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


@cache
def parse_rule(rule: str) -> tuple[Alternative, ...]:
    """The alternatives of ``false | int>=2``."""
    return tuple(_alternative(part.strip()) for part in rule.split("|"))


def _alternative(text: str) -> Alternative:
    if text in _KINDS:
        words, function = _KINDS[text]
        return Alternative(words, function, choices=("true", "false") if text == "bool" else ())
    if text.startswith("pair"):
        return _pair(_alternative(text.replace("pair", "number", 1)))
    bound = re.fullmatch(r"(int|number)(>=|>)(-?\d+)", text)
    if bound is not None:
        return _bounded(bound[1], bound[2], float(bound[3]))
    interval = re.fullmatch(r"number in ([\[(])([\d.]+),([\d.]+)([\])])", text)
    if interval is not None:
        return _interval(float(interval[2]), float(interval[3]), (interval[1] == "[", interval[4] == "]"))
    return _literal(text)


def _literal(text: str) -> Alternative:
    wanted: Any = {"null": None, "true": True, "false": False}.get(text, text)

    def function(value: Any, written: str) -> Any:
        same = (
            wanted in (value, written) if isinstance(wanted, str) else value is wanted
        )  # written: 32, which is read as a number
        if same or (wanted is False and value == 0 and not isinstance(value, str)):  # 0, too, switches a thing off
            return wanted
        raise _Refused

    return Alternative(text, function, choices=(text,))


def _number(value: Any, kind: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)) or not math.isfinite(value):
        raise _Refused
    return value


def _bounded(kind: str, sign: str, limit: float) -> Alternative:
    noun = "a whole number" if kind == "int" else "a number"
    words = f"{noun} {'from' if sign == '>=' else 'above'} {limit:g}"

    def function(value: Any, written: str) -> Any:
        number = _number(value, kind)
        if number > limit or (sign == ">=" and number == limit):
            return value
        raise _Refused

    return Alternative(words, function)


def _interval(low: float, high: float, closed: tuple[bool, bool]) -> Alternative:
    words = f"a number from {low:g}{'' if closed[0] else ' (excluded)'} to {high:g}{'' if closed[1] else ' (excluded)'}"

    def function(value: Any, written: str) -> Any:
        number = _number(value, "number")
        if low < number < high or (closed[0] and number == low) or (closed[1] and number == high):
            return value
        raise _Refused

    return Alternative(words, function)


def _pair(each: Alternative) -> Alternative:
    def function(value: Any, written: str) -> Any:
        if isinstance(value, list) and len(value) == 2:
            return [each.take(item, written) for item in value]
        raise _Refused

    return Alternative(f"a list of two, each {each.words}", function)


def _of(*types: type) -> Callable[[Any, str], Any]:
    def function(value: Any, written: str) -> Any:
        if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
            return value
        raise _Refused

    return function


def _text(value: Any, written: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return written
    raise _Refused


def _texts(value: Any, written: str) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [_text(item, written if item is value else in_words(item)) for item in items]


def _numbers(value: Any, written: str) -> list[float]:
    if not isinstance(value, list):
        raise _Refused
    return [_number(item, "number") for item in value]


_KINDS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "bool": ("true or false", _of(bool)),
    "int": ("a whole number", _of(int)),
    "number": ("a number", _of(int, float)),
    "text": ("a text", _text),
    "texts": ("a list of texts [a,b]", _texts),
    "numbers": ("a list of numbers [1,2]", _numbers),
    "list": ("a list [a,b]", _of(list)),
    "map": ("a mapping {a:1}", _of(dict)),
}


def walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a nested mapping with its value, parents first; lists are values."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        yield key, value
        if isinstance(value, dict):
            yield from walk(value, f"{key}.")


def check(resolved: Mapping[str, Any], rules: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Hold a whole resolved configuration against the table: what a YAML file says counts as much as the command line.

    Yields key and new value where a rule takes a value as something else (one text as a list of one).
    """
    for key, value in walk(resolved):
        rule = rule_of(key, rules)
        if rule is not None:
            taken = take(key, value, in_words(value), rule)
            if taken is not value and taken != value:
                yield key, taken


def in_words(value: Any) -> str:
    """A value as one would write it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(in_words(item) for item in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
