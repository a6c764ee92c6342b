"""Reading the arguments: the mode in front, aliases of keys, and what cannot be read."""

from __future__ import annotations

import pytest

from mml_ray.composition.overrides import Arguments, read
from mml_ray.composition.tree import PACKAGED, ConfigTree
from mml_ray.errors import MMLMisconfigurationException, UnknownNameError

TREE = ConfigTree((PACKAGED,))


def given(*arguments: str) -> Arguments:
    return read(arguments, TREE)


def test_the_first_argument_is_the_mode() -> None:
    result = given("train", "seed=3")
    assert result.texts == ["mode=train", "seed=3"]
    assert result.mode == "train"
    assert result.notices == []


def test_the_prefix_is_accepted_with_a_notice() -> None:
    result = given("mode=train")
    assert result.mode == "train"
    assert "mml-ray train" in result.notices[0]


def test_a_mode_further_behind_is_accepted_with_a_notice() -> None:
    result = given("seed=3", "mode=train")
    assert (result.mode, result.groups) == ("train", ["mode=train"])
    assert "The mode comes first: mml-ray train" in result.notices[0]


def test_two_modes_contradict() -> None:
    with pytest.raises(MMLMisconfigurationException, match="train and info"):
        given("train", "mode=info")


def test_without_a_mode_it_is_info_and_says_so() -> None:
    result = given("seed=3")
    assert result.mode is None
    assert result.texts[0] == "mode=info"
    assert "No mode is given" in result.notices[0]


def test_continue_needs_no_mode() -> None:
    result = given("continue=latest", "num_workers=2")
    assert result.mode is None
    assert result.notices == []


def test_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown mode 'trian'. Did you mean: train\?"):
        given("trian")


def test_clean_up_in_reuse_means_remove() -> None:
    result = given("train", "reuse.clean_up.parameters=true")
    assert result.texts[1] == "remove.parameters=true"
    assert [(value.key, value.value) for value in result.values] == [("remove.parameters", True)]


def test_old_name_of_the_highlighting() -> None:
    assert given("train", "logging.highlight_text=false").values[0].key == "logging.highlight_task_names"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("reuse.models=first#3", "first#3"),
        ("reuse.models=[first#3,second]", ["first#3", "second"]),
        ("source.path=~/images (1).zip", "~/images (1).zip"),
        ("mode.eval_on=a+nested?0", "a+nested?0"),
        ("proj='a,b'", "a,b"),
        ("trainer.max_time=00:12:00:00", "00:12:00:00"),
        ("seed=null", None),
        ("optimizer.betas=[0.9,0.99]", [0.9, 0.99]),
        ("arch.params={depth:3}", {"depth": 3}),
    ],
)
def test_values(text: str, value: object) -> None:
    assert given("train", text).values[0].value == value


def test_signs() -> None:
    values = given("train", "+a.b=1", "++c=2", "~seed", "proj=x").values
    assert [(value.sign, value.key) for value in values] == [("+", "a.b"), ("++", "c"), ("~", "seed"), ("", "proj")]


def test_options_of_groups_are_kept_apart_from_values() -> None:
    result = given("train", "optimizer=sgd", "callbacks=[early,swa]", "loss/seg=ce", "optimizer.lr=0.1")
    assert result.groups == ["mode=train", "optimizer=sgd", "callbacks=[early,swa]", "loss/seg=ce"]
    assert [value.key for value in result.values] == ["optimizer.lr"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer=adamm", r"option of the group 'optimizer': 'adamm'. Did you mean: adam\?"),
        ("callbacks=[early,sva]", r"'sva'. Did you mean: swa"),
        ("loss/segg=ce", r"Unknown group 'loss/segg'. Did you mean: loss/seg"),
        ("seed", "neither a flag nor key=value"),
        ("a=[x", "Cannot read 'a=\\[x'"),
        ("=3", "neither a flag nor key=value"),
        ("seed=1,2", "gives several values"),
        ("optimizer=adam,sgd", "gives several values"),
        ("seed=range(1,3)", "gives several values"),
        ("hydra.run.dir=x", "only hydra.verbose is used"),
        ("hydra/launcher=basic", "only hydra.verbose is used"),
    ],
)
def test_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(MMLMisconfigurationException, match=message):
        given("train", text)


@pytest.mark.parametrize(("text", "verbose"), [("true", True), ("false", False), ("[a.b,c]", ("a.b", "c")), ("a.b", ("a.b",))])
def test_verbose(text: str, verbose: object) -> None:
    assert given("train", f"hydra.verbose={text}").verbose == verbose
