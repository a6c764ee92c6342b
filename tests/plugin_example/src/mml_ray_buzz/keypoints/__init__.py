"""A modality and a task type of their own: points of an image that have names, and finding them.

Imported at every start of mml-ray, in the driver and in every worker, so it is light: what needs torch or OpenCV stands in modules that
are imported when their kind is asked for.
"""

from mml_ray.registry import registry
from mml_ray.tasks.attributes import ALBUMENTATIONS_TARGETS, KORNIA_VALID_MODALITIES, Modality, TaskType

#: entry of a sample: ``[[x, y], ...]`` in pixels, one for each name of the task's ``idx_to_class``, in the order of the indices
LANDMARKS = Modality.register("landmarks")
KORNIA_VALID_MODALITIES.add(LANDMARKS)  # has to move along with the image: backends that cannot do it refuse the task
ALBUMENTATIONS_TARGETS[LANDMARKS] = "keypoints"  # and this is how albumentations moves it

LANDMARK_DETECTION = TaskType.register(
    "landmark_detection", requires=[[LANDMARKS, Modality.IMAGE]], target=LANDMARKS, route="kp"
)

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
