"""A run on disk: spec, provenance, metrics, weights, resume state, and a completion mark written last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcpd.distill import Method
from bcpd.files import finite, write_json, write_text
from bcpd.provenance import provenance
from bcpd.train.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from bcpd.train.fitted import Fitted
from bcpd.train.optim import AnyOptimizer
from bcpd.train.ranks import Ranks

__all__ = ["RunFolder"]

WITHIN_SECONDS = 5.0
"""Least time between two saves within an epoch, however often they are asked for: shorter epochs are done again."""


_States = dict[str, dict[str, Tensor]]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class RunFolder:
    """Reads and writes one training's folder; every file appears whole or not at all. Of several ranks, rank 0 does.

    ``spec.json`` (what was asked), ``provenance.json`` (where it ran), ``resume.safetensors`` (while it runs),
    ``metrics.jsonl`` (a row an epoch), ``weights/<checkpoint>.safetensors``, ``done.json`` (last).

    Raises:
        CheckpointError: the folder holds another run, or a file in it is damaged.
    """

    def __init__(
        self, folder: Path | str, identity: str, spec: Mapping[str, Any], save_seconds: float, ranks: Ranks
    ) -> None:
        self.folder = Path(folder)
        self.identity = identity
        self.save_seconds = save_seconds
        self.ranks = ranks
        self._saved = time.monotonic()
        self._optimizer: dict[str, Any] | None = None
        ranks.from_first(lambda: self._claim(spec))

    def _claim(self, spec: Mapping[str, Any]) -> None:
        """Begin the folder, where it does not hold this run already."""
        identity = self.identity
        known = self._identity_on_disk()
        if known is not None and known != identity:
            raise CheckpointError(
                f"{self.folder} holds another run (identity {known}, expected {identity}): the network, data, method, "
                f"recipe or seeds differ; use another folder"
            )
        if known is None:
            write_json(self.folder / "provenance.json", provenance(spec["device"]))
            write_json(self.folder / "spec.json", {"identity": identity, **spec})

    def _identity_on_disk(self) -> str | None:
        path = self.folder / "spec.json"
        if not path.exists():
            return None
        try:
            identity: str = json.loads(path.read_text())["identity"]
        except (json.JSONDecodeError, KeyError, UnicodeDecodeError, TypeError) as error:
            raise CheckpointError(f"{path} is not the spec of a run (damaged?): {error}") from None
        return identity

    @property
    def _resume_path(self) -> Path:
        return self.folder / "resume.safetensors"

    @property
    def complete(self) -> bool:
        """Whether the run was finished: the completion mark is there."""
        return self.ranks.from_first(lambda: (self.folder / "done.json").exists())

    def due(self, within: bool = False) -> bool:
        """Whether the last save is ``save_seconds`` ago (and :data:`WITHIN_SECONDS`, within an epoch)."""
        wait = max(self.save_seconds, WITHIN_SECONDS) if within else self.save_seconds
        return self.ranks.first and time.monotonic() - self._saved >= wait

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any], optimizer: AnyOptimizer) -> None:
        """Write the resume state."""
        if not self.ranks.first:
            return
        state = optimizer.state_dict()["state"]
        moments = {f"optimizer.{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}
        whole = {name: torch.as_tensor(value) for name, value in {**tensors, **moments}.items() if value is not None}
        write_checkpoint(
            self._resume_path, whole, {"identity": self.identity, "threads": torch.get_num_threads(), **record}
        )
        self._saved = time.monotonic()

    def resume(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The saved state, or None where there is none yet."""
        found = self.ranks.from_first(self._resumed)
        if found is not None:
            self._optimizer = {key: value for key, value in found[0].items() if key.startswith("optimizer.")}
        return found

    def _resumed(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        if not self._resume_path.exists():
            return None
        tensors, record = read_checkpoint(self._resume_path, self.identity)
        if record["threads"] != torch.get_num_threads():
            warnings.warn(
                f"{self.folder} was saved with {record['threads']} threads and goes on with "
                f"{torch.get_num_threads()}: results may differ in the last bits",
                stacklevel=2,
            )
        return tensors, record

    def restore_optimizer(self, optimizer: AnyOptimizer, device: torch.device) -> None:
        """Give a fresh optimizer the moments of the resumed one, once."""
        if not self._optimizer:
            return
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in self._optimizer.items():
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = value if key == "step" else value.to(device)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self._optimizer = None

    def finish(self, fitted: Fitted) -> None:
        """Write metrics, weights and, last, the completion mark; then the resume state may go."""
        self.ranks.from_first(lambda: self._finish(fitted))

    def _finish(self, fitted: Fitted) -> None:
        rows = "".join(json.dumps(finite(row), allow_nan=False) + "\n" for row in fitted.history)
        write_text(self.folder / "metrics.jsonl", rows)
        for checkpoint, state in fitted.states.items():
            write_checkpoint(
                self.folder / "weights" / f"{checkpoint}.safetensors",
                state,
                {"identity": self.identity, "epochs": fitted.epochs[checkpoint]},
            )
        adapters = fitted.method.state_dict()
        if adapters:
            write_checkpoint(self.folder / "method.safetensors", adapters, {"identity": self.identity})
        write_json(
            self.folder / "done.json",
            {"identity": self.identity, "checkpoints": list(fitted.states), "metrics": _digest(rows)},
        )
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a finished run needs no more: its resume state, and halves of files that a kill left."""
        with contextlib.suppress(OSError):  # a finished run may lie where nothing can be written
            for path in (self._resume_path, *self.folder.rglob(".*.part")):
                path.unlink(missing_ok=True)

    def read(self, net: nn.Module, method: Method) -> Fitted:
        """The finished run, with ``net`` and ``method`` holding its last weights."""
        history, states, epochs, learned = self.ranks.from_first(self._read)
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        states = {name: {key: value.to(device) for key, value in state.items()} for name, state in states.items()}
        net.load_state_dict(states["last"])
        if learned is not None:
            method.load_state_dict(learned)
        return Fitted(net.eval(), method, history, states, epochs, self.identity)

    def _read(self) -> tuple[list[dict[str, Any]], _States, dict[str, list[int]], dict[str, Tensor] | None]:
        """History, states and their epochs, and the state of the method where it has one."""
        try:
            done = json.loads((self.folder / "done.json").read_text())
            checkpoints, digest = list(done["checkpoints"]), done["metrics"]
            rows = (self.folder / "metrics.jsonl").read_text()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.folder} is marked as complete, but a file is damaged: {error!r}") from None
        if digest != _digest(rows) or "last" not in checkpoints:
            raise CheckpointError(f"{self.folder} is damaged: metrics.jsonl does not match the digest in done.json")
        history = [
            {key: [float(v) for v in value] if isinstance(value, list) else value for key, value in row.items()}
            for row in map(json.loads, rows.splitlines())
        ]
        states, epochs = {}, {}
        for checkpoint in checkpoints:
            tensors, record = read_checkpoint(self.folder / "weights" / f"{checkpoint}.safetensors", self.identity)
            states[checkpoint] = tensors
            epochs[checkpoint] = list(record["epochs"])
        learned = None
        if (self.folder / "method.safetensors").exists():
            learned = read_checkpoint(self.folder / "method.safetensors", self.identity)[0]
        self._sweep()
        return history, states, epochs, learned
