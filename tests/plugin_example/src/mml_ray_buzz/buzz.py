"""A scheduler with two steps: ``step_a`` once for each task, ``step_b`` once for all of them."""

import json
from pathlib import Path

from omegaconf import DictConfig

from mml_ray_buzz.rendezvous import rendezvous
from mml_ray.schedulers.base import AbstractBaseScheduler


class Artifact:
    """Something that can be stored."""

    def __init__(self, content):
        self.content = content

    def store(self, path):
        Path(path).write_text(json.dumps(self.content, indent=1, sort_keys=True))


def load_my_artifact(path):
    return Artifact(json.loads(Path(path).read_text()))


def heavy_work(source):
    """Of a datamodule what its first batch holds, of artifacts the mean label of each."""
    if isinstance(source, dict):
        return Artifact({task: sum(found.content["targets"]) / len(found.content["targets"]) for task, found in source.items()})
    with rendezvous():
        source.setup("fit")
        loader = source.train_dataloader()
        (fields,) = next(iter(loader)).values()
    image = fields["image"]
    return Artifact(
        {
            "batches": len(loader),
            "brightest": float(image.max()),
            "darkest": float(image.min()),
            "samples": list(fields["sample_id"]),
            "shape": list(image.shape),
            "targets": [int(target) for target in fields["targets"]],
        }
    )


class BuzzScheduler(AbstractBaseScheduler):

    def __init__(self, cfg: DictConfig):
        # initialize
        super(BuzzScheduler, self).__init__(cfg=cfg, available_subroutines=["a", "b"])

    def create_routine(self):
        # -- add step_a commands
        if "a" in self.subroutines:  # subroutines may be called independently
            for task in self.cfg.task_list:
                self.commands.append(self.step_a)
                self.params.append([task])
        # -- add step_b command
        if "b" in self.subroutines:
            # run only once, nor args
            self.commands.append(self.step_b)
            self.params.append([])

    def step_a(self, task_name):
        struct = self.get_struct(task_name)
        # do calculations
        datamodule = self.create_datamodule(struct)
        artifact = heavy_work(datamodule)
        # store
        path = self.fm.construct_saving_path(obj=artifact, key='foo', task_name=task_name)
        artifact.store(path)
        # attach path to struct (this will make it persistent across atomic steps)
        struct.paths['foo'] = path

    def step_b(self):
        # load artifacts
        artifacts = {}
        for task in self.cfg.task_list:
            struct = self.get_struct(task)
            artifacts[task] = load_my_artifact(path=struct.paths['foo'])
        # do some work
        end_result = heavy_work(artifacts)
        # store
        path = self.fm.construct_saving_path(obj=end_result, key='baz')
        end_result.store(path)

    # -- hooks
    def after_preparation_hook(self):
        self.greeting = f"{self.cfg.mode.id}: {self.cfg.mode.var_one}, {self.cfg.mode.var_two}"

    def before_finishing_hook(self):
        (self.fm.log_path / "finished.txt").write_text(self.greeting)
