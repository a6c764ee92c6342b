"""Tab completion: the scripts for the shells, and the candidates they ask for."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mml_ray.composition.tree import ConfigTree, config_tree
from mml_ray.console.arguments import SHELLS, SUBCOMMANDS, main_parser
from mml_ray.errors import MMLError

BASH = """\
_mml_ray() {
    local IFS=$'\\n'
    COMPREPLY=($(mml-ray --complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
    return 0
}
complete -o default -F _mml_ray mml-ray
"""
ZSH = """\
#compdef mml-ray
_mml_ray() {
    local -a all open
    all=("${(@f)$(mml-ray --complete zsh "${BUFFER[1,CURSOR]}" 2>/dev/null)}")
    all=(${all:#})
    (( $#all )) || { _files; return }
    open=(${(M)all:#*[=.]})
    all=(${all:#*[=.]})
    (( $#open )) && compadd -S '' -- $open
    (( $#all )) && compadd -- $all
}
compdef _mml_ray mml-ray
"""
FISH = """\
function __mml_ray_complete
    mml-ray --complete fish (commandline -cp) 2>/dev/null
end
complete -c mml-ray -a '(__mml_ray_complete)'
"""
#: by shell; ``mml-ray --install-completion bash >> ~/.bashrc`` keeps it
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def candidates(line: str, shell: str = "zsh") -> list[str]:
    """What the last word of ``line`` (the command line up to the cursor) may become.

    Bash takes ``=`` as the end of a word, so for it the part up to the last ``=`` is left out.
    """
    words = _words(line)[1:]
    if not words:
        return []
    *before, last = words
    found = sorted(set(_for_word(before, last, config_tree())))
    return [candidate.rpartition("=")[2] if "=" in last and shell == "bash" else candidate for candidate in found]


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is still open
        words = line.split()
    return [*words, ""] if line[-1:].isspace() else words


def _for_word(before: Sequence[str], last: str, tree: ConfigTree) -> Iterable[str]:
    if before and before[-1] in ("--install-completion", "-sc", "--shell-completion"):
        prefix = "install=" if before[-1] != "--install-completion" else ""
        return [f"{prefix}{shell}" for shell in SHELLS if f"{prefix}{shell}".startswith(last)]
    if before and before[-1] in ("--cfg", "-c"):
        return ["job"]
    if last.startswith("-"):
        parser = SUBCOMMANDS[before[0]].parser if before and before[0] in SUBCOMMANDS else main_parser()
        return [name for name in parser.flags() if name.startswith(last)]
    given = [word for word in before if not word.startswith("-")]
    if not given and "=" not in last:
        return [name for name in [*tree.modes, *SUBCOMMANDS, "continue="] if name.startswith(last)]
    if given and given[0] in SUBCOMMANDS:
        return [word for word in SUBCOMMANDS[given[0]].parser.choices() if len(given) == 1 and word.startswith(last)]
    return _for_override(given, last, tree)


def _for_override(given: Sequence[str], last: str, tree: ConfigTree) -> Iterable[str]:
    key, equals, value = last.partition("=")
    sign = key[: len(key) - len(key.lstrip("+~"))]
    name = key[len(sign) :]
    if not equals:
        keys = [] if "/" in name else _keys(_settings(given), name)
        groups = [f"{group}=" for group in tree.groups if group != "mode"]
        return [f"{sign}{one}" for one in [*groups, *keys] if one.startswith(name)]
    done, comma, part = value.rpartition(",")  # inside [early,swa
    lead = f"{done}{comma}" if comma else value[:1] if value.startswith("[") else ""
    part = part if comma else value[len(lead) :]
    words = tree.groups[name] if name in tree.groups else _values(name, given)
    return [f"{key}={lead}{word}" for word in words if word.startswith(part)]


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """The composed configuration of the words so far, as far as they can be composed."""
    from omegaconf import OmegaConf

    from mml_ray.composition.compose import compose_run

    for words in (given, given[:1], ["info"]):
        try:
            settings = OmegaConf.to_container(compose_run(words).cfg, resolve=False)
        except MMLError:
            continue
        return {str(key): value for key, value in settings.items()} if isinstance(settings, dict) else {}
    return {}


def _keys(settings: dict[str, Any], name: str) -> list[str]:
    """Keys on the level of ``name``: ``trainer.`` for one that holds others, ``seed=`` for a value."""
    parents = name.split(".")[:-1]
    node = _inside(settings, parents)
    if not isinstance(node, dict):
        return []
    prefix = "".join(f"{part}." for part in parents)
    return [f"{prefix}{key}{'.' if isinstance(value, dict) and value else '='}" for key, value in node.items()]


def _values(name: str, given: Sequence[str]) -> list[str]:
    """Words that the value of a key may be, where there are few."""
    from omegaconf import OmegaConf

    from mml_ray.options import choices
    from mml_ray.preflight.groups import find_schema
    from mml_ray.schedulers.loading import mode_facts

    if name == "continue":
        return ["latest"]
    if name in _TASKS or name in _NAMED or name.startswith("reuse."):
        return _names(name, _settings(given))
    settings = _settings(given)
    schema = find_schema(name, settings, mode_facts(OmegaConf.create(settings)))
    if schema is not None:
        return [word for word in choices(schema) if word != "null"]
    return ["true", "false"] if isinstance(_inside(settings, name.split(".")), bool) else []


def _inside(settings: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


#: keys whose values are tasks of the data root
_TASKS = ("pivot.name", "task_list", "mode.co_tasks", "mode.eval_on", "mode.pretrain_task")
_NAMED = ("arch.name", "mode.subroutines", "proj")


def _names(key: str, settings: dict[str, Any]) -> list[str]:
    """Names that are there for a key to take."""
    from omegaconf import OmegaConf

    cfg = OmegaConf.create(settings)
    if key == "arch.name":
        from mml_ray.preflight.names import KNOWN_NETWORKS

        return sorted(KNOWN_NETWORKS) if settings.get("arch", {}).get("backend") == "monai" else []
    if key == "mode.subroutines":
        from mml_ray.schedulers.loading import subroutines

        return subroutines(cfg)
    if key in _TASKS:
        from mml_ray.store.data_root import DataRoot

        return list(DataRoot(cfg.data_dir).index())
    results = Path(cfg.out_dir)
    return [folder.name for folder in results.iterdir() if folder.is_dir()] if results.is_dir() else []
