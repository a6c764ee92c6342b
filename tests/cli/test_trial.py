"""Settings that cannot be built are told before a run starts; what is known to be right is not built for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from mml_ray.composition.compose import compose_run
from mml_ray.composition.overrides import read
from mml_ray.composition.rules import RULES
from mml_ray.composition.tree import PACKAGED, ConfigTree
from mml_ray.composition.trial import unproven
from mml_ray.errors import MMLMisconfigurationException


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.betas=[1,2]"], r"optimizer.betas=\[1,2\]: allowed is a list of two, each a number from 0 to 1 \(excluded\)"),
        (["optimizer.betas=[0.9]"], "optimizer.betas"),
        (["optimizer.lr=inf"], "optimizer.lr=inf: allowed is a number above 0"),
        (["+optimizer.amsgard=true"], "does not take amsgard; it takes .*amsgrad"),
        (["optimizer=sgd", "+optimizer.nesterov=true"], "'sgd': Nesterov"),
        (["lr_scheduler=cosine", "lr_scheduler.T_max=0"], "lr_scheduler.T_max=0: allowed is null or a whole number from 1"),
        (["lr_scheduler=plateau", "lr_scheduler.mode=mni"], "mode is min or max"),
        (["lr_scheduler=plateau", "lr_scheduler.factor=-1"], "factor lies between 0 and 1"),
        (["+loss.cls.0.params.foo=1"], "'cross_entropy' with .*foo"),
        (["+loss.cls.0.params.label_smoothing=2"], "label_smoothing lies between 0 and 1"),
        (["metrics.cls.0.params.average=mcro"], "metrics.cls.0.params.average must be macro, micro or weighted, got 'mcro'"),
        (["callbacks=early", "+cbs.early.patiense=3"], "cbs.early: .*patiense"),
        (["callbacks=early", "cbs.early.mode=mni"], "cbs.early.mode=mni: allowed is min or max"),
        (["+cbs.stop._target_=lightning.EarlyStopping"], "Unknown callback 'stop'"),
        (["augmentations=default", "augmentations.cpu.pipeline.0.name=RandomCrp"], "Did you mean: RandomCrop"),
        (["augmentations.cpu={backend:albumentations,pipeline:[{name:Flop}]}"], "Unknown albumentations transform 'Flop'"),
        (["augmentations=kornia", "augmentations.gpu.pipeline.0.name=RandomCrp"], "Did you mean: RandomCrop"),
        (["preprocessing=size224", "preprocessing.pipeline.0.name=Smalest"], "Did you mean: SmallestMaxSize"),
        (["tta=rotate", "+tta.variations.more=[{name:RandomRot}]"], "Did you mean: RandomRotation"),
        (["compile.enable=true", "compile.kwargs.mode=fast"], "compile.kwargs=.*fast"),
        (["tune.lr_kwargs.min_rl=0.1"], r"argument in tune.lr_kwargs 'min_rl'. Did you mean: .*min_lr"),
        (["trainer.strategy=dpp"], "Unknown trainer.strategy 'dpp'. Did you mean: ddp"),
        (["trainer.accelerator=gpuu"], "allowed is auto, cpu, gpu"),
        (["trainer.max_time={hour:1}"], "trainer: 'hour'"),
        (["+trainer.limit_train_batches=a"], "trainer.limit_train_batches=a: allowed is null, a whole number from 0"),
        (["+trainer.callbacks=[]"], "Unknown trainer option 'callbacks'"),
        (["+trainer.logger=true"], "Unknown trainer option 'logger'"),
        (["+trainer.checkpoint_dir=/tmp"], "Unknown trainer option 'checkpoint_dir'"),
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


def keys(arguments: list[str], tree: ConfigTree, choices: dict[str, str]) -> list[str]:
    return list(unproven(read(["train", *arguments], tree).values, choices, tree=tree, rules=RULES))


def test_usual_settings_need_no_trial() -> None:
    usual = [
        "optimizer.lr=0.1",
        "trainer.max_epochs=3",
        "arch.name=resnet18",
        "sampling.batch_size=8",
        "optimizer.weight_decay=0.1",
    ]
    assert keys(usual, ConfigTree((PACKAGED,)), {"callbacks": "[early,swa]", "arch": "monai", "loss/cls": "ce"}) == []
    assert keys(["augmentations.cpu={}"], ConfigTree((PACKAGED,)), {}) == ["augmentations.cpu"]


def test_option_files_of_ones_own_are_tried_but_copies_are_not(tmp_path: Path) -> None:
    for name in ("optimizer/adam", "callbacks/early", "tasks/digits"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_bytes((PACKAGED / f"{name}.yaml").read_bytes())
    (tmp_path / "callbacks/mine.yaml").write_text("# @package _global_\ncbs:\n  mine: {name: early_stopping, patience: 3}\n")
    (tmp_path / "optimizer/mine.yaml").write_text("name: adamw\nlr: 0.1\namsgrad: true\n")
    tree = ConfigTree((tmp_path, PACKAGED))
    assert keys([], tree, {"optimizer": "adam", "callbacks": "early", "tasks": "digits"}) == []
    chosen = keys([], tree, {"optimizer": "mine", "callbacks": "['early', 'mine']"})
    assert chosen == ["optimizer.name", "optimizer.amsgrad", "cbs.mine.name", "cbs.mine.patience"]


def test_options_of_ones_own_in_a_list_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks/mine.yaml").write_text("# @package _global_\ncbs:\n  mine: {name: early_stopping, patiense: 3}\n")
    monkeypatch.setenv("MML_CONFIGS_PATH", str(tmp_path))
    with pytest.raises(MMLMisconfigurationException, match="cbs.mine: .*patiense"):
        compose_run(["train", "tasks=fake", "callbacks=[default,mine]"])
