"""Every option of every group composes, and the configuration that comes out is whole, resolved and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mml_ray.api import compose_run
from mml_ray.composition.tree import PACKAGED, ConfigTree
from mml_ray.errors import MMLMisconfigurationException

TREE = ConfigTree((PACKAGED,))
#: refused by a training: what is not built yet, or needs a package that may not be there
LATER = {"peft=lora", "search_space=example", "arch=timm", "arch=smp", "augmentations=v2", "loaders=torch"}
OPTIONS = [f"{group}={option}" for group, options in TREE.groups.items() if group != "mode" for option in options]
#: what an option asks for, that its user must give
NEEDS = {"tta=crop": ["tta.size=[224,224]"], "tasks=from_folder": ["source.name=a"], "tasks=from_table": ["source.name=a"]}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_with_a_training(option: str) -> None:
    tasks = [] if option.startswith("tasks=") else ["tasks=digits"]
    request = compose_run(["create" if option in LATER else "train", *tasks, option, *NEEDS.get(option, [])])
    group, _, name = option.partition("=")
    assert request.choices[group] == name
    assert OmegaConf.to_container(request.cfg, resolve=True)


@pytest.mark.parametrize("mode", TREE.modes)
def test_every_mode_composes(mode: str) -> None:
    cfg = compose_run([mode, "tasks=digits"]).cfg
    assert cfg.mode.id == mode
    assert cfg.mode.scheduler._target_.startswith("mml_ray.schedulers.")
    assert list(cfg.mode.subroutines)


def test_every_option_says_what_it_is() -> None:
    silent = [name for name in TREE.files if "/" in name and not TREE.describe(name)]
    assert silent == []


def test_hidden_options_compose_too() -> None:
    hidden = [name for name in TREE.files if "/_" in name]
    assert "tasks/_template" in hidden
    for name in hidden:
        group, _, option = name.rpartition("/")
        compose_run(["train", f"{group}={option}"])


def test_top_level_keys() -> None:
    cfg = compose_run(["train", "tasks=digits", "proj=p"]).cfg
    assert (cfg.seed, cfg.allow_gpu, cfg["continue"], cfg.use_best_params) == (42, True, False, False)
    assert (list(cfg.task_list), cfg.pivot.name, cfg.pivot.tags) == (["digits"], "digits", "")
    assert (cfg.tagging["all"], list(cfg.tagging.variants)) == (False, [])
    assert cfg.proj_path == f"{cfg.out_dir}/p"


def test_without_an_env_file_data_and_results_are_beside_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose_run(["info"]).cfg
    assert (cfg.data_dir, cfg.out_dir) == (str(tmp_path / "mml_data"), str(tmp_path / "mml_results"))
    assert cfg.num_workers == "auto"


def test_the_places_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MML_DATA_PATH", "~/d")
    monkeypatch.setenv("MML_RESULTS_PATH", "r")
    monkeypatch.setenv("MML_LOCAL_WORKERS", "3")
    cfg = compose_run(["info"]).cfg
    assert (cfg.data_dir, cfg.out_dir, cfg.num_workers) == (str(tmp_path / "home/d"), str(tmp_path / "r"), 3)
    assert compose_run(["info", "data_dir=/elsewhere"]).cfg.data_dir == "/elsewhere"


def test_the_source_is_a_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose_run(["create", "tasks=bccd", "source.path=in/bccd.zip"]).cfg.source.path == str(tmp_path / "in/bccd.zip")
    assert compose_run(["create", "tasks=bccd"]).cfg.source.path is None


def test_images_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["source.name=7", "source.path=t.csv", "source.images=pics", "source.columns.image=file", "source.classes=[a,b]"]
    cfg = compose_run(["create", "tasks=from_table", *arguments]).cfg
    assert (list(cfg.task_list), cfg.pivot.name) == (["7"], "7")
    assert (cfg.source.path, cfg.source.images) == (str(tmp_path / "t.csv"), str(tmp_path / "pics"))
    assert cfg.source.columns == {"image": "file"}
    with pytest.raises(MMLMisconfigurationException, match="A value is missing for: source.name"):
        compose_run(["create", "tasks=from_folder"])


def test_the_cluster_has_places_of_its_own_or_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MML_DATA_PATH", "/here/d")
    monkeypatch.setenv("MML_CLUSTER_RESULTS_PATH", "/there/r")
    cfg = compose_run(["info", "sys=cluster"]).cfg
    assert (cfg.data_dir, cfg.out_dir) == ("/here/d", "/there/r")
    assert (cfg.sys.executor, cfg.trainer.enable_progress_bar, cfg.logging.highlight_task_names) == ("ray", False, False)


@pytest.mark.parametrize("workers", ["many", "-1", "1.5"])
def test_wrong_number_of_workers(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MML_LOCAL_WORKERS", workers)
    with pytest.raises(
        MMLMisconfigurationException, match=f"num_workers must be auto or an integer of at least 0, got '?{workers}"
    ):
        compose_run(["info"])


def test_an_empty_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MML_DATA_PATH", "")
    with pytest.raises(MMLMisconfigurationException, match="data_dir is empty"):
        compose_run(["info"])


def test_a_mode_overrides_groups_and_the_command_line_overrides_the_mode() -> None:
    assert compose_run(["create", "tasks=digits"]).choices["preprocessing"] == "none"
    assert compose_run(["info", "tasks=digits"]).choices["augmentations"] == "no_norm"
    assert compose_run(["train", "lr_scheduler=step"]).cfg.lr_scheduler.name == "step"
    assert compose_run(["train"]).choices["lr_scheduler"] == "none"


def test_a_task_may_bring_better_defaults() -> None:
    assert compose_run(["train"]).choices["preprocessing"] == "default"
    assert compose_run(["train", "tasks=digits"]).choices["preprocessing"] == "none"
    assert compose_run(["train", "tasks=digits", "preprocessing=size224"]).cfg.preprocessing.id == "size224"


def test_predict_and_test_are_train_with_another_subroutine() -> None:
    train, predict = (compose_run([mode]).cfg.mode for mode in ("train", "predict"))
    assert predict.scheduler == train.scheduler
    assert list(predict.subroutines) == ["predict"]
    assert set(predict) == set(train)


def test_callbacks_can_be_stacked() -> None:
    assert set(compose_run(["train", "callbacks=[early,swa]"]).cfg.cbs) == {"early", "swa"}


def test_one_cycle_interpolates_nothing_that_is_missing() -> None:
    cfg = compose_run(["train", "lr_scheduler=cosine", "trainer.max_epochs=7"]).cfg
    assert cfg.lr_scheduler.T_max == 7


def test_reuse_current_follows_the_project() -> None:
    assert compose_run(["predict", "reuse=current", "proj=p"]).cfg.reuse.models == "p"


def test_lists_given_as_one_word() -> None:
    cfg = compose_run(["train", "task_list=digits", "mode.subroutines=predict"]).cfg
    assert list(cfg.task_list) == ["digits"]
    assert list(cfg.mode.subroutines) == ["predict"]


def test_the_configuration_is_closed() -> None:
    cfg = compose_run(["train"]).cfg
    with pytest.raises(Exception, match="nonsense"):
        _ = cfg.nonsense


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "tta=crop"], "A value is missing for: tta.size. Set it, as in tta.size="),
        (["train", "seed=${nowhere}"], "A reference in the configuration cannot be resolved: .*nowhere"),
        (["train", "preprocessing.id=other"], "preprocessing=default has the id 'other'"),
        (["train", "+loss/cls=ce"], "cannot be composed: .*loss/cls"),
        (["train", "optimizer.name=adamm"], r"Unknown optimizer 'adamm'. Did you mean: adam, adamw\?.*\(optimizer.name\)"),
        (["train", "lr_scheduler=step", "lr_scheduler.name=stp"], "Did you mean: step"),
        (["train", "loss.cls=[cross_entropi]"], "Did you mean: .*cross_entropy.*\\(loss.cls.0\\)"),
        (["train", "metrics.cls.1.type=f2"], "Unknown metric 'f2'"),
        (["train", "loaders.image=open_cv"], "Did you mean: opencv"),
        (["train", "arch.name=resnet_smal"], "Did you mean: resnet_small.*arch.name"),
        (["train", "sys.executor=dask"], "sys.executor must be auto, inline or ray, got 'dask'."),
        (["create", "mode.n_folds=1"], "mode.n_folds must be an integer greater than 1, got 1."),
        (["create", "mode.ensure_balancing=maybe"], "mode.ensure_balancing must be true or false, got 'maybe'."),
        (["train", "seed=x"], "seed must be false or an integer of at least 0, got 'x'."),
        (["train", "trainer.max_epochs=ten"], "trainer.max_epochs must be an integer greater than 0, got 'ten'."),
        (["train", "trainer.benchmark=yes"], "must be null, true or false, got 'yes'."),
        (["train", "optimizer.lr=0"], "optimizer.lr must be a number greater than 0, got 0."),
        (["train", "optimizer.betas=0.9"], "optimizer.betas must be a list of 2, each a number"),
        (["train", "mode.multitask=1"], "mode.multitask must be false or an integer greater than 1, got 1."),
        (["train", "resources.train_fold.num_cpus=many"], "resources.train_fold.num_cpus must be null, auto or a number"),
        (["train", "proj=a/b"], "proj must be the name of one folder below the results root, got 'a/b'."),
        (["train", "continue=latest", "use_best_params=x"], "contradict each other"),
    ],
)
def test_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        compose_run(arguments)


# -- configuration of one's own ----------------------------------------------------------------------------------------
def test_own_folder_adds_options_and_wins_over_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "optimizer/adam.yaml").write_text("name: adam\nlr: 0.25\n")
    (tmp_path / "tasks/mine.yaml").write_text("# @package _global_\n# Mine.\ntask_list: mine\npivot:\n  name: mine\n")
    monkeypatch.setenv("MML_CONFIGS_PATH", str(tmp_path))
    cfg = compose_run(["train", "tasks=mine"]).cfg
    assert cfg.optimizer.lr == 0.25
    assert list(cfg.task_list) == ["mine"], "a file's value is taken as the command line's"
    assert cfg.trainer.max_epochs == 50, "what the folder does not have comes from the package"


def test_own_main_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PACKAGED / "config_mml.yaml").read_text().replace("optimizer: adam", "optimizer: sgd")
    (tmp_path / "config_lab.yaml").write_text(text)
    monkeypatch.setenv("MML_CONFIGS_PATH", str(tmp_path))
    monkeypatch.setenv("MML_CONFIG_NAME", "config_lab")
    assert compose_run(["train"]).choices["optimizer"] == "sgd"
    monkeypatch.setenv("MML_CONFIG_NAME", "config_nowhere")
    with pytest.raises(MMLMisconfigurationException, match="there is no config_nowhere.yaml"):
        compose_run(["train"])


def test_a_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer/adam.yaml").write_text("name: [adam\n")
    monkeypatch.setenv("MML_CONFIGS_PATH", str(tmp_path))
    with pytest.raises(MMLMisconfigurationException, match="optimizer/adam.yaml"):
        compose_run(["train"])


def test_a_wrong_value_in_a_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/default_trainer.yaml").write_text("max_epochs: many\nmin_epochs: 1\nenable_progress_bar: true\n")
    monkeypatch.setenv("MML_CONFIGS_PATH", str(tmp_path))
    with pytest.raises(MMLMisconfigurationException, match="trainer.max_epochs must be an integer greater than 0, got 'many'."):
        compose_run(["train"])


def test_a_plugin_offers_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lab_plugin_conf"
    (folder / "mode").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "mode/buzz.yaml").write_text(
        "# @package _global_\n# Buzz.\ndefaults:\n  - override /sampling: extraction_minimal\n"
        "mode:\n  id: BUZZ\n  scheduler:\n    _target_: lab.Buzz\n  subroutines: [a]\n  n_folds: -3\nsampling:\n  sample_num: 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from mml_ray import plugins

    monkeypatch.setattr(plugins, "load", lambda: (plugins.Plugin("lab", "1.0", "lab_plugin_conf"),))
    cfg = compose_run(["buzz", "mode.n_folds=-4"]).cfg
    assert cfg.mode.id == "BUZZ"
    assert (cfg.sampling.sample_num, cfg.sampling.batch_size) == (7, 100)
    assert cfg.mode.n_folds == -4, "the options of our own modes do not bind a plugin's"


def test_a_missing_configuration_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mml_ray import plugins

    monkeypatch.setattr(plugins, "load", lambda: (plugins.Plugin("lab", "1.0", "no_such_package.configs"),))
    with pytest.raises(MMLMisconfigurationException, match="no_such_package"):
        compose_run(["info"])


def test_hydra_of_the_caller_is_left_alone() -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(PACKAGED), version_base="1.3"):
        compose_run(["info"])
        assert compose("config_mml", ["mode=train"]).mode.id == "train"
