"""A file is there whole or not at all, and its JSON is JSON."""

import errno
import gzip
import json
import math
import os
from pathlib import Path

import pytest

from bcpd.files import finite, read_json, write_bytes, write_json, write_text


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "er" / "data.bin", b"\0\xff" * 1000)
    assert (tmp_path / "deep" / "er" / "data.bin").read_bytes() == b"\0\xff" * 1000
    write_text(tmp_path / "text", "Σ\n")
    assert (tmp_path / "text").read_bytes() == "Σ\n".encode()
    write_text(str(tmp_path / "text"), "new")
    assert (tmp_path / "text").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "text"]


def test_a_written_file_is_readable_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "x")
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", ["replace", "fsync", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    write_text(tmp_path / "kept", "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, no_space)
        with pytest.raises(OSError, match="No space left"):
            write_text(tmp_path / "kept", "new")
        with pytest.raises(OSError, match="No space left"):
            write_text(tmp_path / "fresh", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_an_interrupt_while_writing_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def test_the_new_content_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        steps.append(f"fsync of {os.fstat(handle).st_size} bytes")
        fsync(handle)

    def noted_replace(source: str, target: Path) -> None:
        steps.append("replace")
        assert Path(source).parent == target.parent, "a rename across file systems is not atomic"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_bytes(tmp_path / "file", b"12345")
    assert steps == ["fsync of 5 bytes", "replace"]


def test_a_path_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        write_text(tmp_path / "file" / "inside", "x")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_numbers_that_json_lacks_are_named_and_read_back_by_float(tmp_path: Path) -> None:
    content = {"a": [math.nan, math.inf, -math.inf, 0.1], "b": (1, {"c": math.inf}), "d": None, "e": True, "f": "nan"}
    write_json(tmp_path / "file.json", content)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((tmp_path / "file.json").read_text(), parse_constant=refuse)
    assert read == {"a": ["nan", "inf", "-inf", 0.1], "b": [1, {"c": "inf"}], "d": None, "e": True, "f": "nan"}
    assert [float(value) for value in read["a"]][1:] == [math.inf, -math.inf, 0.1]
    assert math.isnan(float(read["a"][0]))


def test_floats_survive_json_to_the_bit(tmp_path: Path) -> None:
    numbers = [0.1 + 0.2, 1e-308, 5e-324, 1.7976931348623157e308, -0.0, math.pi]
    write_json(tmp_path / "file.json", numbers)
    read = json.loads((tmp_path / "file.json").read_text())
    assert [value.hex() for value in read] == [value.hex() for value in numbers]


def test_content_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []
    assert finite(0.5) == 0.5


@pytest.mark.parametrize("name", ["content.json", "content.json.gz"])
def test_json_is_read_back_and_the_same_content_is_the_same_bytes(name: str, tmp_path: Path) -> None:
    content = {"rows": [[1, 0.1, None, "Σ"]] * 500, "note": "p*"}
    for place in ("one", "two"):
        write_json(tmp_path / place / name, content)
    assert read_json(tmp_path / "one" / name) == content
    written = (tmp_path / "one" / name).read_bytes()
    assert written == (tmp_path / "two" / name).read_bytes()
    assert (len(written) < 1000) == name.endswith(".gz")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{"),
        ("a.json", b"\xff\xfe{}"),
        ("a.json.gz", b"{}"),
        ("a.json.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9]),
    ],
    ids=["cut", "not-utf-8", "not-compressed", "compressed-and-cut"],
)
def test_what_is_no_json_is_refused_by_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is not JSON"):
        read_json(tmp_path / name)


def test_no_flipped_byte_of_a_compressed_file_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    write_json(path, {"rows": [1, 2, 3]})
    whole = path.read_bytes()
    for place in range(10, len(whole)):  # behind the header, whose time and system say nothing
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is not JSON"):
            read_json(path)
