"""``mml-ray-copy-conf``: a configuration of one's own, to be edited."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from dotenv import set_key

from mml_ray import env
from mml_ray.composition.tree import PACKAGED
from mml_ray.errors import EXIT_FAILED, EXIT_OK


def configure(parser: argparse.ArgumentParser) -> None:
    """``--yes`` answers the question, for scripts."""
    parser.add_argument("--yes", "-y", action="store_true", help="copy without asking")


def run(given: argparse.Namespace) -> int:
    """Copy the configuration to ``./configs`` after a question, and enter it in the env file if there is one."""
    target = Path("configs").absolute()
    if target.exists():
        print(f"{target} already exists. Move it away first.", file=sys.stderr)
        return EXIT_FAILED
    answer = "y" if given.yes else input(f"Copy the configuration to {target}? [Y/n] ").strip().lower()
    if answer == "n":
        return EXIT_OK
    if answer not in ("", "y"):
        print(f"The answer must be y or n, got '{answer}'. Nothing was copied.", file=sys.stderr)
        return EXIT_FAILED
    shutil.copytree(PACKAGED, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    print(f"Copied to {target}. Files there win over those of the package; what you do not change may be deleted.")
    path = env.find()
    if path is None:
        print(f"There is no env file. To use the copy: export MML_CONFIGS_PATH={target}")
    else:
        set_key(path, "MML_CONFIGS_PATH", str(target), export=True)
        print(f"Entered as MML_CONFIGS_PATH in {path}.")
    return EXIT_OK
