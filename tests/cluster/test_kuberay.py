"""``cluster/kuberay/rayjob.yaml``: every field is one that KubeRay has, and what it runs is a command of mml-ray."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mml_ray import cli

FILE = Path(__file__).resolve().parents[2] / "cluster" / "kuberay" / "rayjob.yaml"


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    """A mapping with these keys and no others: Kubernetes drops what it does not know without a word."""
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


TEXT, NUMBER, SWITCH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
#: an amount of a resource, such as 8, "500m" or 16Gi
AMOUNT = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGT]i?)?$"}
AMOUNTS = {"type": "object", "additionalProperties": AMOUNT, "propertyNames": {"enum": ["cpu", "memory", "nvidia.com/gpu"]}}
POD = _object(
    "spec",
    spec=_object(
        "containers volumes",
        containers=_list(
            _object(
                "name image resources",
                name=TEXT,
                image=TEXT,
                env=_list(_object("name value", name=TEXT, value=TEXT)),
                resources=_object("requests limits", requests=AMOUNTS, limits=AMOUNTS),
                volumeMounts=_list(_object("name mountPath", name=TEXT, mountPath=TEXT)),
            )
        ),
        volumes=_list(
            _object(
                "name",
                name=TEXT,
                persistentVolumeClaim=_object("claimName", claimName=TEXT),
                emptyDir=_object(medium={"enum": ["", "Memory"]}, sizeLimit=AMOUNT),
            )
        ),
    ),
)
START = {"type": "object", "additionalProperties": TEXT}
#: the fields in use of KubeRay's RayJob, ``ray.io/v1``
RAY_JOB = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=_object("name", name={"type": "string", "pattern": "^[a-z0-9-]{1,47}$"}),
    spec=_object(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        backoffLimit=NUMBER,
        shutdownAfterJobFinishes=SWITCH,
        ttlSecondsAfterFinished=NUMBER,
        runtimeEnvYAML=TEXT,
        rayClusterSpec=_object(
            "rayVersion authOptions headGroupSpec workerGroupSpecs",
            rayVersion=TEXT,
            authOptions=_object("mode", mode={"const": "token"}),
            headGroupSpec=_object("rayStartParams template", rayStartParams=START, template=POD),
            workerGroupSpecs=_list(
                _object(
                    "groupName replicas minReplicas maxReplicas rayStartParams template",
                    groupName=TEXT,
                    replicas=NUMBER,
                    minReplicas=NUMBER,
                    maxReplicas=NUMBER,
                    rayStartParams=START,
                    template=POD,
                )
            ),
        ),
    ),
)


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def _pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_every_field_is_one_that_kuberay_has(job: dict[str, Any]) -> None:
    jsonschema.validate(job, RAY_JOB)
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(job, RAY_JOB)


def test_what_is_mounted_is_there_and_the_roots_lie_on_the_shared_volume(job: dict[str, Any]) -> None:
    for pod in _pods(job):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts.keys() == volumes.keys()
            roots = {item["name"]: item["value"] for item in container["env"]}
            assert roots.keys() == {"MML_DATA_PATH", "MML_RESULTS_PATH"}
            (shared,) = (mounts[name] for name in volumes if "persistentVolumeClaim" in volumes[name])
            assert all(Path(root).is_relative_to(shared) for root in roots.values())
    assert len({container["image"] for pod in _pods(job) for container in pod["containers"]}) == 1


def test_the_versions_are_those_of_the_project(job: dict[str, Any]) -> None:
    constraints = (FILE.parents[2] / "constraints.txt").read_text()
    (tested,) = re.findall(r"^ray==(\S+)$", constraints, re.M)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == tested


def test_the_entrypoint_is_a_command_that_continues(job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert program == "mml-ray" and "--auto-continue" in arguments and "sys=cluster" in arguments
    assert cli.main([*arguments, "--cfg", "job"]) == 0, capsys.readouterr().err
    assert float(yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 3
