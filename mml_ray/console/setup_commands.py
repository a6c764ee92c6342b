"""``mml-ray-env-setup`` and ``mml-ray-copy-conf``: an env file and a configuration of one's own."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from mml_ray import atomic, env
from mml_ray.composition.tree import PACKAGED
from mml_ray.console.messages import guarded
from mml_ray.errors import EXIT_FAILED, EXIT_OK, MMLMisconfigurationException

TEMPLATE = """\
# Settings of mml-ray on this machine. Keep this file out of version control: it may hold passwords.
# Variables that are set in the shell win over this file.

# Where data and results go, and how many processes load data for one training (auto: by its CPUs).
export MML_DATA_PATH={data}
export MML_RESULTS_PATH={results}
export MML_LOCAL_WORKERS=auto

# The configuration: a folder of your own (mml-ray-copy-conf makes one), and the name of its main file.
export MML_CONFIGS_PATH=DEFAULT_CONF_PATH
export MML_CONFIG_NAME=config_mml

# The same for sys=cluster.
# export MML_CLUSTER_DATA_PATH=
# export MML_CLUSTER_RESULTS_PATH=
# export MML_CLUSTER_WORKERS=

# Downloads from Kaggle.
# export KAGGLE_USERNAME=
# export KAGGLE_KEY=
"""


def env_setup(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mml-ray-env-setup``."""
    _parse("mml-ray-env-setup", "Write an env file ./mml.env: where data and results go.", argv)
    return guarded(create_env_file)


def copy_conf(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mml-ray-copy-conf``."""
    _parse("mml-ray-copy-conf", "Copy the configuration to ./configs, to be changed there, and enter it in the env file.", argv)
    return guarded(copy_configs)


def _parse(name: str, text: str, argv: Sequence[str] | None) -> None:
    """Neither takes arguments but ``--help``, which must not do anything."""
    argparse.ArgumentParser(prog=name, description=text).parse_args(argv)


def create_env_file() -> int:
    """Write ``./mml.env``; refuses if there is an env file already."""
    if os.environ.get(env.LOCATION):
        given = os.environ[env.LOCATION]
        raise MMLMisconfigurationException(f"{env.LOCATION} is set to {given}: edit that file, or unset the variable.")
    path = Path(env.FILE_NAME).absolute()
    if path.exists():
        raise MMLMisconfigurationException(f"{path} exists already: edit it, or move it away.")
    atomic.write_text(path, TEMPLATE.format(data=_quoted(path.parent / "mml_data"), results=_quoted(path.parent / "mml_results")))
    print(
        f"Created {path}.\n"
        "1. Edit MML_DATA_PATH, MML_RESULTS_PATH and MML_LOCAL_WORKERS in it.\n"
        f"2. It is found in this folder; from elsewhere: export {env.LOCATION}={path}\n"
        "3. Keep it out of version control (.gitignore)."
    )
    return EXIT_OK


def copy_configs() -> int:
    """Copy the configuration to ``./configs`` after a question, and enter it in the env file if there is one."""
    target = Path("configs").absolute()
    if target.exists():
        print(f"{target} exists already; move it away first.", file=sys.stderr)
        return EXIT_FAILED
    answer = input(f"Copy the configuration to {target}? [Y/n] ").strip().lower()
    if answer == "n":
        return EXIT_OK
    if answer not in ("", "y"):
        print(f"'{answer}' is neither y nor n; nothing was copied.", file=sys.stderr)
        return EXIT_FAILED
    shutil.copytree(PACKAGED, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    print(f"Copied to {target}. Files there win over those of the package; what you do not change may be deleted.")
    path = env.find()
    if path is None:
        print(f"There is no env file. To use the copy: export MML_CONFIGS_PATH={target}")
    else:
        enter(path, "MML_CONFIGS_PATH", str(target))
        print(f"Entered as MML_CONFIGS_PATH in {path}.")
    return EXIT_OK


def enter(path: Path, name: str, value: str) -> None:
    """Set ``export name=value`` in an env file: in place of the line that sets it now, else at the end."""
    line = f"export {name}={_quoted(value)}"
    lines = path.read_text(encoding="utf-8").splitlines()
    places = [index for index, text in enumerate(lines) if re.match(rf"\s*(export\s+)?{name}\s*=", text)]
    for index in places:
        lines[index] = line
    atomic.write_text(path, "\n".join(lines if places else [*lines, line]) + "\n")


def _quoted(value: Path | str) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
