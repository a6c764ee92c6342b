"""A modality and a task type of their own: points of an image that have names, and finding them.

Imported at every start of mml-ray, in the driver and in every worker, so it is light: what needs torch or OpenCV stands in modules that
are imported when their kind is asked for.
"""

from mml_ray.registry import registry
from mml_ray.tasks.attributes import Modality, TaskType
from mml_ray.tasks.kinds import TaskKind

#: entry of a sample: ``[[x, y], ...]`` in pixels, one for each name of the task's ``idx_to_class``, in the order of the indices
LANDMARK_DETECTION = TaskType.register(
    TaskKind(
        task_type="landmark_detection",
        target="landmarks",
        requires=(("landmarks", "image"),),
        route="kp",
        moves_as="keypoints",  # crops and rotations move the points, too; backends that cannot do it refuse the task
        features="dense",  # an architecture without features of places is refused
    )
)
LANDMARKS = Modality("landmarks")

for _kind, _module in {
    "verifier": "reading",
    "loader": "reading",
    "head": "learning",
    "loss": "learning",
    "metric": "learning",
    "dset_creator": "creators",
    "task_creator": "creators",
}.items():
    registry.provide(_kind, f"{__name__}.{_module}")
