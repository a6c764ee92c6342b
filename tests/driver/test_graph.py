"""The stage rule, explicit edges, keys, and the board that follows a plan. Pure: no store, no Ray."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_ray.driver.command import CommandDefaults, CommandSpec, command, command_key, defaults_of
from mml_ray.driver.graph import Board, Entry, Plan, build_plan
from mml_ray.errors import MMLMisconfigurationException
from tests.patience import promised_cpu


def _drain(board: Board) -> list[str]:
    keys = []
    while (spec := board.take()) is not None:
        keys.append(spec.key)
    return keys


def _names(board: Board, keys: list[str]) -> list[tuple[str, int]]:
    return [(board.commands[key].name, board.commands[key].position) for key in keys]


def test_a_stage_runs_side_by_side_and_the_next_one_waits_for_all_of_it() -> None:
    plan = build_plan([Entry("a", [1]), Entry("a", [2]), Entry("b", []), Entry("a", [3])], scheduler="s")
    board = Board(plan)
    first = _drain(board)
    assert _names(board, first) == [("a", 1), ("a", 2)]
    board.commit(first[0])
    assert _drain(board) == []
    board.commit(first[1])
    second = _drain(board)
    assert _names(board, second) == [("b", 3)]
    board.commit(second[0])
    assert _names(board, _drain(board)) == [("a", 4)]


def test_explicit_edges_overtake_a_stage() -> None:
    entries = [Entry("train", [0], after=[]), Entry("train", [1], after=[]), Entry("predict", [0], after=[0]), Entry("plot", [])]
    board = Board(build_plan(entries, scheduler="s"))
    trains = _drain(board)
    board.commit(trains[0])
    predicts = _drain(board)
    assert _names(board, predicts) == [("predict", 3)]
    board.commit(predicts[0])
    assert _drain(board) == [], "an entry without edges waits for everything before it"
    board.commit(trains[1])
    assert _names(board, _drain(board)) == [("plot", 4)]


def test_sequential_entries_run_one_after_the_other() -> None:
    board = Board(build_plan([Entry("a", [1], sequential=True), Entry("a", [2], sequential=True)], scheduler="s"))
    first = _drain(board)
    assert len(first) == 1
    board.commit(first[0])
    assert len(_drain(board)) == 1


def test_a_failure_skips_what_depends_on_it_and_nothing_else() -> None:
    entries = [
        Entry("train", [0], after=[]),
        Entry("train", [1], after=[]),
        Entry("predict", [0], after=[0]),
        Entry("predict", [1], after=[1]),
        Entry("post", [0], after=[2]),
        Entry("all", []),
    ]
    board = Board(build_plan(entries, scheduler="s"))
    trains = _drain(board)
    skipped = board.fail(trains[0])
    assert sorted(board.commands[key].position for key in skipped) == [3, 5, 6]
    board.commit(trains[1])
    assert _names(board, _drain(board)) == [("predict", 4)]
    assert not board.all_committed


def test_what_is_committed_already_is_not_taken_again() -> None:
    plan = build_plan([Entry("a", [1]), Entry("a", [2]), Entry("b", [])], scheduler="s")
    board = Board(plan, committed=[plan.commands[0].key, plan.commands[1].key])
    assert _names(board, _drain(board)) == [("b", 3)]


def test_equal_entries_have_different_keys_and_keys_do_not_change_when_a_plan_grows() -> None:
    one = build_plan([Entry("a", ["x"]), Entry("a", ["x"])], scheduler="s")
    assert len({command.key for command in one.commands}) == 2
    two = build_plan([Entry("z", [0]), Entry("a", ["x"]), Entry("a", ["x"])], scheduler="s")
    assert {command.key for command in one.commands} <= {command.key for command in two.commands}


def test_keys_are_safe_file_names_and_tell_similar_parameters_apart() -> None:
    keys = [command_key("train_fold", ["task+nested?1", fold]) for fold in (0, 1, "0", None, 1.0)]
    assert len(set(keys)) == 5
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=-~") for key in keys)
    assert len(command_key("a", ["x" * 1000])) < 120


def test_parameters_whose_digests_collide_get_different_keys() -> None:
    folder = "/data/projects/2024/hospital/cohort_with_a_rather_long_name/images/patient_00"
    alike = [f"{folder}33051.png", f"{folder}51661.png"]
    assert len({command_key("step", [name]) for name in alike}) == 1, "32 bits, and the same first 60 characters"
    plan = build_plan([Entry("step", [name], after=[]) for name in alike], scheduler="s")
    assert len({command.key for command in plan.commands}) == 2 and plan.commands[0].key == command_key("step", alike[:1])


@pytest.mark.parametrize("param", [object(), {1: 2}, b"x", {"a": {1, 2}}])
def test_params_that_are_no_plain_data_are_refused_when_the_plan_is_built(param: object) -> None:
    with pytest.raises(MMLMisconfigurationException, match="'step'"):
        build_plan([Entry("step", [param])], scheduler="s")


def _read(document: dict[str, Any]) -> Plan:
    return Plan(tuple(map(CommandSpec.from_json, document["commands"])), document["scheduler"])


def test_a_method_declares_the_defaults_of_its_command() -> None:
    @command(num_gpus=0.5, sequential=True)
    def decorated() -> str:
        return "ran"

    assert defaults_of(decorated) == CommandDefaults(num_gpus=0.5, sequential=True) and decorated() == "ran"
    assert defaults_of(lambda: None) == CommandDefaults()


def test_an_edge_to_a_later_entry_is_refused() -> None:
    with pytest.raises(MMLMisconfigurationException, match="does not come before"):
        build_plan([Entry("a", [], after=[0])], scheduler="s")


def test_the_fingerprint_sees_parameters_edges_and_scheduler_but_not_resources() -> None:
    base = build_plan([Entry("a", [1]), Entry("a", [2])], scheduler="s")
    assert base.fingerprint == _read(base.to_json()).fingerprint
    others = [
        build_plan([Entry("a", [1]), Entry("a", [3])], scheduler="s"),
        build_plan([Entry("a", [1]), Entry("a", [2], after=[0])], scheduler="s"),
        build_plan([Entry("a", [1]), Entry("a", [2])], scheduler="t"),
    ]
    assert len({base.fingerprint, *(plan.fingerprint for plan in others)}) == 4


def test_commands_keep_their_unit_and_the_fingerprint_does_not_see_it() -> None:
    def entries(*units: str) -> list[Entry]:
        return [Entry("a", [n], after=[], unit=unit) for n, unit in enumerate(units)]

    plan = build_plan(entries("fold 1", "fold 0", "", "fold 1"), scheduler="s")
    assert [command.unit for command in plan.commands] == ["fold 1", "fold 0", "", "fold 1"]
    assert plan.fingerprint == build_plan(entries("", "", "", ""), scheduler="s").fingerprint


def test_a_plan_of_another_version_is_read() -> None:
    plan = build_plan([Entry("a", [1], unit="fold 0")], scheduler="s")
    document = plan.to_json()
    assert _read(document) == plan
    (command,) = document["commands"]
    del command["unit"]
    command["of a later version"] = True
    assert _read(document) == build_plan([Entry("a", [1])], scheduler="s")


def test_the_frame_comes_first_and_last_and_leaves_the_fingerprint_alone() -> None:
    plan = build_plan([Entry("a", [1], after=[]), Entry("b", [])], scheduler="s")
    framed = plan.framed()
    assert [(c.name, c.position, c.where) for c in framed.commands] == [
        ("prepare_exp", 0, "driver"), ("a", 1, "worker"), ("b", 2, "worker"), ("finish_exp", 3, "driver"),
    ]  # fmt: skip
    assert framed.fingerprint == plan.fingerprint and framed.worker_commands == plan.commands
    document = framed.to_json()
    for written in document["commands"]:  # as the version before wrote it
        del written["unit"], written["where"]
    assert _read(document) == framed


def test_a_framed_board_prepares_first_also_when_the_preparation_committed_before() -> None:
    plan = build_plan([Entry("a", [1], after=[]), Entry("b", [1], after=[0]), Entry("c", [])], scheduler="s").framed()
    first = [key for key in (command.key for command in plan.commands) if key.startswith("a--")]
    for committed in ([], ["prepare_exp", *first]):
        board, order = Board(plan, committed), []
        while not board.all_committed:
            (key,) = _drain(board)
            order.append(key.split("--")[0])
            board.commit(key)
        assert order == ["prepare_exp", *(["b"] if committed else ["a", "b"]), "c", "finish_exp"]
        assert board.count() == {"committed": 3}, "the frame is not counted"


def test_without_a_preparation_everything_else_is_skipped() -> None:
    board = Board(build_plan([Entry("a", [1], after=[]), Entry("b", [1], after=[0]), Entry("c", [])], scheduler="s").framed())
    assert len(board.fail(_drain(board)[0])) == 3 and not board.has_ready()


def test_is_chain() -> None:
    assert build_plan([Entry("a", []), Entry("b", []), Entry("c", [])], scheduler="s").is_chain()
    assert not build_plan([Entry("a", [1]), Entry("a", [2])], scheduler="s").is_chain()
    assert build_plan([Entry("a", [1], after=[]), Entry("b", [2], after=[0])], scheduler="s").is_chain()
    assert not build_plan([Entry("a", [1], after=[]), Entry("b", [2], after=[])], scheduler="s").is_chain()


def test_ten_thousand_commands_are_planned_and_followed_quickly() -> None:
    began = time.process_time()
    entries = [Entry("a", [i]) for i in range(5000)] + [Entry("b", [i], after=[i]) for i in range(5000)]
    board = Board(build_plan(entries, scheduler="s"))
    done = 0
    while not board.all_committed:
        for key in _drain(board):
            board.commit(key)
            done += 1
    assert done == 10_000
    assert time.process_time() - began < promised_cpu(8), "the work must not grow with the square of the plan"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_plan_runs_each_command_once_and_never_before_what_it_needs(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    entries = []
    for index in range(count):
        after = data.draw(st.none() | st.lists(st.integers(0, index - 1), max_size=3)) if index else None
        entries.append(Entry(data.draw(st.sampled_from("ab")), [index], after))
    plan = build_plan(entries, scheduler="s")
    board = Board(plan)
    committed: list[str] = []
    flying: list[str] = []
    while not board.all_committed:
        flying += _drain(board)
        key = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
        spec = board.commands[key]
        assert set(spec.needs) <= set(committed)
        assert {c.key for c in plan.commands if c.position < spec.barrier} <= set(committed)
        committed.append(key)
        board.commit(key)
    assert sorted(committed) == sorted(board.commands)
