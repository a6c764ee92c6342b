"""The model of the modes: one architecture, a head per task, losses and metrics by task type.

Configuration (plain data)::

    {"model": "multi_task", "seed": 0,
     "tasks": {"digits": {"task_type": "classification", "num_classes": 10, "class_occ": {...}, "weight": 1.0}},
     "arch": {"backend": "monai", "name": "resnet_small", "drop_rate": 0.0},
     "losses": {"cls": [...], "auto_activate_weighing": True, "class_weights": None},   # or one list for all tasks
     "metrics": {"cls": [...], "bootstrap": 20}, "train_metrics": True,
     "optimizer": {"name": "adam", "lr": 5e-4}, "lr_scheduler": {"name": "cosine"},
     "loss_reduction": "task_mean", "head_map": {"other task": "digits"}, "balanced": False}
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.metrics.definition import MetricSet
from mml_ray.metrics.rows import Rows
from mml_ray.models.architectures import create_architecture
from mml_ray.models.base import BaseModel
from mml_ray.models.heads import TaskSpec, create_head
from mml_ray.models.losses import Losses
from mml_ray.models.meters import batch_rows
from mml_ray.models.sample import ContractError, TaskBatch
from mml_ray.models.state import seeded
from mml_ray.models.task_losses import losses_for
from mml_ray.registry import registry


class Views(Protocol):
    """Test-time augmentation: the mean of ``predict`` over several views, mapped back to the image if ``dense``."""

    def __call__(
        self, predict: Callable[[Tensor], Tensor], images: Tensor, *, sample_ids: Sequence[str], dense: bool = False
    ) -> Tensor:
        """The averaged scores."""


@registry.register_model("multi_task")
@registry.register_model("single_frame")
class MultiTaskModel(BaseModel):
    """Images of several tasks through one architecture; see the module's text for the configuration.

    ``forward`` takes a :class:`TaskBatch` (or what becomes one) and gives ``{"tasks": {task: {"scores", "loss"}},
    "losses"}``, for a single task ``scores`` as well. Training minimizes ``sum(w * loss) / sum(w)`` over the tasks of a batch
    (``task_mean``), or ``sum(w * loss)`` (``sum``); the loss of a task is the sum of its terms.
    """

    backbone: Any
    losses: Any
    #: averages the scores over several views of an image, when testing and predicting
    views: Views | None = None

    # -- building -----------------------------------------------------------------------------------------------
    def build(self) -> None:
        """The architecture and the heads, from the configuration."""
        tasks = self.setting("tasks", {})
        if not tasks:
            raise MMLMisconfigurationException("A multi-task model needs 'tasks': {name: {task_type, num_classes, ...}}.")
        arch = self.setting("arch")
        self.drop_rate = float((arch or {}).get("drop_rate", 0.0) or 0.0)
        self.backbone = create_architecture(arch)
        self.backbone.to(memory_format=torch.channels_last)  # a fifth faster, also on CPUs
        self.heads = nn.ModuleDict()
        self.specs: dict[str, TaskSpec] = {}
        self.head_of: dict[str, str] = {}
        self._metrics: dict[str, MetricSet] = {}
        self._frozen: list[nn.Parameter] = []
        mapped = self.setting("head_map", {})
        for name, given in tasks.items():
            if name not in mapped:
                self._place_head(name, TaskSpec.parse(name, given))
        for name, head in mapped.items():
            self._place_redirection(head, name, tasks.get(name))
        compile_ = self.setting("compile", {})
        if compile_.get("enable"):
            self.backbone.compile(**(compile_.get("kwargs") or {}))

    def init_losses(self) -> None:
        """The losses and metrics of every task."""
        self.losses = nn.ModuleDict()
        for spec in self.specs.values():
            self._init_task(spec)
        self._losses_ready = True

    def _place_head(self, name: str, spec: TaskSpec) -> None:
        if name in self.head_of:
            raise KeyError(f"The model already has a head for task '{name}'.")
        self.heads[module_key(name)] = create_head(self.backbone, spec, self.drop_rate)
        self.specs[name] = spec
        self.head_of[name] = name

    def _place_redirection(self, head: str, task: str, given: Mapping[str, Any] | None) -> None:
        if self.head_of.get(head) != head:
            raise UnknownNameError.of("head", head, self._own_heads(), f"It cannot predict task '{task}'.")
        if task in self.head_of:
            raise MMLMisconfigurationException(f"Task '{task}' is already predicted by the head '{self.head_of[task]}'.")
        pattern = self.specs[head]
        spec = TaskSpec.parse(task, {**pattern.__dict__, **(given or {})})
        if (spec.route, spec.outputs) != (pattern.route, pattern.outputs):
            raise MMLMisconfigurationException(
                f"The head '{head}' ({pattern.task_type}, {pattern.outputs} outputs) cannot predict task '{task}' "
                f"({spec.task_type}, {spec.outputs} outputs)."
            )
        self.specs[task] = spec
        self.head_of[task] = head

    def _init_task(self, spec: TaskSpec) -> None:
        items = losses_for(spec, self.setting("losses"), balanced=bool(self.setting("balanced", False)))
        self.losses[module_key(spec.name)] = Losses(items)
        given = self.setting("metrics", {})
        self._metrics[spec.name] = MetricSet(spec.route, spec.outputs, given.get(spec.route))

    def add_head(self, name: str, spec: Mapping[str, Any]) -> None:
        """Add a head for one more task, with its losses and metrics, to the model and to its configuration.

        A task that has one raises ``KeyError``, an unsupported type a user error. With a ``seed`` the new weights are keyed
        by the task.
        """
        parsed = TaskSpec.parse(name, spec)
        with seeded(self.setting("seed"), "head", name):
            self._place_head(name, parsed)
        self._remember("tasks", name, dict(spec))
        if self._losses_ready:
            self._init_task(parsed)

    def redirect(self, head: str, task: str, spec: Mapping[str, Any] | None = None) -> None:
        """Predict ``task`` with the head of another task from now on; its losses and metrics are its own."""
        self._place_redirection(head, task, spec)
        self._remember("head_map", task, head)
        if spec is not None:
            self._remember("tasks", task, dict(spec))
        if self._losses_ready:
            self._init_task(self.specs[task])

    def _remember(self, group: str, name: str, value: Any) -> None:
        self.config[group] = OmegaConf.create({**self.setting(group, {}), name: value})

    # -- calling ------------------------------------------------------------------------------------------------
    def prepare_batch(self, batch: Any) -> TaskBatch:
        """The batch as a :class:`TaskBatch` on the model's device."""
        tasks = TaskBatch.of(batch)
        there = all(samples.get_device() == self.device for samples in tasks.values())
        return tasks if there else tasks.to(self.device)

    def forward(self, sample_list: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Scores of every task in the batch; ``averaged=True`` (tests and predictions) over :attr:`views`, if there are any."""
        views = self.views if kwargs.get("averaged") else None
        tasks: dict[str, dict[str, Any]] = {}
        for task, samples in TaskBatch.of(sample_list).items():
            if task not in self.head_of:
                raise UnknownNameError.of("task", task, self.head_of, "The model has no head for it: add_head or redirect.")
            scores, images = functools.partial(self.scores, self.head_of[task]), samples["image"]
            if views is None:
                tasks[task] = {"scores": scores(images)}
            else:
                dense = self.specs[task].kind.views == "maps"
                tasks[task] = {"scores": views(scores, images, sample_ids=samples["sample_id"], dense=dense)}
        output: dict[str, Any] = {"tasks": tasks}
        if len(tasks) == 1:
            output["scores"] = next(iter(tasks.values()))["scores"]
        return output

    def scores(self, head: str, images: Tensor) -> Tensor:
        """The scores of one head for ``images`` [N, C, H, W]."""
        found: Tensor = self.heads[module_key(head)](self.forward_features(images), tuple(images.shape[-2:]))
        return found

    def forward_features(self, images: Tensor) -> Any:
        """The architecture's features of ``images`` [N, C, H, W]."""
        return self.backbone(images.contiguous(memory_format=torch.channels_last))

    def infer(self, images: Tensor) -> dict[str, Tensor]:
        """The scores of every head for the same images."""
        features, size = self.forward_features(images), tuple(images.shape[-2:])
        return {name: head(features, size) for name, head in self._own_heads().items()}

    def _own_heads(self) -> dict[str, nn.Module]:
        """The heads by the task that they were made for."""
        return {name: self.heads[module_key(name)] for name, head in self.head_of.items() if name == head}

    def compute_losses(self, sample_list: Any, output: Mapping[str, Any]) -> dict[str, Tensor]:
        """``<phase>/<task>/<term>`` of all tasks; the sum of a task's terms becomes its ``loss``."""
        merged: dict[str, Tensor] = {}
        if not self._losses_ready:
            return merged
        for task, samples in TaskBatch.of(sample_list).items():
            found = self.losses[module_key(task)](samples, output["tasks"][task])
            if found:
                output["tasks"][task]["loss"] = super().total_loss({"losses": found})
            merged.update(found)
        return merged

    def total_loss(self, output: Mapping[str, Any]) -> Tensor:
        """The weighted reduction over the tasks of the batch."""
        present = {task: result["loss"] for task, result in output["tasks"].items() if "loss" in result}
        weights = {task: self.specs[task].weight for task in present}
        total = torch.stack([weights[task] * loss for task, loss in present.items()]).sum() / self._norm(weights)
        return total + self._absent_heads(set(present)) if self.training else total

    def _norm(self, weights: Mapping[str, float]) -> float:
        reduction = self.setting("loss_reduction", "task_mean")
        if reduction not in ("task_mean", "sum"):
            raise MMLMisconfigurationException(f"loss_reduction must be task_mean or sum, got {reduction!r}.")
        return sum(weights.values()) if reduction == "task_mean" else 1.0

    def _absent_heads(self, present: set[str]) -> Tensor | float:
        """Zero, with a gradient for heads that have none in this batch: DDP waits for a gradient of every parameter."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 0.0
        used = {module_key(self.head_of[task]) for task in present}
        idle = [p.sum() for key, head in self.heads.items() if key not in used for p in head.parameters() if p.requires_grad]
        return torch.stack(idle).sum() * 0.0 if idle else 0.0

    # -- steps --------------------------------------------------------------------------------------------------
    def _step(self, batch: Any, phase: str) -> Any:
        batch = self.prepare_batch(batch)
        output = self(batch, averaged=phase == "test")
        if output["losses"]:
            output["loss"] = self.total_loss(output)
        self.measure(batch, output, phase)
        return {"loss": output["loss"]} if "loss" in output else {}

    def measure(self, batch: Any, output: Mapping[str, Any], phase: str) -> None:
        """Add the losses and rows of one batch."""
        meter = self.meters[phase]
        for task, samples in batch.items():
            result, count = output["tasks"][task], samples.get_batch_size()
            if "loss" in result:
                meter.add_loss(f"{phase}/{task}/loss", result["loss"].detach(), count)
                prefix = f"{samples['dataset_type']}/{samples['dataset_name']}/"
                terms = {name: value for name, value in output["losses"].items() if name.startswith(prefix)}
                for name, value in terms.items() if len(terms) > 1 else ():
                    meter.add_loss(f"{phase}/{name.split('/', 1)[1]}", value.detach().mean(), count)
            if samples.get("targets") is not None and self._is_measured(task, samples["targets"], phase):
                meter.add_rows(task, *batch_rows(self.specs[task].kind, result["scores"], samples["targets"]))

    def _is_measured(self, task: str, targets: Tensor, phase: str) -> bool:
        if not len(self._metrics.get(task, ())) or (phase == "train" and not self.setting("train_metrics", True)):
            return False
        is_index = self.specs[task].kind.target_dtype == "int64"
        return not (is_index and targets.is_floating_point())  # mixup turns classes into probabilities, which have no metrics

    def summarize(self, phase: str) -> dict[str, float]:
        """The losses, their total over all tasks, the metrics, and for a test their bootstrap."""
        values = self.meters[phase].losses()
        present = {task: f"{phase}/{task}/loss" for task in self.specs if f"{phase}/{task}/loss" in values}
        if present:
            weights = {task: self.specs[task].weight for task in present}
            values[f"{phase}/loss"] = sum(weights[t] * values[name] for t, name in present.items()) / self._norm(weights)
        draws = int(self.setting("metrics", {}).get("bootstrap") or 0) if phase == "test" else 0
        for task, collected in self.meters[phase].rows().items():
            rows = Rows.of(self.specs[task].kind, *collected)
            found = self._metrics[task].compute(rows)
            if draws:
                found.update(self._metrics[task].bootstrap(rows, draws, int(self.setting("seed") or 0)))
            values.update({f"{phase}/{task}/{name}": value for name, value in found.items()})
        return values

    def predict_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        """``{task: {"logits", "targets" (null for unlabelled data), "sample_ids"}}``."""
        tasks = self.prepare_batch(batch)
        output = self.format_for_prediction(self.forward(tasks, averaged=True), tasks)
        results = {}
        for task, samples in tasks.items():
            if "sample_id" not in samples:
                raise ContractError(
                    f"A batch to predict needs the field 'sample_id', task '{task}' has only: {', '.join(samples)}."
                )
            results[task] = {
                "logits": output["tasks"][task]["scores"],
                "targets": samples.get("targets"),
                "sample_ids": list(samples["sample_id"]),
            }
        return results

    # -- parts --------------------------------------------------------------------------------------------------
    def freeze_backbone(self) -> None:
        """Train the heads only: the architecture's parameters and running statistics stay as they are."""
        self._frozen += [p for p in self.backbone.parameters() if p.requires_grad]
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def unfreeze_backbone(self) -> None:
        """Undo :meth:`freeze_backbone`; what was frozen before it stays frozen."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []
        self.backbone.train(self.training)

    def train(self, mode: bool = True) -> MultiTaskModel:
        """As torch's, except that a frozen architecture stays in evaluation mode."""
        super().train(mode)
        if getattr(self, "_frozen", None):
            self.backbone.eval()
        return self

    def count_parameters(self, only_trainable: bool = False) -> dict[str, int]:
        """The number of parameters of ``backbone`` and of each head (by task)."""
        parts = {"backbone": self.backbone, **self._own_heads()}
        return {
            name: sum(p.numel() for p in part.parameters() if p.requires_grad or not only_trainable)
            for name, part in parts.items()
        }

    @classmethod
    def format_state_key(cls, key: str) -> str:
        """Weights of an inner ``model.`` belong to the model itself."""
        for part in ("backbone.", "heads."):
            if key.startswith(f"model.{part}"):
                return key.removeprefix("model.")
        return key


def module_key(task: str) -> str:
    """The name of a task's submodule: torch allows neither dots there nor the names of attributes."""
    return "task:" + task.replace("%", "%25").replace(".", "%2E")
