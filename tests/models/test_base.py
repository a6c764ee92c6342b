"""The model contract: building, calling, losses, state, and the trap of wrappers that call a model in its steps' place."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.models import build_model
from mml_ray.models.base import BaseModel
from mml_ray.models.losses import LossConfig
from mml_ray.models.sample import ContractError, SampleList
from mml_ray.models.state import rename_keys
from mml_ray.registry import registry


class Linear(BaseModel):
    """Counts what happens to it."""

    @dataclass
    class Config(BaseModel.Config):
        width: int = 3

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.builds = 0
        self.seen: list[Any] = []

    def build(self) -> None:
        self.builds += 1
        self.net = nn.Linear(2, int(self.setting("width", 3)))

    def forward(self, sample_list: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.seen.append((type(sample_list), args, kwargs))
        return {"scores": self.net(sample_list.x)}

    @classmethod
    def format_state_key(cls, key: str) -> str:
        return key.replace("old.", "net.")


def batch(phase: str = "train", size: int = 4) -> SampleList:
    fields = {"x": torch.randn(size, 2), "targets": torch.arange(size) % 3, "dataset_name": "d", "dataset_type": phase}
    return SampleList(fields)


def made(**config: Any) -> Linear:
    model = Linear({"model": "linear", "losses": ["cross_entropy"], **config})
    model.ensure_built()
    return model


# -- making ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [None, {}, OmegaConf.create({"width": 5}), {"width": 5}, Linear.Config(width=5)])
def test_every_form_of_configuration_is_taken_and_nothing_is_built_yet(config: Any) -> None:
    model = Linear(config)
    assert model.builds == 0 and not hasattr(model, "losses")
    assert OmegaConf.is_config(model.config)
    assert model.setting("width", 3) == (5 if config else 3)


def test_from_params_takes_every_form_of_a_loss_and_refuses_unknown_names() -> None:
    for losses in (["cross_entropy"], [{"type": "cross_entropy", "params": {}}], [LossConfig("cross_entropy")], "cross_entropy"):
        model = Linear.from_params(model="linear", losses=losses)
        model.ensure_built()
        assert [term.name for term in model.losses.terms] == ["cross_entropy"]
    with pytest.raises(TypeError):
        Linear.from_params(heigth=3)


def test_the_base_wants_build_and_forward() -> None:
    with pytest.raises(NotImplementedError):
        BaseModel().build()
    with pytest.raises(NotImplementedError):
        BaseModel().forward(batch())
    assert BaseModel.config_path() is None


def test_absent_losses_warn_and_null_losses_do_not() -> None:
    with pytest.warns(UserWarning, match="No losses are defined"):
        Linear({}).init_losses()
    with pytest.warns(UserWarning, match="No losses are defined"):
        Linear(Linear.Config(model="m")).init_losses()  # missing is absent
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Linear({"losses": None})
        model.init_losses()
    assert len(model.losses) == 0


def test_build_model_finds_the_class_builds_once_and_seeds_the_weights() -> None:
    registry.register_model("linear_for_test", force=True)(Linear)
    try:
        config = {"model": "linear_for_test", "losses": ["cross_entropy"], "seed": 7}
        torch.manual_seed(0)
        one: Any = build_model(config)
        other: Any = build_model(config)
        state = torch.get_rng_state()
        build_model(config)
        assert torch.equal(one.net.weight, other.net.weight)
        assert torch.equal(state, torch.get_rng_state())  # the process's generator is not touched
        assert one.builds == 1
        different: Any = build_model({**config, "seed": 8})
        assert not torch.equal(one.net.weight, different.net.weight)
    finally:
        registry.remove("model", "linear_for_test")
    with pytest.raises(UnknownNameError, match="Did you mean: multi_task"):
        build_model({"model": "multitask"})
    with pytest.raises(MMLMisconfigurationException, match="needs 'model'"):
        build_model({})
    with pytest.raises(AssertionError):
        registry.register_model("no model")(dict)


# -- calling -----------------------------------------------------------------------------------------------------------
def test_calling_gives_a_sample_list_passes_arguments_and_fills_in_losses() -> None:
    model = made()
    output = model(dict(batch()), 1, flag=True)
    assert model.seen == [(SampleList, (1,), {"flag": True})]
    assert list(output["losses"]) == ["train/d/cross_entropy"]
    assert output["losses"]["train/d/cross_entropy"].shape == (1,)


def test_a_pretrained_model_returns_what_forward_gave() -> None:
    model = made()
    model.is_pretrained = True
    assert set(model(batch())) == {"scores"}


def test_other_outputs_than_mappings_are_refused() -> None:
    class Bare(Linear):
        def forward(self, sample_list: Any, *args: Any, **kwargs: Any) -> Any:
            return torch.zeros(1)

    with pytest.raises(AssertionError, match="A dict must be returned from the forward of the model"):
        Bare({"losses": None})(batch())


class OwnLosses(Linear):
    def forward(self, sample_list: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"scores": self.net(sample_list.x), "losses": self.setting("give")}


def test_losses_of_forwards_own_are_taken_with_one_warning() -> None:
    model = OwnLosses({"losses": ["mse"], "give": {"own": 1}})
    model.ensure_built()
    with pytest.warns(UserWarning, match="'losses' already present"):
        assert model(batch())["losses"] == {"own": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(batch())
    wrong = OwnLosses({"losses": ["mse"], "give": 3})
    wrong.ensure_built()
    with pytest.warns(UserWarning, match="already present"), pytest.raises(ContractError, match="'losses' must be a dict"):
        wrong(batch())


def test_a_training_step_without_losses_is_an_error_and_an_evaluation_has_no_loss() -> None:
    model = made(losses=None)
    with pytest.raises(MMLMisconfigurationException, match="no loss to train with"):
        model.training_step(batch(), 0)
    assert "loss" not in model.validation_step(batch("val"), 0)


def test_epoch_losses_are_means_over_samples_not_over_batches() -> None:
    model = made()
    big, small = batch(size=6), batch(size=2)
    one = model.training_step(big, 0)["loss"].item()
    other = model.training_step(small, 1)["loss"].item()
    assert model.summarize("train")["train/loss"] == pytest.approx((6 * one + 2 * other) / 8)


# -- state -------------------------------------------------------------------------------------------------------------
def test_state_keys_are_renamed_without_touching_the_callers_and_collisions_raise() -> None:
    model = made()
    old = {"old.weight": torch.ones(3, 2), "old.bias": torch.zeros(3)}
    result = model.load_state_dict(old)
    assert result.missing_keys == [] and result.unexpected_keys == []
    assert list(old) == ["old.weight", "old.bias"] and torch.equal(model.net.weight, torch.ones(3, 2))
    with pytest.raises(KeyError, match="net.weight"):
        model.load_state_dict({**old, "net.weight": torch.zeros(3, 2)})
    with pytest.raises(RuntimeError):
        model.load_state_dict({"old.weight": torch.ones(3, 2)})
    assert model.load_state_dict({"old.weight": torch.ones(3, 2)}, strict=False).missing_keys == ["net.bias"]
    state = model.state_dict()
    renamed: Any = rename_keys(state, str)
    assert renamed._metadata == state._metadata  # type: ignore[attr-defined]


def test_loading_a_checkpoint_does_not_rebuild_and_takes_bare_weights() -> None:
    model = made()
    checkpoint: dict[str, Any] = dict(model.state_dict())
    model.on_load_checkpoint(checkpoint)
    assert model.builds == 1 and set(checkpoint["state_dict"]) == {"net.weight", "net.bias"}
    saved: dict[str, Any] = {}
    model.on_save_checkpoint(saved)
    assert saved["config"]["losses"] == ["cross_entropy"]


# -- wrappers ----------------------------------------------------------------------------------------------------------
class ReturnsTensor(Linear):
    def training_step(self, batch: Any, batch_idx: int, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)["loss"]
        return loss


def _collated(samples: Any) -> SampleList:
    return SampleList({**SampleList(samples), "dataset_name": "d", "dataset_type": "train"})


def _loader() -> DataLoader[Any]:
    samples = [{"x": torch.randn(2), "targets": torch.tensor(i % 3)} for i in range(6)]
    return DataLoader(samples, batch_size=2, collate_fn=_collated)


def _trainer(**arguments: Any) -> pl.Trainer:
    quiet: dict[str, Any] = dict.fromkeys(
        ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False
    )
    return pl.Trainer(accelerator="cpu", devices=1, max_steps=3, **quiet, **arguments)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*have no `val_dataloader`.*")
@pytest.mark.parametrize("strategy", ["auto", "ddp"])
@pytest.mark.parametrize("cls", [Linear, ReturnsTensor])
def test_training_is_the_same_with_and_without_a_wrapper(cls: type[Linear], strategy: str) -> None:
    torch.manual_seed(0)
    model = cls({"losses": ["cross_entropy"], "optimizer": {"name": "sgd", "lr": 0.1}})
    trainer = _trainer(strategy=strategy)
    try:
        trainer.fit(model, _loader())
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert trainer.global_step == 3 and model.builds == 1
    assert {kind for kind, _, _ in model.seen} == {SampleList} and len(model.seen) == 3  # forward ran once per step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not a leaf Tensor.*")
def test_a_compiled_model_gives_the_same() -> None:
    model = made()
    sample = batch()
    expected = model(sample)
    compiled = torch.compile(model, backend="eager")
    found = compiled(sample)
    assert torch.equal(found["scores"], expected["scores"]) and list(found["losses"]) == list(expected["losses"])
