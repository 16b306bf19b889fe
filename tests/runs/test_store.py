"""A store holds a task whole or not at all: after a kill, on a full disk, beside another writer, with a flipped bit."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpd.runs import Store, StoreError, read_rows

PLAN: dict[str, list[dict[str, Any]]] = {
    "draw=2": [{"arm": "ce", "mse": 0.1 + 0.2}, {"arm": "mse", "mse": math.inf}],
    "draw=0": [],
    "draw=1": [{"arm": "ce", "scores": [1e-308, -0.0], "note": "Σ\n\u2028", "ok": None}],
}
ROWS = [row for rows in PLAN.values() for row in rows]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A path for a store, on a disk that need not be waited for."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield Path(name) / "rows.jsonl"


def fill(path: Path, identity: str | None = "spec") -> bytes:
    """Do what is missing of the plan; the bytes of the file."""
    with Store(path, identity=identity) as store:
        for key, rows in PLAN.items():
            if key not in store.done:
                store.append(key, rows)
        assert list(store.rows(PLAN)) == ROWS
    return path.read_bytes()


WHOLE = b""
with scratch() as _path:
    WHOLE = fill(_path)


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_rows_come_back_in_the_order_of_the_plan_or_of_the_keys_never_of_finishing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    with Store(path) as store:
        for key in ("b", "c", "a"):
            store.append(key, [{"task": key}])
        assert list(store.done) == ["b", "c", "a"]
        assert [row["task"] for row in store.rows()] == ["a", "b", "c"]
        assert [row["task"] for row in store.rows(["c", "a"])] == ["c", "a"]
        with pytest.raises(ValueError, match="no finished task 'd'; 3 others"):
            list(store.rows(["d"]))
    with pytest.raises(ValueError, match="is closed"):
        list(store.rows())
    with Store(path) as again:
        assert list(again.done) == ["b", "c", "a"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equal to the bit and in type, nan equal to nan, the names of non-finite floats equal to the floats."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if a in ("nan", "inf", "-inf"):
        a = float(a)
    if isinstance(a, float):
        return isinstance(b, float) and (a.hex() == b.hex() or (a != a and b != b))
    return type(a) is type(b) and bool(a == b)


@settings(max_examples=20)
@given(st.dictionaries(st.text(), st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=3), max_size=3))
def test_any_json_comes_back_as_it_went_in(plan: dict[str, list[dict[str, Any]]]) -> None:
    with scratch() as path:
        with Store(path) as store:
            for key, rows in plan.items():
                store.append(key, rows)
        with Store(path, read_only=True) as store:
            for key, rows in plan.items():
                assert same(rows, list(store.rows([key])))
            store.write_rows(path.parent / "export.jsonl", plan)
        assert same([row for rows in plan.values() for row in rows], read_rows(path.parent / "export.jsonl"))


def test_non_finite_numbers_are_valid_json_and_read_back_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Store(path) as store:
        store.append("a", [{"x": math.nan, "y": [-math.inf, {"z": math.inf}], "name": "infinite"}])

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    with Store(path, read_only=True) as store:
        (row,) = store.rows()
    assert math.isnan(row["x"])
    assert row["y"] == [-math.inf, {"z": math.inf}]
    assert row["name"] == "infinite"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"x": 1}, "must be a list of dicts, received dict"),
        ([1], "must be a list of dicts"),
        (None, "must be a list of dicts, received NoneType"),
        ([{"x": [0, {"y": torch.zeros(2)}]}], r"rows of task 'a'\[0\]\['x'\]\[1\]\['y'\] is a Tensor; accepted are"),
        ([{"x": {3: 1}}], r"\[0\]\['x'\] has the key 3; keys must be str"),
        ([{"x": b""}], "is a bytes"),
    ],
)
def test_rows_that_would_not_come_back_are_refused_before_anything_is_written(
    tmp_path: Path, rows: Any, message: str
) -> None:
    with Store(tmp_path / "rows.jsonl") as store:
        before = store.path.read_bytes()
        with pytest.raises(ValueError, match=message):
            store.append("a", rows)
        assert store.path.read_bytes() == before
        assert "a" not in store.done


def test_a_task_is_stored_once_with_its_payload(tmp_path: Path) -> None:
    with Store(tmp_path / "rows.jsonl") as store:
        store.append("a", [{"x": 1}], {"n": 500, "rates": (0.1, math.inf)})
        with pytest.raises(ValueError, match="task 'a' is already in"):
            store.append("a", [{"x": 1}])
    with Store(tmp_path / "rows.jsonl") as store:
        assert store.matches("a", {"rates": [0.1, math.inf], "n": 500})
        assert not store.matches("a", {"rates": [0.1, math.inf], "n": 501})
        with pytest.raises(ValueError, match="task 'a' is already in"):
            store.append("a", [{"x": 1}])
        assert list(store.rows()) == [{"x": 1}]


def test_an_export_depends_on_the_rows_alone(tmp_path: Path) -> None:
    with Store(tmp_path / "one") as store:
        store.append("a", [{"x": 1, "y": math.nan}])
        store.append("b", [{"x": 2}])
        store.write_rows(tmp_path / "one.jsonl")
        with pytest.raises(ValueError, match="over their own store"):
            store.write_rows(tmp_path / "one")
    with Store(tmp_path / "two", identity="other") as store:
        store.append("b", [{"x": 2}])
        store.append("a", [{"y": math.nan, "x": 1}])
        store.write_rows(tmp_path / "two.jsonl")
        store.write_rows(tmp_path / "plan.jsonl", ["b", "a"])
    assert (tmp_path / "one.jsonl").read_bytes() == b'{"x": 1, "y": "nan"}\n{"x": 2}\n'
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert [row["x"] for row in read_rows(tmp_path / "plan.jsonl")] == [2, 1]
    (tmp_path / "one.jsonl").write_text('{"x": 1}\n{"x"')
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON"):
        read_rows(tmp_path / "one.jsonl")


# Damage


def test_a_file_cut_at_any_byte_goes_on_to_the_same_bytes() -> None:
    ends = [index + 1 for index, byte in enumerate(WHOLE) if byte == ord("\n")]
    with scratch() as path:
        for length in range(len(WHOLE) + 1):
            path.write_bytes(WHOLE[:length])
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert fill(path) == WHOLE, length
            unfinished = length not in (0, *ends)
            assert [f"bytes after byte {max(e for e in (0, *ends) if e <= length)} were cut" in str(w.message)
                    for w in caught] == [True] * unfinished  # fmt: skip


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_refused_or_its_task_done_again_never_a_wrong_row(place: int, change: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[place] ^= change
    with scratch() as path:
        path.write_bytes(damaged)
        with contextlib.suppress(StoreError), Store(path, identity="spec", read_only=True) as store:
            assert all(list(store.rows([key])) == PLAN[key] for key in store.done)
            assert len(store.done) < len(PLAN)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert fill(path) == WHOLE
            except StoreError:
                assert path.read_bytes() == damaged, "what is refused is left as it is"


@given(st.integers(0, len(WHOLE)), st.binary(min_size=1, max_size=200))
def test_garbage_at_the_end_as_a_power_cut_leaves_it_is_cut_away_or_refused(length: int, garbage: bytes) -> None:
    for tail in (garbage, b"\0" * len(garbage)):
        with scratch() as path, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path.write_bytes(WHOLE[:length] + tail)
            with contextlib.suppress(StoreError):
                assert fill(path) == WHOLE


def test_a_line_damaged_in_the_middle_is_named_and_without_it_its_task_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = WHOLE.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"draw=0", b"draw=7"), lines[3]]))
    with pytest.raises(StoreError, match=r"line 3 of .*rows.jsonl is damaged.*Nothing was changed. Remove that line"):
        Store(path, identity="spec")
    path.write_bytes(b"".join([*lines[:2], lines[3]]))
    with Store(path, identity="spec") as store:
        assert list(store.done) == ["draw=2", "draw=1"]
    assert sorted(fill(path).splitlines()) == sorted(WHOLE.splitlines())


def test_a_task_twice_in_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(WHOLE + WHOLE.splitlines(keepends=True)[1])
    with pytest.raises(StoreError, match=r"line 5 of .* holds task 'draw=2' a second time"):
        Store(path, identity="spec")


def test_a_line_of_another_experiment_is_a_damaged_line(tmp_path: Path) -> None:
    other = fill(tmp_path / "other", "another spec").splitlines(keepends=True)
    lines = WHOLE.splitlines(keepends=True)
    (tmp_path / "mixed").write_bytes(b"".join([lines[0], other[1], *lines[2:]]))
    with pytest.raises(StoreError, match="line 2 of"):
        Store(tmp_path / "mixed", identity="spec")


@pytest.mark.parametrize("content", [b"notes of mine", b"{", b'{"x": 1}\n', WHOLE.replace(b"sweep 1", b"sweep 2")])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    if content == b"{":  # the beginning of a header
        assert fill_quietly(path) == WHOLE
        return
    for read_only in (False, True):
        with pytest.raises(StoreError, match="is not a store of the format 'bcpd sweep 1'"):
            Store(path, identity="spec", read_only=read_only)
    assert path.read_bytes() == content


def fill_quietly(path: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fill(path)


def test_a_store_of_another_experiment_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    fill(path)
    for identity in ("other", None):
        with pytest.raises(StoreError, match=rf"another experiment \(identity spec, expected {identity}\)"):
            Store(path, identity=identity)
    with pytest.raises(StoreError, match="another experiment"):
        Store(path, identity="other", read_only=True)
    with Store(path, read_only=True) as store:
        assert store.identity == "spec"
        assert list(store.rows(PLAN)) == ROWS


# Readers and writers


def test_a_second_writer_is_refused_while_the_first_is_open_and_readers_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bcpd.runs.store.SECONDS_TO_LET_GO", 0.05)
    path = tmp_path / "rows.jsonl"
    with Store(path) as store:
        store.append("a", [{"x": 1}])
        with pytest.raises(StoreError, match="is in use by another sweep"):
            Store(path)
        with Store(path, read_only=True) as reader:
            store.append("b", [{"x": 2}])
            assert list(reader.rows()) == [{"x": 1}], "a reader shows what was there when it opened"
            with pytest.raises(ValueError, match="read only"):
                reader.append("c", [])
    with Store(path) as store:
        assert list(store.done) == ["a", "b"]


def test_a_writer_waits_a_moment_for_a_dying_one(tmp_path: Path) -> None:
    first = Store(tmp_path / "rows.jsonl")
    timer = threading.Timer(0.1, first.close)
    timer.start()
    with Store(tmp_path / "rows.jsonl") as second:
        second.append("a", [])
    timer.join()


def test_a_reader_changes_nothing_and_passes_over_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(WHOLE[:-1])
    with Store(path, read_only=True) as store:
        assert list(store.done) == ["draw=2", "draw=0"]
    assert path.read_bytes() == WHOLE[:-1]
    with pytest.raises(StoreError, match="No such file"):
        Store(tmp_path / "missing", read_only=True)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("change", ["removed", "replaced", "longer"])
def test_a_file_that_something_else_changed_takes_no_rows(tmp_path: Path, change: str) -> None:
    path = tmp_path / "rows.jsonl"
    with Store(path) as store:
        store.append("a", [{"x": 1}])
        content = path.read_bytes()
        if change == "longer":
            path.write_bytes(content + b"\n")
        else:
            path.unlink()
        if change == "replaced":
            path.write_bytes(content)
        with pytest.raises(StoreError, match=r"cannot add task 'b' to .*(changed by something else|No such file)"):
            store.append("b", [{"x": 2}])
        assert list(store.done) == ["a"]


# Disks that are full, folders that cannot be written


@pytest.mark.parametrize("fails", ["write", "short write", "fsync", "interrupt"])
def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    write, fsync = os.write, os.fsync
    left, flushes = [7], [0]

    def short(handle: int, data: bytes) -> int:
        room = min(len(data), left[0])
        left[0] -= room
        return write(handle, data[:room]) if room else no_space()

    def unflushed(handle: int) -> None:
        flushes[0] += 1
        if flushes[0] > 1:
            fsync(handle)
        elif fails == "interrupt":
            raise KeyboardInterrupt
        else:
            no_space()

    with Store(tmp_path / "rows.jsonl") as store:
        store.append("a", [{"x": 1}])
        before = store.path.read_bytes()
        with monkeypatch.context() as patch:
            if fails in ("write", "short write"):
                patch.setattr(os, "write", no_space if fails == "write" else short)
            else:
                patch.setattr(os, "fsync", unflushed)
            with pytest.raises(KeyboardInterrupt if fails == "interrupt" else StoreError) as caught:
                store.append("b", [{"x": 2}])
        assert store.path.read_bytes() == before
        assert list(store.done) == ["a"]
        if fails != "interrupt":
            assert caught.value.errno == errno.ENOSPC  # type: ignore[attr-defined]
            assert str(caught.value).startswith(f"cannot add task 'b' to {store.path}: No space left on device. 1 fin")
        store.append("b", [{"x": 2}])
        assert [row["x"] for row in store.rows()] == [1, 2]


def test_a_write_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:5]))
    assert fill(tmp_path / "rows.jsonl") == WHOLE


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to make any file longer: the first write is cut short there, the next fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_may_not_grow_stops_at_a_whole_line_wherever_the_limit_lies() -> None:
    ends = [index + 1 for index, byte in enumerate(WHOLE) if byte == ord("\n")]
    with scratch() as path:
        for room in range(len(WHOLE)):
            path.unlink(missing_ok=True)
            with largest_file(room), pytest.raises(StoreError, match="File too large"):
                fill(path)
            assert path.read_bytes() == WHOLE[: max((end for end in ends if end <= room), default=0)], room
            if room % 10 == 0:
                assert fill(path) == WHOLE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_stops_a_store_with_a_sentence_and_with_room_it_goes_on(small_disk: Path, tmp_path: Path) -> None:
    def numbers(task: int) -> list[dict[str, Any]]:
        return [{"task": task, "x": Random(task).random(), "text": "x" * 3000}]

    (small_disk / "ballast").write_bytes(b"\0" * 30_000)
    path = small_disk / "rows.jsonl"

    def add(store: Store) -> None:
        for task in range(1000):
            store.append(str(task), numbers(task))

    with Store(path) as store:
        with pytest.raises(StoreError, match=r"No space left on device\. \d+ finished tasks are kept; make room"):
            add(store)
        kept = len(store.done)
        assert 2 < kept < 30
        with pytest.raises(StoreError, match="No space left"):
            store.append("more", numbers(0))
    assert len(path.read_bytes().splitlines()) == 1 + kept
    assert path.read_bytes().endswith(b'"}\n')
    with pytest.raises(OSError, match="No space left"), Store(path) as store:
        store.write_rows(small_disk / "export.jsonl")
    assert sorted(p.name for p in small_disk.iterdir()) == ["ballast", "rows.jsonl"]
    (small_disk / "ballast").unlink()
    with Store(path) as store:
        assert len(store.done) == kept
        store.append(str(kept), numbers(kept))
        assert list(store.rows(map(str, range(kept + 1)))) == [numbers(task)[0] for task in range(kept + 1)]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root cannot become nobody here")
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_a_sentence() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "closed")
        (folder / "closed").chmod(0o444)
        folder.chmod(0o555)
        with as_nobody():
            for file in ("new", "closed", "deep/er"):
                with pytest.raises(StoreError, match=r"cannot open the store .*: Permission denied") as caught:
                    Store(folder / file, identity="spec")
                assert caught.value.errno == errno.EACCES
            with Store(folder / "closed", read_only=True) as store:
                assert list(store.rows(PLAN)) == ROWS
        folder.chmod(0o755)
        assert [path.name for path in folder.iterdir()] == ["closed"]


def test_a_path_that_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"cannot open the store .*/file/inside"):
        Store(tmp_path / "file" / "inside")
    with pytest.raises(StoreError, match="Is a directory"):
        Store(tmp_path)
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(StoreError, match="is not a file"):
            Store(path, read_only=True)
    assert (tmp_path / "file").read_text() == "not a folder"


# SIGKILL


def in_child(run: Callable[[], None]) -> int:
    """A child process that runs a function; its id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of several threads
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
        status = 0
    finally:
        os._exit(status)


def test_killed_while_it_writes_a_store_loses_no_task_that_was_said_to_be_there(tmp_path: Path) -> None:
    path, said = tmp_path / "rows.jsonl", tmp_path / "said"
    rng = Random(0)

    def rows(task: int) -> list[dict[str, Any]]:
        return [{"task": task, "x": Random(task).random(), "text": chr(65 + task % 26) * 40_000}]

    def add() -> None:
        with Store(path) as store, said.open("ab", buffering=0) as log:
            for task in range(10_000):
                if str(task) not in store.done:
                    store.append(str(task), rows(task))
                    log.write(b"%d\n" % task)

    for _ in range(20):
        child = in_child(add)
        size = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size <= size:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        with Store(path, read_only=True) as store:
            assert store.done >= set(said.read_text().split())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = Store(path)
    with store:
        assert len(store.done) >= 10
        assert list(store.rows(map(str, range(len(store.done))))) == [rows(t)[0] for t in range(len(store.done))]
