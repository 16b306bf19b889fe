"""Points of a mixture in a file, so that a teacher from any framework can be judged on them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bcpd.files import write_bytes
from bcpd.mixtures import FAMILIES, Mixture, from_spec

__all__ = ["find_mixture", "read_points", "read_probabilities", "write_points"]


def find_mixture(name: str) -> Mixture:
    """A mixture by its name in :data:`bcpd.mixtures.FAMILIES`, or from a JSON file that holds its ``spec()``.

    Raises:
        ValueError: neither a known name nor a file; the known names are listed.
    """
    if name in FAMILIES:
        return FAMILIES[name]()
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"mixture must be one of {', '.join(FAMILIES)}, or a JSON file of a spec; received {name!r}")
    try:
        return from_spec(json.loads(path.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def write_points(path: Path | str, mixture: Mixture, n: int, seed: int) -> None:
    """Write ``x`` ``(n, ...)`` float64, ``y`` ``(n,)`` int64 and the mixture's spec to an ``.npz`` file, whole.

    Raises:
        ValueError: a name that does not end in ``.npz``, or what :meth:`Mixture.sample` refuses.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"points are written to an .npz file, received {str(path)!r}")
    x, y = mixture.sample(n, seed)
    buffer = io.BytesIO()
    np.savez(buffer, x=x.numpy(), y=y.numpy(), seed=np.int64(seed), mixture=np.array(json.dumps(mixture.spec())))
    write_bytes(path, buffer.getvalue())


def read_points(path: Path | str) -> tuple[Mixture, Tensor, Tensor]:
    """The mixture, x and y that :func:`write_points` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind.
    """
    arrays = _load_npz(Path(path), "points")
    missing = sorted({"x", "y", "mixture"} - arrays.keys())
    if missing:
        raise ValueError(
            f"{path} must hold the arrays x, y and mixture, as `bcpd sample` writes them; {missing} are missing"
        )
    return from_spec(json.loads(str(arrays["mixture"]))), torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])


def read_probabilities(path: Path | str, rows: int, num_classes: int) -> Tensor:
    """Rows of probabilities ``(rows, num_classes)`` from ``.npy``, ``.npz`` (its only array, or ``probabilities``) or
    ``.csv`` (comma-separated, no header).

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, or another shape; what is in a row is checked where it is measured.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file of probabilities at {path}")
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            arrays = _load_npz(path, "probabilities")
            if "probabilities" not in arrays and len(arrays) != 1:
                raise ValueError(f"it must hold one array, or one named probabilities; it holds {sorted(arrays)}")
            array = arrays.get("probabilities", next(iter(arrays.values())))
        elif path.suffix == ".csv":
            array = np.loadtxt(path, delimiter=",", ndmin=2)
        else:
            raise ValueError("its name must end in .npy, .npz or .csv")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"cannot read probabilities from {path}: {error}") from None
    if array.shape != (rows, num_classes):
        raise ValueError(
            f"{path} must have shape ({rows}, {num_classes}): a row for every point, a column for every class; "
            f"received {array.shape}"
        )
    return torch.as_tensor(array)


def _load_npz(path: Path, what: str) -> Mapping[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"no file of {what} at {path}")
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with content as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not an .npz file of {what}: {error}") from None
