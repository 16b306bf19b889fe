"""Write files so that they are there whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

__all__ = ["read_json", "write_bytes", "write_json", "write_text"]


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` beside ``path``, flush it to the disk, and rename it into place.

    A reader sees the old file or the new one, never a part; a full disk leaves the old file as it was.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path | str, content: str) -> None:
    """:func:`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path | str, content: Any) -> None:
    """:func:`write_text` of JSON, a line for every entry of the outermost object; compressed if the name ends in .gz.

    JSON has no non-finite numbers: they are written as ``"nan"``, ``"inf"`` and ``"-inf"``, which :func:`float` reads.
    """
    plain = finite(content)
    if isinstance(plain, dict):
        lines = [f"{json.dumps(str(key))}: {json.dumps(value, allow_nan=False)}" for key, value in plain.items()]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
    else:
        text = json.dumps(plain, allow_nan=False) + "\n"
    # without a time: the same content is the same bytes
    write_bytes(path, gzip.compress(text.encode(), mtime=0) if Path(path).suffix == ".gz" else text.encode())


def read_json(path: Path | str) -> Any:
    """What :func:`write_json` wrote (non-finite numbers stay strings).

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or a ``.gz`` that is damaged.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def finite(content: Any) -> Any:
    """``content`` with non-finite floats replaced by their names, so that it is valid JSON."""
    if isinstance(content, float) and (content != content or content in (float("inf"), float("-inf"))):
        return str(content)
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content
