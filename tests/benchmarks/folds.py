"""Four folds side by side on two slots of one thread, beside the same four folds one after the other in one process.

    python tests/benchmarks/folds.py [--epochs 12]

Wall time from the first start of a training to the last commit of one, as the journals tell it, so Ray's own start is left out.
Give as many epochs as make one fold last 30 s or more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def call(arguments: list[str], folder: Path) -> None:
    """``mml-ray <arguments>`` with roots of its own, in a process of its own."""
    environment = {**os.environ, "MML_DATA_PATH": str(folder / "data"), "MML_RESULTS_PATH": str(folder / "results")}
    subprocess.run([sys.executable, "-m", "mml_ray", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)


def seconds_of(folder: Path, project: str) -> tuple[float, list[float]]:
    """Wall time of all trainings of the project's run, and the seconds of each."""
    (run_dir,) = (folder / "results" / project / "runs").glob("*/*")
    lines = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()]
    ours = [line for line in lines if str(line.get("command", "")).startswith("train_fold")]
    started = [line["at"] for line in ours if line["op"] == "attempt_started"]
    committed = [line for line in ours if line["op"] == "committed"]
    return max(line["at"] for line in committed) - min(started), [line["seconds"] for line in committed]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        call(["create", "tasks=digits", "mode.n_folds=4"], folder)
        train = ["train", "tasks=digits", f"trainer.max_epochs={given.epochs}", f"trainer.min_epochs={given.epochs}"]
        train += ["resources.train_fold.num_cpus=1", "num_workers=0", "trainer.deterministic=true"]
        call([*train, "proj=inline", "sys.executor=inline"], folder)
        call([*train, "proj=ray", "sys.executor=ray", "sys.num_cpus=2"], folder)
        inline, folds = seconds_of(folder, "inline")
        side_by_side, beside = seconds_of(folder, "ray")
        print(f"four folds, inline, one thread: {inline:.1f} s (one fold {min(folds):.1f} to {max(folds):.1f} s)")
        print(f"four folds, two slots of one thread: {side_by_side:.1f} s (one fold {min(beside):.1f} to {max(beside):.1f} s)")
        print(f"ratio {side_by_side / inline:.3f}")


if __name__ == "__main__":
    main()
