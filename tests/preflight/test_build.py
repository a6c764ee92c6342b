"""Settings that cannot be built are told before a run starts; what is known to be right is not built for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from mml_ray.api import compose_run
from mml_ray.composition import compose
from mml_ray.composition.portable import plain
from mml_ray.composition.tree import PACKAGED
from mml_ray.errors import MMLMisconfigurationException
from mml_ray.preflight.build import unproven
from mml_ray.preflight.facts import ModeFacts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["optimizer.betas=[1,2]"],
            r"optimizer.betas must be a list of 2, each a number of at least 0 and less than 1, got \[1,2\]",
        ),
        (["optimizer.betas=[0.9]"], "optimizer.betas"),
        (["optimizer.lr=inf"], "optimizer.lr must be a number greater than 0, got inf"),
        (["+optimizer.amsgard=true"], "optimizer=adam has no option 'amsgard'; did you mean 'amsgrad'"),
        (["optimizer=sgd", "+optimizer.nesterov=true"], "optimizer=sgd cannot be built: Nesterov"),
        (["lr_scheduler=cosine", "lr_scheduler.T_max=0"], "lr_scheduler.T_max must be null or an integer greater than 0, got 0"),
        (["lr_scheduler=plateau", "lr_scheduler.mode=mni"], "lr_scheduler.mode must be min or max, got 'mni'"),
        (
            ["lr_scheduler=plateau", "lr_scheduler.factor=-1"],
            "lr_scheduler.factor must be a number greater than 0 and less than 1, got -1",
        ),
        (["+loss.cls.0.params.foo=1"], "'cross_entropy' with .*foo"),
        (["+loss.cls.0.params.label_smoothing=2"], "label_smoothing must be at least 0 and less than 1, got 2"),
        (["metrics.cls.0.params.average=mcro"], "metrics.cls.0.params.average must be macro, micro or weighted, got 'mcro'"),
        (["callbacks=early", "+cbs.early.patiense=3"], "cbs.early: .*patiense"),
        (["callbacks=early", "cbs.early.mode=mni"], "cbs.early.mode must be min or max, got 'mni'"),
        (["+cbs.stop._target_=lightning.EarlyStopping"], "Unknown callback 'stop'"),
        (["augmentations=default", "augmentations.cpu.pipeline.0.name=RandomCrp"], "Did you mean: RandomCrop"),
        (["augmentations.cpu={backend:albumentations,pipeline:[{name:Flop}]}"], "Unknown albumentations transform 'Flop'"),
        (["augmentations=kornia", "augmentations.gpu.pipeline.0.name=RandomCrp"], "Did you mean: RandomCrop"),
        (["preprocessing=size224", "preprocessing.pipeline.0.name=Smalest"], "Did you mean: SmallestMaxSize"),
        (["tta=rotate", "+tta.variations.more=[{name:RandomRot}]"], "Did you mean: RandomRotation"),
        (["compile.enable=true", "compile.kwargs.mode=fast"], "compile.kwargs=.*fast"),
        (["tune.lr_kwargs.min_rl=0.1"], r"tune.lr_kwargs has no option 'min_rl'; did you mean .*'min_lr'"),
        (["trainer.strategy=dpp"], "Unknown trainer.strategy 'dpp'. Did you mean: ddp"),
        (["trainer.accelerator=gpuu"], "trainer.accelerator must be auto, cpu, gpu"),
        (["trainer.max_time={hour:1}"], "trainer: 'hour'"),
        (
            ["+trainer.limit_train_batches=a"],
            "trainer.limit_train_batches must be null, an integer of at least 0 or a number from 0 to 1, got 'a'",
        ),
        (["+trainer.callbacks=[]"], "trainer has no option 'callbacks'"),
        (["+trainer.logger=true"], "trainer has no option 'logger'"),
        (["+trainer.checkpoint_dir=/tmp"], "trainer has no option 'checkpoint_dir'"),
        (["arch.params.foo=1"], r"arch.params=\{'foo': 1\} for 'resnet_small'"),
        (["+arch.foo=1"], "arch.foo: not known to the backend 'monai'"),
        (["arch.pretrained=true"], "arch.pretrained=true: .* have no weights"),
    ],
)
def test_what_cannot_be_built_is_told_at_once(arguments: list[str], message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        compose_run(["train", "tasks=fake", *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ["metrics.cls=[{type:accuracy,params:{top_k:5}}]"],
        ["+optimizer.amsgrad=true"],
        ["lr_scheduler=one_cycle", "lr_scheduler.total_steps=100"],
        ["metrics.cls.0.params.average=weighted"],
        ["trainer.max_time={hours:1}", "+trainer.detect_anomaly=true"],
        ["arch.params={num_classes:3}"],
        ["compile.enable=true"],
    ],
)
def test_what_can_be_built_passes(arguments: list[str]) -> None:
    assert compose_run(["train", "tasks=fake", *arguments])


def keys(*arguments: str) -> list[str]:
    request = compose.compose_run(["train", "tasks=fake", *arguments])
    return list(unproven(request, plain(request.cfg), ModeFacts()))


def test_usual_settings_need_no_building() -> None:
    usual = [
        "optimizer.lr=0.1",
        "trainer.max_epochs=3",
        "arch.name=resnet18",
        "sampling.batch_size=8",
        "optimizer.weight_decay=0.1",
    ]
    assert keys(*usual, "callbacks=[early,swa]", "arch=monai", "loss/cls=ce", "cbs.early.monitor=val/loss") == []
    assert keys("augmentations.cpu={}") == ["augmentations.cpu"]


def test_option_files_of_ones_own_are_built_but_copies_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("optimizer/adam", "callbacks/early", "tasks/digits"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_bytes((PACKAGED / f"{name}.yaml").read_bytes())
    (tmp_path / "callbacks/mine.yaml").write_text("# @package _global_\ncbs:\n  mine: {name: early_stopping, patience: 3}\n")
    (tmp_path / "optimizer/mine.yaml").write_text("name: adamw\nlr: 0.1\namsgrad: true\n")
    monkeypatch.setenv("MML_CONFIGS_PATH", str(tmp_path))
    assert keys("optimizer=adam", "callbacks=early", "tasks=digits") == []
    assert keys("optimizer=mine", "callbacks=[early,mine]") == ["optimizer.name", "optimizer.amsgrad", "cbs.mine.name"]


def test_options_of_ones_own_in_a_list_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks/mine.yaml").write_text("# @package _global_\ncbs:\n  mine: {name: early_stopping, patiense: 3}\n")
    monkeypatch.setenv("MML_CONFIGS_PATH", str(tmp_path))
    with pytest.raises(MMLMisconfigurationException, match="cbs.mine: .*patiense"):
        compose_run(["train", "tasks=fake", "callbacks=[default,mine]"])
