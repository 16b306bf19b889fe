"""Reader of the official CIFAR-10 and CIFAR-100 binary archives (Krizhevsky 2009). Nothing is unpickled."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from bcpd.data.images import Images

__all__ = ["read_cifar"]

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    """How one archive lays out its records: label bytes, then 1024 red, 1024 green and 1024 blue pixels."""

    archive: str
    folder: str
    files: dict[str, tuple[str, ...]]
    names_file: str
    label_bytes: tuple[tuple[str, int], ...]  # (what the byte is, its number of classes); the last one is y

    @property
    def record(self) -> int:
        return len(self.label_bytes) + _PIXELS


_LAYOUTS = {
    "cifar10": _Layout(
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
        names_file="batches.meta.txt",
        label_bytes=(("label", 10),),
    ),
    "cifar100": _Layout(
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        names_file="fine_label_names.txt",
        label_bytes=(("coarse label", 20), ("fine label", 100)),
    ),
}


def read_cifar(
    folder: str | os.PathLike[str], name: Literal["cifar10", "cifar100"], split: Literal["train", "test"]
) -> Images:
    """One split of CIFAR-10 or CIFAR-100, images in the order of the files.

    The official files hold 10,000 records each (CIFAR-100's train.bin 50,000); any positive whole number is read, so
    that a subset in the same layout is a data set too. CIFAR-100's superclasses come as ``coarse``.

    Args:
        folder: the unpacked archive, or the folder that contains it.
        name: ``"cifar10"`` or ``"cifar100"``.
        split: ``"train"`` or ``"test"``.
    Returns:
        :class:`Images` with x ``(N, 3, 32, 32)``; class names where the archive's names file is present.
    Raises:
        FileNotFoundError: no such file; says what was looked for and in which archive it is published.
        ValueError: an unknown name or split; or, with file and byte offset, an incomplete record or a label out of
            range.
    """
    if name not in _LAYOUTS:
        raise ValueError(f"name must be one of {sorted(_LAYOUTS)}, received {name!r}")
    layout = _LAYOUTS[name]
    if split not in layout.files:
        raise ValueError(f"split must be one of {sorted(layout.files)}, received {split!r}")
    given = Path(folder)
    root = given / layout.folder if (given / layout.folder).is_dir() else given
    records = np.concatenate([_records(root / file, layout) for file in layout.files[split]])
    label_columns = torch.from_numpy(records[:, : len(layout.label_bytes)].astype(np.int64))
    return Images(
        x=torch.from_numpy(records[:, len(layout.label_bytes) :].reshape(-1, 3, 32, 32).copy()),
        y=label_columns[:, -1].contiguous(),
        num_classes=layout.label_bytes[-1][1],
        class_names=_class_names(root / layout.names_file, layout.label_bytes[-1][1]),
        coarse=label_columns[:, 0].contiguous() if len(layout.label_bytes) == 2 else None,
    )


def _records(path: Path, layout: _Layout) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The records of one file, ``(n, record)``, sizes and labels checked."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}: unpack the official binary archive {layout.archive}, which holds "
            f"{layout.folder}/{path.name} (https://www.cs.toronto.edu/~kriz/cifar.html), and give its folder or the "
            f"folder above"
        )
    content = np.fromfile(path, dtype=np.uint8)
    whole, rest = divmod(content.size, layout.record)
    if rest or not whole:
        raise ValueError(
            f"{path} must be a positive whole number of records of {layout.record} bytes, received {content.size} "
            f"bytes: the record at offset {whole * layout.record} is incomplete ({rest} bytes)"
        )
    records = content.reshape(whole, layout.record)
    for column, (kind, num_classes) in enumerate(layout.label_bytes):
        wrong = np.flatnonzero(records[:, column] >= num_classes)
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(
                f"{path}: {kind} must lie in 0..{num_classes - 1}, received {records[row, column]} "
                f"at offset {row * layout.record + column} (record {row})"
            )
    return records


def _class_names(path: Path, num_classes: int) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != num_classes:
        raise ValueError(f"{path} must name {num_classes} classes, received {len(names)}")
    return names
