"""The list of tasks that a run works on: tagging, variants, duplicates, the pivot."""

from __future__ import annotations

from collections import Counter

from omegaconf import DictConfig, open_dict

from mml_ray.errors import MMLMisconfigurationException


def expand(cfg: DictConfig) -> str | bool:
    """Write the final names into ``cfg.task_list`` and return the name of the pivot task, or ``False`` if there is none.

    In this order: ``tagging.all`` is appended to every task; ``tagging.variants`` repeats the whole list for each variant
    (``+identity``: unchanged); a name that occurs more than once becomes ``<name>+duplicate?<n>``; the pivot, with its own tags, replaces the
    first task of its plain name, or is appended.

    Raises:
        MMLMisconfigurationException: a tag without its ``+``, or a blank in a name.
    """
    names = [str(name) for name in cfg.get("task_list", None) or []]
    tagging = cfg.get("tagging", None) or {}
    suffix = tagging.get("all", None) or ""
    if suffix:
        names = [name + _checked(str(suffix), "tagging.all") for name in names]
    variants = [_checked(str(variant), "tagging.variants") for variant in tagging.get("variants", None) or []]
    if variants:
        names = [name + ("" if variant == "+identity" else variant) for variant in variants for name in names]
    names = _numbered(names)
    pivot = _pivot(cfg, names)
    for name in names:
        if " " in name:
            raise MMLMisconfigurationException(
                f"Task name '{name}' must not contain a blank. Tags are written 'task+tag?argument'."
            )
    with open_dict(cfg):
        cfg.task_list = names
    return pivot


def _checked(tag: str, where: str) -> str:
    if not tag.startswith("+"):
        raise MMLMisconfigurationException(f"{where} must be a tag that starts with '+', such as '+nested?0', got '{tag}'.")
    return tag


def _numbered(names: list[str]) -> list[str]:
    count = Counter(names)
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name}+duplicate?{seen[name]}" if count[name] > 1 else name)
    return numbered


def _pivot(cfg: DictConfig, names: list[str]) -> str | bool:
    chosen = cfg.get("pivot", None) or {}
    plain = str(chosen.get("name", None) or "")
    if not plain:
        return False
    pivot = (plain + str(chosen.get("tags", None) or "")).strip()
    if plain in names:
        names[names.index(plain)] = pivot
    elif pivot not in names:
        names.append(pivot)
    return pivot
