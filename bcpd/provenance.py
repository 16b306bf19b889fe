"""Where a result came from: versions, machine, threads and the digest of the code that made it."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["code_digest", "provenance"]

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "safetensors")


@cache
def code_digest() -> str:
    """Digest of every Python file of the package, 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


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
