"""Samples and batches: dictionaries with attribute access that know their batch size and device.

``SampleList`` is one data set's batch, ``TaskBatch`` maps task names to sample lists. Both are what models see; loaders
may give plain nested dictionaries, which are converted. Needs torch only.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Device = str | torch.device


class ContractError(AssertionError, TypeError):
    """A batch or an output violates the model contract."""


class _Fields(OrderedDict[str, Any]):
    """A dictionary whose items are attributes as well; names with a leading underscore stay attributes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"There is no field '{name}'. The fields are: {', '.join(self)}.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self[name] = value

    def fields(self) -> list[str]:
        """The names of the fields."""
        return list(self)


class Sample(_Fields):
    """One sample. Mappings among its values become samples."""

    def __init__(self, init_dict: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.update(init_dict or {})

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping) and not isinstance(value, Sample):
            value = Sample(value)
        super().__setitem__(key, value)


class SampleList(_Fields):
    """A batch: every tensor field has the batch on dimension 0.

    ``samples`` is a mapping of fields, a list of (name, value) pairs, or a list of samples that are collated: tensors are
    stacked (dtypes promoted), everything else becomes a list. Samples with different fields raise ``KeyError``, fields of
    different batch sizes :class:`ContractError`. The first tensor field defines batch size and device.
    """

    def __init__(self, samples: Any = None) -> None:
        super().__init__()
        self._tensor_field: str | None = None
        if samples is None or len(samples) == 0:
            return
        if isinstance(samples, Mapping):
            pairs: Iterable[tuple[str, Any]] = samples.items()
        elif _is_pairs(samples):
            pairs = samples
        else:
            pairs = _collate(samples)
        for name, value in pairs:
            self.add_field(name, value)

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.dim() > 0 and self._tensor_field is None:
            self._tensor_field = key
        super().__setitem__(key, value)

    def add_field(self, field: str, data: Any) -> None:
        """Set a field; a tensor whose first dimension is not the batch size raises :class:`ContractError`."""
        known = self._tensor_field
        if known not in (None, field) and isinstance(data, Tensor) and data.dim() and len(data) != self.get_batch_size():
            raise ContractError(
                f"Fields for all samples must be equally sized: '{field}' has {len(data)} samples, "
                f"'{known}' has {self.get_batch_size()}."
            )
        self[field] = SampleList(data) if isinstance(data, Mapping) and not isinstance(data, SampleList) else data

    def get_field(self, field: str) -> Any:
        """The value of a field; ``KeyError`` if there is none."""
        return self[field]

    def get_fields(self, fields: Sequence[str]) -> SampleList:
        """A new list with these fields; ``AttributeError`` for an unknown one."""
        return SampleList([(field, getattr(self, field)) for field in fields])

    def get_item_list(self, key: str) -> SampleList:
        """A new list with the content of the (mapping) field ``key``."""
        return SampleList([self[key]])

    def get_batch_size(self) -> int:
        """The number of samples; :class:`ContractError` if no tensor field is set."""
        return int(self._first_tensor().size(0))

    def get_device(self) -> torch.device:
        """The device of the first tensor field; :class:`ContractError` if no tensor field is set."""
        return self._first_tensor().device

    def _first_tensor(self) -> Tensor:
        if self._tensor_field is None:
            raise ContractError(f"The batch has no tensor field; its fields are: {', '.join(self) or 'none'}.")
        tensor: Tensor = self[self._tensor_field]
        return tensor

    def copy(self) -> SampleList:
        """Shallow: tensors are shared, nested lists are new."""
        return self._map(lambda value: value)

    def to(self, device: Device, non_blocking: bool = True) -> SampleList:
        """A new list on ``device``, nested ones included; other types of ``device`` raise ``TypeError``."""
        if not isinstance(device, (str, torch.device)):
            raise TypeError(f"A device must be a str or a torch.device, got {type(device).__name__}.")
        return self._map(lambda value: value.to(device, non_blocking=non_blocking) if hasattr(value, "to") else value)

    def pin_memory(self) -> SampleList:
        """Pin every tensor, in place; returns itself."""
        return self._apply(lambda tensor: tensor.pin_memory())

    def detach(self) -> SampleList:
        """Detach every tensor, in place; returns itself."""
        return self._apply(lambda tensor: tensor.detach())

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, nested ones too."""
        return {name: value.to_dict() if isinstance(value, SampleList) else value for name, value in self.items()}

    def _map(self, function: Callable[[Any], Any]) -> SampleList:
        mapped = SampleList()
        for name, value in self.items():
            mapped[name] = value._map(function) if isinstance(value, SampleList) else function(value)
        mapped._tensor_field = self._tensor_field
        return mapped

    def _apply(self, function: Callable[[Tensor], Tensor]) -> SampleList:
        for name, value in self.items():
            if isinstance(value, SampleList):
                value._apply(function)
            elif isinstance(value, Tensor):
                self[name] = function(value)
        return self


class TaskBatch(dict[str, SampleList]):
    """Task name to its batch; each list carries ``dataset_name`` (the task) and ``dataset_type`` (the phase)."""

    @classmethod
    def of(cls, batch: Any, phase: str | None = None) -> TaskBatch:
        """``{task: fields}``, or one task's fields with a ``dataset_name``, as a task batch.

        ``phase`` is the ``dataset_type`` of lists that name none.
        """
        if isinstance(batch, TaskBatch):
            return batch
        if not isinstance(batch, Mapping) or not batch:
            raise ContractError(f"A batch must be a mapping of task names to fields, got {type(batch).__name__}: {batch!r:.80}")
        if not all(isinstance(value, Mapping) for value in batch.values()):
            if "dataset_name" not in batch:
                raise ContractError(f"A batch of one task needs the field 'dataset_name', its fields are: {', '.join(batch)}.")
            batch = {str(batch["dataset_name"]): batch}
        made = cls()
        for task, fields in batch.items():
            samples = fields if isinstance(fields, SampleList) else SampleList(fields)
            samples.setdefault("dataset_name", task)
            if phase is not None:
                samples.setdefault("dataset_type", phase)
            made[task] = samples
        return made

    def to(self, device: Device, non_blocking: bool = True) -> TaskBatch:
        """A new batch on ``device``."""
        return TaskBatch({task: samples.to(device, non_blocking) for task, samples in self.items()})

    def pin_memory(self) -> TaskBatch:
        """Pin every tensor, in place; returns itself."""
        for samples in self.values():
            samples.pin_memory()
        return self

    def get_batch_size(self) -> int:
        """The number of samples of all tasks together."""
        return sum(samples.get_batch_size() for samples in self.values())


def convert_batch_to_sample_list(batch: Any) -> SampleList:
    """The batch as a :class:`SampleList`; a list that holds just one is unwrapped."""
    if isinstance(batch, SampleList) and batch._tensor_field is not None:
        return batch
    if isinstance(batch, (list, tuple)) and len(batch) == 1 and isinstance(batch[0], SampleList):
        return batch[0]
    return SampleList(batch)


def to_device(batch: Any, device: Device = "cuda") -> Any:
    """The batch on ``device``; the same object if it already is there.

    Mappings become sample lists. Anything else is returned unchanged, with a warning. Without CUDA the CPU is used, with a
    warning.
    """
    if not isinstance(batch, Mapping):
        warnings.warn(f"Only mappings can be moved to a device, got {type(batch).__name__}.", UserWarning, stacklevel=2)
        return batch
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        warnings.warn("CUDA is not available, the CPU is used.", UserWarning, stacklevel=2)
        device = torch.device("cpu")
    samples = batch if isinstance(batch, SampleList) else SampleList(batch)
    return samples if _same_device(samples.get_device(), device) else samples.to(device)


class BatchCollator:
    """Turns the samples of a loader into a :class:`SampleList` that names its data set and its phase."""

    def __init__(self, dataset_name: str, dataset_type: str) -> None:
        self._name = dataset_name
        self._type = dataset_type

    def __call__(self, batch: Any) -> SampleList:
        samples = convert_batch_to_sample_list(batch)
        samples["dataset_name"] = self._name
        samples["dataset_type"] = self._type
        return samples


def _same_device(held: torch.device, wanted: torch.device) -> bool:
    return held.type == wanted.type and (wanted.index is None or held.index == wanted.index)


def _is_pairs(samples: Sequence[Any]) -> bool:
    return all(isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) for item in samples)


def _collate(samples: Sequence[Any]) -> list[tuple[str, Any]]:
    if not all(isinstance(sample, Mapping) for sample in samples):
        raise ContractError(
            f"The samples of a batch must be mappings, got {', '.join(sorted({type(s).__name__ for s in samples}))}."
        )
    names = list(samples[0])
    for index, sample in enumerate(samples):
        if set(sample) != set(names):
            raise KeyError(f"Sample {index} has the fields {sorted(sample)}, the first one has {sorted(names)}.")
    return [(name, _collate_field(name, [sample[name] for sample in samples])) for name in names]


def _collate_field(name: str, values: list[Any]) -> Any:
    if isinstance(values[0], Mapping):
        return SampleList(values)
    if not isinstance(values[0], Tensor):
        return values
    if len({tuple(value.shape) for value in values}) > 1:
        shapes = sorted({tuple(value.shape) for value in values})
        raise ContractError(f"Fields for all samples must be equally sized: '{name}' has the shapes {shapes}.")
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = torch.promote_types(dtype, value.dtype)
    return torch.stack([value.to(dtype) for value in values])
