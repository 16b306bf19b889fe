"""Rows of a sweep in one append-only file: a task's rows are there whole or not at all, whatever kills the process.

A store is JSON Lines. The first line says what the file is and which experiment it belongs to; every other line is one
finished task with all its rows. Each line ends in a digest of itself (and of the experiment), so that a damaged line is
found, never read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bcpd.files import finite, write_text

__all__ = ["Store", "StoreError", "check_json", "check_rows", "read_rows"]

FORMAT = "bcpd sweep 1"
SECONDS_TO_LET_GO = 1.0
"""How long a process that was killed may still hold its lock."""

_NAMES = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class StoreError(OSError):
    """A store that cannot be opened, read or added to; what was finished before stays in it."""


class Store:
    """Finished tasks of a sweep and their rows, in one file.

    A task's rows are appended in one write and flushed to the disk before :meth:`append` returns. One process at a time
    writes: the file is locked while open. What a kill left of an unfinished last line is cut away at the next opening,
    with a warning; a damaged line in front of others is refused, not dropped.

    Rows are JSON: None, bool, int, float, str, lists and dicts with str keys. Floats survive to the bit. JSON has no
    non-finite numbers, so they are written as ``"nan"``, ``"inf"`` and ``"-inf"``, and these three strings are read
    back as floats, wherever they stand as a value.

    Args:
        path: the file; made, with its folders, where it is missing.
        identity: digest of the experiment's spec. A store of another identity is refused.
        read_only: for reports: takes no lock, changes nothing, passes over an unfinished last line, and takes any
            identity where none is given. It shows what was there when it was opened.

    Raises:
        StoreError: the file cannot be made, read or locked, is no store, is damaged, or has another identity.
    """

    def __init__(self, path: Path | str, *, identity: str | None = None, read_only: bool = False) -> None:
        self._handle: int | None = None
        self.path = Path(path).absolute()
        self.identity = identity
        self.read_only = read_only
        self._places: dict[str, tuple[int, int, str]] = {}
        self._size = 0
        try:
            self._handle = self._open()
            length = self._scan()
            if not read_only:
                self._repair(length)
        except OSError as error:
            self.close()
            if isinstance(error, StoreError):
                raise
            raise _store_error(f"cannot open the store {self.path}: {error.strerror or error}", error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the file and its lock back; more than once does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    @property
    def done(self) -> KeysView[str]:
        """Keys of the finished tasks, in the order they were finished."""
        return self._places.keys()

    def append(self, key: str, rows: Sequence[Mapping[str, Any]], payload: Any = None) -> None:
        """Add a finished task: on the disk when this returns, or not in the file at all.

        Args:
            key: the task's name, not yet in :attr:`done`.
            rows: its rows, possibly none.
            payload: what the task was asked; its digest is kept for :meth:`matches`.

        Raises:
            ValueError: a key that is done, rows that are not a list of dicts of JSON, or a store that is read only.
            StoreError: the disk is full or cannot be written, or the file was changed by something else; the file is
                cut back to what it was.
        """
        if self.read_only:
            raise ValueError(f"{self.path} was opened read only: task {key!r} cannot be added")
        if not isinstance(key, str):
            raise ValueError(f"the key of a task must be a string, received {key!r}")
        if key in self._places:
            raise ValueError(f"task {key!r} is already in {self.path}: a task is stored once")
        check_rows(rows, f"rows of task {key!r}")
        digest = _payload_digest(payload)
        line = _sealed({"task": key, "payload": digest, "rows": finite([dict(row) for row in rows])}, self.identity)
        self._append(line, f"add task {key!r} to", {key: (self._size, len(line), digest)})

    def matches(self, key: str, payload: Any) -> bool:
        """Whether the finished task ``key`` was stored with this payload."""
        return self._places[key][2] == _payload_digest(payload)

    def rows(self, keys: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        """All rows, task by task: in the order of ``keys`` (a plan), or sorted by key; never in the order of finishing.

        Raises:
            ValueError: a key that is not done.
            StoreError: the file was changed since it was opened.
        """
        for key in sorted(self._places) if keys is None else keys:
            if key not in self._places:
                raise ValueError(f"{self.path} has no finished task {key!r}; {len(self._places)} others are finished")
            offset, length, _ = self._places[key]
            record = _opened(os.pread(self._open_handle(), length, offset), self.identity)
            if record is None or record["task"] != key:
                raise StoreError(f"{self.path} was changed while it was open: task {key!r} cannot be read")
            yield from map(_restored, record["rows"])

    def write_rows(self, path: Path | str, keys: Iterable[str] | None = None) -> None:
        """Write :meth:`rows` to a file of their own, a row a line, keys sorted: equal rows give equal bytes.

        Raises:
            ValueError: the store's own path, or a key that is not done.
            OSError: the file cannot be written; it is as it was.
        """
        if Path(path).absolute() == self.path:
            raise ValueError(f"rows cannot be written over their own store {self.path}")
        lines = (json.dumps(finite(row), sort_keys=True, allow_nan=False) + "\n" for row in self.rows(keys))
        write_text(path, "".join(lines))

    def _open(self) -> int:
        if self.read_only:
            return os.open(self.path, os.O_RDONLY)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(handle, self.path)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _open_handle(self) -> int:
        if self._handle is None:
            raise ValueError(f"the store {self.path} is closed")
        return self._handle

    def _scan(self) -> int:
        """Find every whole line; the length of the file up to the last of them (0: not even the first is whole)."""
        handle = self._open_handle()
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise StoreError(f"{self.path} is not a file")
        end = damaged = 0
        with open(handle, "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                self._size += len(line)
                if number == 1:
                    if not self._accept(line):
                        return 0
                elif damaged:
                    raise StoreError(
                        f"line {damaged} of {self.path} is damaged: its digest does not fit. Nothing was changed. "
                        f"Remove that line to have its task done again, or use another file"
                    )
                elif (record := _opened(line, self.identity)) is None:
                    damaged = number
                    continue
                elif record["task"] in self._places:
                    raise StoreError(f"line {number} of {self.path} holds task {record['task']!r} a second time")
                else:
                    self._places[record["task"]] = (end, len(line), record["payload"])
                end += len(line)
        return end

    def _accept(self, line: bytes) -> bool:
        """Whether the first line is this store's; False where it is the beginning of it, as a kill leaves it.

        Raises:
            StoreError: anything else.
        """
        expected = self._header()
        if line != expected and expected.startswith(line):
            return False
        header = _opened(line, None)
        if header is None or header.get("format") != FORMAT:
            raise StoreError(f"{self.path} is not a store of the format {FORMAT!r}, or its first line is damaged")
        if header["identity"] != self.identity and not (self.read_only and self.identity is None):
            raise StoreError(
                f"{self.path} belongs to another experiment (identity {header['identity']}, expected {self.identity}): "
                f"its settings differ; use another file"
            )
        self.identity = header["identity"]
        return True

    def _header(self) -> bytes:
        from bcpd import __version__

        return _sealed({"format": FORMAT, "identity": self.identity, "bcpd": __version__}, None)

    def _repair(self, length: int) -> None:
        """Cut the file to its whole lines, and give a file without any its first."""
        unfinished = self._size - length
        if unfinished:
            handle = self._open_handle()
            os.ftruncate(handle, length)
            os.fsync(handle)
            self._size = length
        if not length:
            self._append(self._header(), "begin", {})
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        if unfinished:
            warnings.warn(
                f"{self.path} ended in a line that was never finished: {unfinished} bytes after byte {length} were cut "
                f"away, and their task will be done again",
                stacklevel=3,
            )

    def _append(self, line: bytes, what: str, place: dict[str, tuple[int, int, str]]) -> None:
        handle = self._open_handle()
        before = self._size
        try:
            there, here = os.stat(self.path), os.fstat(handle)
            if (there.st_dev, there.st_ino, there.st_size) != (here.st_dev, here.st_ino, before):
                raise StoreError(f"cannot {what} {self.path}: it was changed by something else while it was open")
            try:
                written = 0
                while written < len(line):
                    written += os.write(handle, line[written:])
                os.fsync(handle)
                self._places.update(place)
                self._size = before + len(line)
            except BaseException:
                self._size = before
                for key in place:
                    self._places.pop(key, None)
                with contextlib.suppress(OSError):  # then the next opening cuts it
                    os.ftruncate(handle, before)
                    os.fsync(handle)
                raise
        except StoreError:
            raise
        except OSError as error:
            raise _store_error(
                f"cannot {what} {self.path}: {error.strerror or error}. {len(self._places)} finished tasks are kept; "
                f"make room or make the file writable, then start the same again: it goes on from there",
                error,
            ) from error


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """The rows that :meth:`Store.write_rows` wrote, non-finite floats as floats.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not JSON.
    """
    rows = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            rows.append(_restored(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"line {number} of {path} is not JSON: {error}") from None
    return rows


def check_rows(rows: Any, where: str) -> None:
    """Refuse what is no list of dicts that :func:`check_json` accepts.

    Raises:
        ValueError: with the place, what was received, and what is accepted.
    """
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"{where} must be a list of dicts, received {type(rows).__name__}: {rows!r:.80}")
    for index, row in enumerate(rows):
        check_json(dict(row), f"{where}[{index}]")


def check_json(value: Any, where: str) -> None:
    """Refuse what would not come back from JSON as it went in (tuples pass, as lists).

    Raises:
        ValueError: with the place of the first offending value, its type, and the types that are accepted.
    """
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {key!r}; keys must be str")
            check_json(entry, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            check_json(entry, f"{where}[{index}]")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise ValueError(
            f"{where} is a {type(value).__name__}; "
            f"accepted are None, bool, int, float, str, lists, and dicts with str keys"
        )


def _restored(value: Any) -> Any:
    """Inverse of :func:`bcpd.files.finite`."""
    if isinstance(value, dict):
        return {key: _restored(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_restored(entry) for entry in value]
    return _NAMES.get(value, value) if isinstance(value, str) else value


def _payload_digest(payload: Any) -> str:
    text = json.dumps(finite(payload), sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _seal(text: bytes, identity: str | None) -> bytes:
    """The end of a line: the digest of what stands before it and of the identity."""
    digest = hashlib.blake2b(
        text, digest_size=16, person=hashlib.blake2b((identity or "").encode(), digest_size=16).digest()
    )
    return b',"digest":"' + digest.hexdigest().encode() + b'"}\n'


def _sealed(record: dict[str, Any], identity: str | None) -> bytes:
    """A line of ASCII with its digest."""
    text = json.dumps(record, allow_nan=False, separators=(",", ":"))[:-1].encode()
    return text + _seal(text, identity)


def _opened(line: bytes, identity: str | None) -> dict[str, Any] | None:
    """The record that :func:`_sealed` wrote, or None where one byte of it is another."""
    text = line[: -len(_seal(b"", None))]
    if text + _seal(text, identity) != line:
        return None
    record: dict[str, Any] = json.loads(text + b"}")
    return record


def _lock(handle: int, path: Path) -> None:
    """Keep other writers away for as long as ``handle`` is open."""
    try:
        import fcntl
    except ImportError:
        raise StoreError(f"cannot lock {path}: sweeps need a POSIX system") from None
    patience = time.monotonic() + SECONDS_TO_LET_GO
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= patience:
                raise StoreError(f"{path} is in use by another sweep: wait until it ends, or stop it") from None
        time.sleep(0.02)


def _store_error(text: str, cause: OSError) -> StoreError:
    error = StoreError(text)
    error.errno = cause.errno
    return error
