"""The example plugin, installed as a package and run through ``mml-ray buzz`` in fresh processes, on both executors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mml_ray.store.data_root import DataRoot
from mml_ray.tasks.attributes import DataSplit
from tests.integration.harness import Place, commits, files, journal

#: four tasks, each twice: eight names
EIGHT = ("task_list=[digits,digits]", "tagging.variants=[+identity,+nested?0,+nested?1,+subset?0_5]")
AT_ONCE = 4


@dataclass(frozen=True)
class BuzzPlace(Place):
    """A place where the plugin is installed."""

    site: Path

    def environment(self, **extra: str) -> dict[str, str]:
        """That of a user who has installed the plugin."""
        return {**super().environment(**extra), "PYTHONPATH": str(self.site)}

    def artifacts(self, project: str) -> dict[str, dict[str, Any]]:
        """By task: what its ``step_a`` stored."""
        found = (self.results / project / "FOO").glob("*/*.json")
        return {path.parent.name: json.loads(path.read_text()) for path in found}

    def baz(self, project: str) -> dict[str, float]:
        """What ``step_b`` stored."""
        (path,) = (self.results / project / "BAZ").glob("*.json")
        content: dict[str, float] = json.loads(path.read_text())
        return content


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, digits: Path, plugin_site: Path) -> BuzzPlace:
    """Eight tasks, gone through inline in project ``inline`` and on Ray in project ``ray``."""
    root = tmp_path_factory.mktemp("buzz")
    meeting = root / "meeting"
    meeting.mkdir()
    place = BuzzPlace(digits, root / "results", plugin_site)
    code, output = place.call("buzz", *EIGHT, "proj=inline", "sys.executor=inline")
    assert code == 0, output
    on_ray = ("proj=ray", "sys.executor=ray", f"sys.num_cpus={AT_ONCE}", "resources.step_a.num_cpus=1")
    code, output = place.call("buzz", *EIGHT, *on_ray, MML_BUZZ_MEET=f"{meeting}:{AT_ONCE}")
    assert code == 0, output
    return place


def test_eight_steps_a_run_side_by_side_and_step_b_after_them(place: BuzzPlace) -> None:
    notes = [json.loads(path.read_text()) for path in (place.results.parent / "meeting").iterdir()]
    assert len(notes) == 8
    most = max(sum(began <= moment <= ended for began, ended in notes) for moment, _ in notes)
    assert most >= AT_ONCE, f"{most} at once: {sorted(notes)}"
    operations = [(line["op"], line.get("command", "").split("--")[0]) for line in journal(place.run_dir("ray"))]
    started_b = operations.index(("attempt_started", "step_b"))
    assert operations[:started_b].count(("committed", "step_a")) == 8


def test_the_mean_labels_are_right_and_the_same_on_both_executors(place: BuzzPlace) -> None:
    artifacts, baz = place.artifacts("ray"), place.baz("ray")
    assert len(artifacts) == len(baz) == 8
    means = [sum(found["targets"]) / len(found["targets"]) for found in artifacts.values()]
    assert sorted(baz.values()) == sorted(means) and len(set(means)) > 1
    samples = DataRoot(place.data).description("digits").samples(DataSplit.FULL_TRAIN, 0)
    for found in artifacts.values():
        assert found["targets"] == [int(samples[name]["class"]) for name in found["samples"]]
    assert files(place.results / "ray") == files(place.results / "inline")
    assert commits(place.run_dir("ray")) == commits(place.run_dir("inline"))
    assert set(commits(place.run_dir("ray")).values()) == {1}


def test_the_overrides_of_the_mode_s_configuration_take_effect(place: BuzzPlace) -> None:
    cfg = yaml.safe_load((place.run_dir("ray") / "config.yaml").read_text())
    assert cfg["augmentations"] == {"normalization": None, "cpu": {}, "gpu": {}}  # no_norm
    assert (cfg["sampling"]["batch_size"], cfg["sampling"]["sample_num"]) == (100, 1000)  # extraction_default; the mode's own
    assert (cfg["mode"]["id"], cfg["mode"]["var_one"], cfg["mode"]["var_two"]) == ("BUZZ", 1337, 42)
    for found in place.artifacts("ray").values():
        assert found["batches"] == 10 and found["shape"][0] == 100
        assert 0.0 <= found["darkest"] < found["brightest"] <= 1.0


def test_hooks_run_and_what_the_first_one_sets_is_there_in_the_last(place: BuzzPlace) -> None:
    for project in ("inline", "ray"):
        assert (place.run_dir(project) / "finished.txt").read_text() == "BUZZ: 1337, 42"


def test_a_subroutine_alone_on_what_another_project_has(place: BuzzPlace) -> None:
    code, output = place.call("buzz", *EIGHT, "proj=alone", "mode.subroutines=[b]", "reuse.foo=ray", "sys.executor=inline")
    assert code == 0, output
    assert place.baz("alone") == place.baz("ray") and not (place.results / "alone" / "FOO").exists()
    assert [key.split("--")[0] for key in commits(place.run_dir("alone"))] == ["prepare_exp", "step_b", "finish_exp"]


def test_without_the_artifacts_the_run_fails_and_says_of_what(place: BuzzPlace) -> None:
    code, output = place.call("buzz", *EIGHT, "proj=nothing", "mode.subroutines=[b]", "sys.executor=inline")
    assert code == 1 and "KeyError: 'foo'" in output and "step_b" in output
    again = re.search(r"Continue with: mml-ray (.*)", output)
    assert again is not None and "proj=nothing" in again.group(1) and "BUZZ" not in again.group(1)
    code, output = place.call(*again.group(1).split())
    assert code == 1 and "(attempt 2)" in output


def test_the_command_line_knows_the_plugin(place: BuzzPlace, tmp_path: Path) -> None:
    code, output = place.call("--version")
    assert code == 0 and re.search(r"^buzz 0\.3\.0$", output, re.M)
    code, output = place.call("--help")
    assert code == 0 and re.search(r"^  buzz +One artifact for each task", output, re.M)
    code, output = place.call("--complete", "zsh", "mml-ray bu")
    assert (code, output.split()) == (0, ["buzz"])
    code, output = place.call("--complete", "zsh", "mml-ray buzz mode.var_")
    assert (code, output.split()) == (0, ["mode.var_one=", "mode.var_two="])
    elsewhere = Place(place.data, tmp_path)
    code, output = elsewhere.call("buzz", *EIGHT)
    assert code == 2 and "Unknown mode 'buzz'" in output
