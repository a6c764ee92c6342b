"""Imported by mml-ray at its start, in the driver and in every worker."""

from mml_ray_buzz.buzz import Artifact

from mml_ray.store.manager import MMLFileManager

CONFIG_PACKAGE = "mml_ray_buzz.configs"

MMLFileManager.add_assignment_path(obj_cls=Artifact, key="foo", path="PROJ_PATH/FOO/TASK_NAME/foo.json", reusable=True)
MMLFileManager.add_assignment_path(obj_cls=Artifact, key="baz", path="PROJ_PATH/BAZ/baz.json")
