"""Where a result came from: versions, machine, threads, the digest of the code that made it, and how long it took."""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import time
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bcpd.files import write_json

__all__ = ["Stopwatch", "code_digest", "provenance", "source_digest"]

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "safetensors")


@cache
def code_digest() -> str:
    """Digest of every Python file of the package, and of ``experiments`` where it can be imported: 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    roots = [Path(__file__).parent]
    experiments = find_spec("experiments")  # looked for, not imported
    if experiments is not None and experiments.origin is not None:
        roots.append(Path(experiments.origin).parent)
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()}".encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def source_digest(*modules: str) -> str:
    """Digest of what modules do, by name: of their syntax trees without docstrings and comments, 16 hex digits.

    For the identity of stored rows: another computation makes another digest, another wording does not.

    Raises:
        ValueError: a module whose source cannot be found.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name in modules:
        found = find_spec(name)
        if found is None or found.origin is None or not found.origin.endswith(".py"):
            raise ValueError(f"modules must be names of importable Python files, received {name!r}")
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = [statement for statement in node.body if not _is_text(statement)]
        digest.update(name.encode() + b"\0" + ast.dump(tree).encode() + b"\0")
    return digest.hexdigest()


def _is_text(statement: ast.AST) -> bool:
    """Whether it is a string that stands alone."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


class Stopwatch:
    """Seconds of a run, added up over the sessions that it took.

    Args:
        path: the file that keeps them; made by the first :meth:`lap`.
    Raises:
        ValueError: a file that is no stopwatch's.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.before = 0.0
        if self.path.exists():
            try:
                self.before = float(json.loads(self.path.read_text(encoding="utf-8"))["seconds"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f'{self.path} must hold {{"seconds": number}}: {error!r}; remove it') from None
        self.started = time.monotonic()

    def lap(self) -> float:
        """Seconds of all sessions so far, and keep them: what comes before a kill and after the last lap is lost."""
        total = self.before + time.monotonic() - self.started
        write_json(self.path, {"seconds": round(total, 1)})
        return total


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """JSON-able record of versions, device, threads and code; no user, host or path."""
    from bcpd import __version__

    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "bcpd": __version__,
        "code": code_digest(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in PACKAGES},
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
    }
