"""What a silo remembers: a file is there whole or not at all, and a round asked again finds the same memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from fl_client import memory

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def arrays(number: int):
    return {
        "residual": np.arange(3, dtype=np.float32) + number,
        "local/x": np.ones((2, 2)) * number,
    }


def fail(*_, **__):
    raise OSError(28, "no space left on device")


def break_replace(patch):
    patch.setattr(Path, "replace", fail)


def break_fsync(patch):
    patch.setattr(os, "fsync", fail)


def break_write(patch):
    class Full:
        def __init__(self, stream):
            self._stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._stream.close()

        def write(self, content):
            self._stream.write(content[: len(content) // 2])
            fail()

    opened = Path.open
    patch.setattr(Path, "open", lambda path, mode="r": Full(opened(path, mode)))


BREAKS = (break_replace, break_fsync, break_write)


@pytest.mark.parametrize("broken", BREAKS)
def test_a_write_that_fails_leaves_the_old_content(broken, tmp_path, monkeypatch):
    target = tmp_path / "file"
    memory.write_whole(target, b"old content")
    with monkeypatch.context() as patch:
        broken(patch)
        with pytest.raises(OSError, match="no space left"):
            memory.write_whole(target, b"new content, longer")
    assert target.read_bytes() == b"old content"
    memory.write_whole(target, b"new content, longer")
    assert target.read_bytes() == b"new content, longer"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("broken", BREAKS)
def test_a_first_write_that_fails_leaves_no_file_of_that_name(broken, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        broken(patch)
        with pytest.raises(OSError, match="no space left"):
            memory.write_whole(tmp_path / "deep" / "file", b"content")
    assert not (tmp_path / "deep" / "file").exists()


@pytest.mark.parametrize("broken", BREAKS)
def test_a_write_that_fails_leaves_nothing_half_written(broken, tmp_path, monkeypatch):
    begun, complete = [], memory.complete
    target = tmp_path / "file"

    def noted(file):
        begun.append(memory.part(file).read_bytes())
        complete(file)

    with monkeypatch.context() as patch:
        broken(patch)
        patch.setattr(memory, "complete", noted)
        with pytest.raises(OSError, match="no space left"):
            memory.write_whole(target, b"content")
    assert begun == ([] if broken is break_write else [b"content"])
    assert not list(tmp_path.iterdir())


def test_a_file_is_synced_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append("sync"), sync(number))[1])
    monkeypatch.setattr(
        Path, "replace", lambda path, to: (done.append("rename"), replace(path, to))[1]
    )
    memory.write_whole(tmp_path / "file", b"content")
    assert done == ["sync", "rename", "sync"]


@quick
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_what_was_written_last_is_what_is_there(tmp_path_factory, first, second):
    target = tmp_path_factory.mktemp("written") / "file"
    memory.write_whole(target, first)
    memory.write_whole(target, second)
    assert target.read_bytes() == second


def test_what_is_kept_is_recalled_with_its_types(tmp_path):
    memory.keep(tmp_path, 1, arrays(1), best=0)
    held = memory.recall(tmp_path, 2)
    assert held.keys() == arrays(1).keys()
    for name, value in arrays(1).items():
        assert held[name].dtype == value.dtype
        assert np.array_equal(held[name], value)


def test_nothing_is_recalled_where_nothing_was_kept(tmp_path):
    assert memory.recall(tmp_path / "nowhere", 5) == {}
    assert memory.rounds(tmp_path / "nowhere") == []


def test_a_round_recalls_the_newest_memory_from_before_it(tmp_path):
    for number in (1, 2, 3):
        memory.write_whole(memory.path(tmp_path, number), save(arrays(number)))
    assert memory.recall(tmp_path, 1) == {}
    for before, expected in ((2, 1), (3, 2), (4, 3), (9, 3)):
        assert memory.recall(tmp_path, before)["residual"][0] == expected


def test_a_round_asked_again_recalls_what_it_recalled_first(tmp_path):
    for number in (1, 2, 3):
        memory.keep(tmp_path, number, arrays(number), best=number - 1)
    memory.keep(tmp_path, 3, arrays(30), best=2)
    assert memory.recall(tmp_path, 3)["residual"][0] == 2
    assert memory.recall(tmp_path, 4)["residual"][0] == 30


def test_a_hub_that_was_set_back_behind_all_that_is_kept_finds_what_is_private_alone(tmp_path):
    for number in range(1, 7):
        memory.keep(tmp_path, number, arrays(number) | {"private/p": np.float32([number])}, best=0)
    assert memory.rounds(tmp_path) == [4, 5, 6]
    for _ in range(2):  # asked again it begins as before
        assert memory.agreed(tmp_path, 2, lost=0) == {"private/p": [4]}
        memory.keep(tmp_path, 2, arrays(20) | {"private/p": np.float32([20])}, best=0)
    assert memory.agreed(tmp_path, 3, lost=0)["residual"][0] == 20
    memory.keep(tmp_path, 3, arrays(30) | {"private/p": np.float32([30])}, best=0)
    assert memory.agreed(tmp_path, 4, lost=0)["residual"][0] == 30
    assert memory.agreed(tmp_path, 4, lost=0)["private/p"] == [30]


def test_a_study_that_begins_again_begins_with_nothing(tmp_path):
    for number in (2, 3):
        memory.keep(tmp_path, number, arrays(number), best=0)
    assert memory.agreed(tmp_path, 1, lost=0) == {}


def test_a_damaged_memory_from_after_a_round_is_passed_over(tmp_path):
    for number in (4, 5):
        memory.keep(tmp_path, number, arrays(number) | {"private/p": np.float32([number])}, best=0)
    memory.path(tmp_path, 4).write_bytes(b"cut short")
    assert memory.agreed(tmp_path, 3, lost=0) == {"private/p": [5]}


def test_what_is_known_of_updates_is_never_that_of_an_earlier_round(tmp_path):
    memory.keep(tmp_path, 1, arrays(1) | {"private/p": np.float32([1])}, best=0)
    assert memory.agreed(tmp_path, 2, lost=0).keys() == {"residual", "local/x", "private/p"}
    assert memory.agreed(tmp_path, 3, lost=2).keys() == {"residual", "local/x", "private/p"}
    assert memory.agreed(tmp_path, 3, lost=0) == {"private/p": np.float32([1])}
    assert memory.agreed(tmp_path, 4, lost=3) == {"private/p": np.float32([1])}


def test_a_half_written_memory_is_not_recalled(tmp_path, monkeypatch):
    memory.keep(tmp_path, 1, arrays(1), best=0)
    with monkeypatch.context() as patch:
        break_replace(patch)
        with pytest.raises(OSError, match="no space left"):
            memory.keep(tmp_path, 2, arrays(2), best=1)
    assert memory.rounds(tmp_path) == [1]
    assert memory.recall(tmp_path, 3)["residual"][0] == 1


def test_a_memory_is_pruned_only_after_the_next_one_is_there(tmp_path, monkeypatch):
    for number in (1, 2, 3):
        memory.keep(tmp_path, number, arrays(number), best=0)
    with monkeypatch.context() as patch:
        break_replace(patch)
        with pytest.raises(OSError, match="no space left"):
            memory.keep(tmp_path, 4, arrays(4), best=0)
    assert memory.rounds(tmp_path) == [1, 2, 3]


def test_the_last_three_rounds_and_the_best_stay(tmp_path):
    best = {1: 0, 2: 1, 3: 2, 4: 2, 5: 2, 6: 5, 7: 5}
    left = {}
    for number, so_far in best.items():
        memory.keep(tmp_path, number, arrays(number), so_far)
        left[number] = memory.rounds(tmp_path)
    assert left == {
        1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [2, 3, 4], 5: [2, 3, 4, 5], 6: [4, 5, 6], 7: [5, 6, 7],
    }  # fmt: skip
    assert memory.recall(tmp_path, 6)["residual"][0] == 5


@quick
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_whatever_the_course_the_memories_a_hub_can_ask_for_are_there(tmp_path_factory, course):
    """Each round, the silo answers or not, and the round before it was the best or not."""
    home = tmp_path_factory.mktemp("course")
    best, trained = 0, []
    for number, (answers, better) in enumerate(course, 1):
        best = number - 1 if better else best
        if not answers:
            continue
        seen = [earlier for earlier in trained if earlier < number]
        held = memory.recall(home, number)
        assert (held["residual"][0] if held else None) == (seen[-1] if seen else None)
        memory.keep(home, number, arrays(number), best)
        trained.append(number)
        of_best = [earlier for earlier in trained if earlier <= best]
        held = memory.recall(home, best + 1)
        assert (held["residual"][0] if held else None) == (of_best[-1] if of_best else None)
        assert len(memory.rounds(home)) <= 4


def test_other_files_in_the_folder_are_no_memories(tmp_path):
    memory.keep(tmp_path, 1, arrays(1), best=0)
    for name in ("round-00002.safetensors.part", "round-2.safetensors", "round-x.safetensors"):
        (tmp_path / "memory" / name).write_bytes(b"")
    assert memory.rounds(tmp_path) == [1]


def test_a_round_beyond_99999_is_recalled(tmp_path):
    memory.keep(tmp_path, 99_999, arrays(1), best=0)
    memory.keep(tmp_path, 100_000, arrays(2), best=0)
    assert memory.recall(tmp_path, 100_001)["residual"][0] == 2
