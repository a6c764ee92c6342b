"""A task kind of its own: into which direction something points, given in degrees and predicted as a point of the unit circle."""

from mml_ray.registry import registry
from mml_ray.tasks.attributes import TaskType
from mml_ray.tasks.kinds import TaskKind

DIRECTION = TaskType.register(
    TaskKind(
        task_type="direction",
        target="direction",
        requires=(("direction", "image"),),
        route="reg",  # losses and metrics are those of regression
        loader="array",
        target_shape=(2,),
        head="direction",
        outputs=2,
    )
)

registry.provide("verifier", f"{__name__}.verifier")
registry.provide("head", f"{__name__}.head")
