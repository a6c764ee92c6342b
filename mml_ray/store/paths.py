"""The files of a run as attributes of one object, and paths in a form that lets folders be moved.

A stored path is ``<scheme>:<relative path with slashes>``: ``results:`` below the results root, ``data:`` below the data root,
``run:`` below the run folder where that lies in neither, and ``file:`` with an absolute path for anything else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mml_ray.errors import MMLMisconfigurationException
from mml_ray.journal.folder import JournalFolder


class RunPaths(JournalFolder):
    """The files of one run folder."""

    def __init__(self, run_dir: Path | str) -> None:
        super().__init__(run_dir)
        self.run_dir = self.path
        #: the plan as JSON: what the journal holds, for people and programs
        self.plan = self.path / "plan.json"
        #: the resolved configuration
        self.config = self.path / "config.yaml"
        #: the artifacts of earlier runs that this run uses
        self.reused = self.path / "reused.json"
        #: logs of the run and of its commands
        self.logs = self.path / "logs"
        #: training checkpoints by command, and files of ``TEMP_PATH`` assignments; removed when the run has finished
        self.checkpoints = self.path / "CHECKPOINTS"
        self.temp = self.path / "TEMP"
        self.report = self.path / "report.html"

    def log_of(self, command: str) -> Path:
        """The log of one command."""
        return self.logs / f"{command}.log"


@dataclass(frozen=True)
class Roots:
    """The folders that stored paths are relative to; all absolute."""

    results: Path
    data: Path
    project: Path
    run: Path

    @classmethod
    def of(cls, roots: Mapping[str, str | Path], run_dir: Path | str) -> Roots:
        """From the plain form ``{"results", "data", "project"}``.

        Raises:
            MMLMisconfigurationException: one of them is missing, or the project is not below the results root.
        """
        missing = [name for name in ("results", "data", "project") if not roots.get(name)]
        if missing:
            raise MMLMisconfigurationException(f"The roots must name results, data and project; missing: {', '.join(missing)}.")
        found = {name: Path(os.path.abspath(roots[name])) for name in ("results", "data", "project")}
        if not found["project"].is_relative_to(found["results"]):
            raise MMLMisconfigurationException(
                f"The project {found['project']} must lie below the results root {found['results']}."
            )
        return cls(**found, run=Path(os.path.abspath(run_dir)))

    def to_journal(self) -> dict[str, str]:
        """Results root and project relative to the run, as they may be moved together; the data root absolute."""
        relative = {name: os.path.relpath(getattr(self, name), self.run) for name in ("results", "project")}
        return {**relative, "data": str(self.data)}

    def stored(self, path: Path | str) -> str:
        """The stored form of a path. A relative one is taken from the working folder."""
        absolute = Path(os.path.abspath(path))
        for candidate in (absolute, absolute.resolve()):
            for scheme, root in (("results", self.results), ("data", self.data), ("run", self.run)):
                for base in (root, root.resolve()):
                    if candidate.is_relative_to(base):
                        return f"{scheme}:{candidate.relative_to(base).as_posix()}"
        return f"file:{absolute.as_posix()}"

    def absolute(self, stored: str) -> Path:
        """The inverse of :meth:`stored`.

        Raises:
            MMLMisconfigurationException: an unknown scheme, or a path that leaves its root.
        """
        scheme, colon, rest = stored.partition(":")
        if scheme == "file" and colon and rest.startswith("/"):
            return Path(rest)
        root = {"results": self.results, "data": self.data, "run": self.run}.get(scheme)
        if not colon or root is None or rest.startswith("/") or ".." in PurePosixPath(rest).parts:
            raise MMLMisconfigurationException(
                f"'{stored}' is not a stored path. Allowed: results:, data: or run: with a path below that root, or file: with an "
                "absolute path."
            )
        return root / rest
