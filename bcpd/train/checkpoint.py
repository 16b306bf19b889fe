"""Tensors and a JSON record in one safetensors file with a digest of both: written whole, refused when damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bcpd.distill import Method
from bcpd.files import finite, write_bytes

__all__ = ["CheckpointError", "fingerprint", "read_checkpoint", "write_checkpoint"]

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or belongs to something else."""


def _digest(tensors: Mapping[str, Tensor], record: str = "") -> str:
    digest = hashlib.blake2b(record.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(module: nn.Module) -> str:
    """Digest of what a module computes: its structure and settings, and the bytes of its parameters and buffers."""
    return _digest(module.state_dict(), _structure(module))


def _structure(module: nn.Module) -> str:
    """The printed modules, and the settings that equal weights would not tell apart (an activation, a read-out)."""
    settings = []
    for name, part in module.named_modules():
        if type(part).__module__.startswith("torch."):
            continue  # their settings are in what they print
        plain = {
            key: value
            for key, value in sorted(vars(part).items())
            if not key.startswith("_") and key != "training" and _is_plain(value)
        }
        described = part.describe() if isinstance(part, Method) else None
        settings.append((name, type(part).__qualname__, plain, described))
    return repr(module) + json.dumps(settings)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able record to ``path``, whole or not at all. No pickle anywhere."""
    # cloned, since the format refuses tensors that share memory (tied weights)
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(finite({"format": FORMAT, **record}), allow_nan=False)
    # one entry, since the format keeps several in no order: equal contents are equal bytes
    write_bytes(path, save(flat, {"bcpd": f"{_digest(flat, text)} {text}"}))


def read_checkpoint(path: Path, identity: str | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_checkpoint` wrote.

    Args:
        path: the file.
        identity: if given, the record's ``identity`` must equal it.
    Returns:
        the tensors (on the CPU) and the record.
    Raises:
        CheckpointError: truncated or damaged, not one of ours, of another format, or of another run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable checkpoint (damaged or truncated?): {error}") from None
    if "bcpd" not in metadata:
        raise CheckpointError(f"{path} is a safetensors file, but not one that bcpd wrote: it has no bcpd record")
    digest, _, text = metadata["bcpd"].partition(" ")
    if digest != _digest(tensors, text):
        raise CheckpointError(f"{path} is damaged: its contents do not match the digest stored with them")
    record: dict[str, Any] = json.loads(text)
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {record.get('format')}, this version reads format {FORMAT}")
    if identity is not None and record.get("identity") != identity:
        raise CheckpointError(
            f"{path} belongs to another run (identity {record.get('identity')}, expected {identity}): "
            f"the network, data, method, recipe or seeds differ; use another folder"
        )
    return tensors, record
