"""The env file: where data and results lie, and who may send what to whom. Optional; nothing has to be set up to start."""

from __future__ import annotations

import os
from pathlib import Path

from mml_ray.errors import MMLMisconfigurationException

LOCATION = "MML_ENV_PATH"
FILE_NAME = "mml.env"
#: value of ``MML_CONFIGS_PATH`` that stands for the configuration shipped with the package
DEFAULT_CONFIGS = "DEFAULT_CONF_PATH"


def find() -> Path | None:
    """The env file: what ``MML_ENV_PATH`` names, else ``mml.env`` in the working directory, else ``None``."""
    given = os.environ.get(LOCATION, "")
    if given:
        path = Path(given).expanduser()
        if not path.is_file():
            raise MMLMisconfigurationException(
                f"{LOCATION}={given}: there is no such file. Correct or unset it; mml-ray-env-setup creates an env file."
            )
        return path
    path = Path(FILE_NAME)
    return path if path.is_file() else None


def load() -> Path | None:
    """Read the env file, if there is one, into the environment; variables that are set already win.

    Syntax: ``export NAME=value`` lines as a shell reads them. A line that cannot be read is an error that names it.
    """
    path = find()
    for name, value in parse(path).items() if path is not None else ():
        os.environ.setdefault(name, value)
    return path


def parse(path: Path) -> dict[str, str]:
    """The variables of one env file; ``${OTHER}`` is replaced."""
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    try:
        with path.open(encoding="utf-8") as stream:
            wrong = [binding.original for binding in parse_stream(stream) if binding.error]
        values = dotenv_values(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MMLMisconfigurationException(f"The env file {path} cannot be read: {error}") from error
    if wrong:
        raise MMLMisconfigurationException(
            f"{path}, line {wrong[0].line}: cannot read '{wrong[0].string.strip()}'. Each line is: export NAME=value"
        )
    return {name: value for name, value in values.items() if value is not None}


def configs_path() -> Path | None:
    """The user's own configuration folder (``MML_CONFIGS_PATH``), or ``None``."""
    given = os.environ.get("MML_CONFIGS_PATH", "")
    if given in ("", DEFAULT_CONFIGS):
        return None
    path = Path(given).expanduser().absolute()
    if not path.is_dir():
        raise MMLMisconfigurationException(
            f"MML_CONFIGS_PATH={given}: there is no such folder. Create it with mml-ray-copy-conf, "
            f"or set {DEFAULT_CONFIGS} for the configuration that ships with mml-ray."
        )
    return path


def config_name() -> str:
    """Name of the main configuration file without suffix (``MML_CONFIG_NAME``, default ``config_mml``)."""
    return os.environ.get("MML_CONFIG_NAME") or "config_mml"
