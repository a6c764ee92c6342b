"""The example plugin's modality and task type, from ``mml-ray create`` to predictions, in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.integration.harness import Place

HERE = Path(__file__).resolve().parent
TASK = ("tasks=three_dots", "trainer.enable_progress_bar=false", "mode.nested=false", "mode.cv=false")


@dataclass(frozen=True)
class PluginPlace(Place):
    """A place where the plugin is installed."""

    site: Path

    def environment(self, **extra: str) -> dict[str, str]:
        """That of a user who has installed the plugin."""
        return {**super().environment(**extra), "PYTHONPATH": str(self.site)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, plugin_site: Path) -> PluginPlace:
    """The installed plugin, and the task ``three_dots`` as ``mml-ray create`` makes it."""
    root = tmp_path_factory.mktemp("landmarks")
    place = PluginPlace(root / "data", root / "results", plugin_site)
    code, output = place.call("create", "tasks=three_dots", "mode.n_folds=5")
    assert code == 0, output
    return place


@pytest.fixture(scope="module")
def batches(place: PluginPlace) -> dict[str, Any]:
    """What ``landmark_batches.py`` found."""
    done = subprocess.run(
        [sys.executable, str(HERE / "landmark_batches.py"), str(place.data)],
        env=place.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_create_describes_the_task(place: PluginPlace) -> None:
    content = json.loads((place.data / "RAW" / "DSET_three_dots" / "TASK_three_dots.json").read_text())
    assert content["task_type"] == "landmark_detection" and set(content["modalities"]) == {"image", "landmarks"}
    assert len(content["train_samples"]) == 50 and len(content["train_folds"]) == 5
    sample = next(iter(content["train_samples"].values()))
    assert len(sample["landmarks"]) == 3 and all(len(point) == 2 for point in sample["landmarks"])


def test_batches_hold_the_landmarks_in_pixels(batches: dict[str, Any]) -> None:
    assert batches["plain"]["image"] == [[16, 3, 64, 96], "torch.float32"]
    assert batches["plain"]["targets"] == [[16, 3, 2], "torch.float32"]
    assert batches["as stored"] and batches["repeated"]
    assert batches["plain"]["right"] == batches["plain"]["inside"] == 120


@pytest.mark.parametrize("name", ["crop", "flip", "both flips", "affine", "turn"])
def test_landmarks_move_with_the_image(batches: dict[str, Any], name: str) -> None:
    found = batches["moved"][name]
    assert found["inside"] > 90 and found["right"] == found["inside"]


def test_landmarks_follow_the_preprocessing_and_stay_where_something_is_cut_out(batches: dict[str, Any]) -> None:
    assert batches["resized"]["image"][0] == [16, 3, 32, 48]
    assert batches["resized"]["right"] == batches["resized"]["inside"] == 120
    assert 90 < batches["moved"]["holes"]["right"] <= batches["moved"]["holes"]["inside"] == 120


def test_what_cannot_move_landmarks_is_refused(batches: dict[str, Any], place: PluginPlace) -> None:
    for name in ("kornia", "gpu"):
        assert "kornia cannot transform landmarks together with the image" in batches[name]
    code, output = place.call("pp", "tasks=three_dots", "preprocessing=size224", "proj=pp")
    assert code == 2 and "cannot be stored preprocessed: its landmarks" in output
    code, output = place.call("train", *TASK, "trainer.max_epochs=1", "tta=rotate", "mode.subroutines=[train,test]", "proj=tta")
    assert code == 2 and "tta=none" in output and not (place.results / "tta" / "runs").exists(), output


def test_a_sample_with_wrong_landmarks_is_named(batches: dict[str, Any]) -> None:
    assert batches["wrong"].startswith("Sample 'one' of task 'wrong': Landmarks must be 3 pairs of finite numbers")


def test_one_object_a_head_and_a_verifier_are_a_task_kind(batches: dict[str, Any]) -> None:
    found = batches["direction"]
    assert found["stored"] == pytest.approx([-1, 0], abs=1e-9), "180 degrees"
    assert [cosine**2 + sine**2 for cosine, sine in found["targets"]] == pytest.approx([1, 1, 1], abs=1e-5)
    assert found["norm"] == pytest.approx(1, abs=1e-5) and found["loss"] > 0
    assert "A direction must be a finite number of degrees, got 'north'." in found["refused"]


def test_a_training_on_ray_finds_the_dots(place: PluginPlace) -> None:
    """Head, loss and metrics of the plugin; in a worker, which loads it by itself."""
    code, output = place.call("train", *TASK, "mode.subroutines=[train,predict,test]", "sys.executor=ray", "proj=ray")
    assert code == 0, output
    (path,) = (place.results / "ray" / "PREDICTIONS" / "three_dots").glob("*.parquet")
    table = pq.read_table(path).to_pylist()
    rows = [row for row in table if row["split"] == "TEST"]
    assert len(rows) == 10 and all(row["probabilities"] is None for row in rows)
    errors = [
        sum((a - b) ** 2 for a, b in zip(row["target"][point : point + 2], row["logits"][point : point + 2], strict=True)) ** 0.5
        for row in rows
        for point in (0, 2, 4)
    ]
    assert sum(errors) / len(errors) < 8, "the middle of the image is 20 pixels from a dot on average"
    (model,) = (place.results / "ray" / "MODELS" / "three_dots").glob("*.json")
    assert "landmark_error" in model.read_text() and "landmarks_found" in model.read_text()


@pytest.mark.slow
def test_another_loss_of_the_route_is_one_option_away(place: PluginPlace) -> None:
    code, output = place.call("train", *TASK, "loss/kp=huber", "metrics.kp=[]", "trainer.max_epochs=1", "proj=huber")
    assert code == 0, output
    (run,) = (place.results / "huber" / "runs").glob("*/*")
    assert "type: huber" in (run / "config.yaml").read_text().split("kp:")[1]


def test_what_is_not_linked_is_named(place: PluginPlace) -> None:
    bare = ("task_list=[three_dots]", "pivot.name=three_dots", "mode.nested=false", "mode.cv=false", "arch.name=basic_unet")
    alone = ("preprocessing=none", "augmentations=none", "trainer.max_epochs=1")
    code, output = place.call("train", *bare, *alone, "proj=bare")
    assert code == 2 and "no loss.kp" in output and "+loss/kp=distance (there are distance, huber)" in output
    code, output = place.call("train", *bare, *alone, "+loss/kp=distance", "+metrics/kp=default", "proj=bare")
    assert code == 2 and "no loaders.landmarks. Choose an option of loaders" in output
    assert not (place.results / "bare" / "runs").exists()
    linked = ("+loss/kp=distance", "+metrics.kp=[landmark_error]", "loaders=landmarks", "arch.params={features: [8,8,8,8,8,8]}")
    code, output = place.call("train", *bare, *alone, *linked, "proj=bare")
    assert code == 0, output
