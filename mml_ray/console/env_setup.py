"""``mml-ray-env-setup``: an env file of one's own."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from mml_ray import atomic, env
from mml_ray.errors import EXIT_OK, MMLMisconfigurationException

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


def configure(parser: argparse.ArgumentParser) -> None:
    """It takes no arguments."""


def run(given: argparse.Namespace) -> int:
    """Write ``./mml.env``; refuses where an env file already exists."""
    if os.environ.get(env.LOCATION):
        raise MMLMisconfigurationException(
            f"{env.LOCATION} is set to {os.environ[env.LOCATION]}. Edit that file, or unset the variable."
        )
    path = Path(env.FILE_NAME).absolute()
    if path.exists():
        raise MMLMisconfigurationException(f"{path} already exists. Edit it, or move it away first.")
    atomic.write_text(path, TEMPLATE.format(data=_quoted(path.parent / "mml_data"), results=_quoted(path.parent / "mml_results")))
    print(
        f"Created {path}.\n"
        "1. Edit MML_DATA_PATH, MML_RESULTS_PATH and MML_LOCAL_WORKERS in it.\n"
        f"2. It is found in this folder; from elsewhere: export {env.LOCATION}={path}\n"
        "3. Keep it out of version control (.gitignore)."
    )
    return EXIT_OK


def _quoted(value: Path | str) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w@%+=:,./-]+", text) else "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
