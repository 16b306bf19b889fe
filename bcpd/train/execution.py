"""How the steps of a training are computed. What is trained stays the same, up to rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bcpd.nets import Views

__all__ = ["EAGER", "Execution", "Precision", "checked_device", "compiled"]

Precision = Literal["float32", "tf32", "bfloat16"]


@dataclass(frozen=True)
class Execution:
    """How steps are computed: by default in float32, operation by operation.

    Part of a run's identity where it is not the default: every option changes the last bits, lower precision more.

    Attributes:
        precision: ``float32``: products and convolutions in IEEE single precision. ``tf32``: with inputs rounded to 10
            bits of mantissa (CUDA; what torch does by default in convolutions). ``bfloat16``: networks and losses under
            autocast (inputs of products and convolutions rounded to 7 bits, losses in float32); weights, their
            gradients and the optimizer stay in float32, and what is measured after an epoch is computed in float32.
        compile: :func:`torch.compile` of the student and the teacher.
        graphs: a step is captured once as a CUDA graph, from the gathering of its images to the optimizer, and replayed
            (CUDA; see :mod:`bcpd.train.graphs`).
    Raises:
        ValueError: another precision.
    """

    precision: Precision = "float32"
    compile: bool = False
    graphs: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, received {self.precision!r}")

    def check(self, device: torch.device) -> None:
        """Refuse a device that cannot do this.

        Raises:
            ValueError: TF32 or graphs without CUDA.
        """
        if device.type != "cuda" and (self.precision == "tf32" or self.graphs):
            wanted = "graphs" if self.graphs else "precision='tf32'"
            raise ValueError(f"{wanted} needs CUDA, received device {device.type}")

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @contextlib.contextmanager
    def products(self, device: torch.device) -> Iterator[None]:
        """While it lasts, products and convolutions on CUDA have the precision that is asked for."""
        if device.type != "cuda":
            yield
            return
        wanted = "tf32" if self.precision == "tf32" else "ieee"
        backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = wanted
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """For one step: networks and losses."""
        if self.precision != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


EAGER = Execution()
"""The default."""


def checked_device(device: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is none.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device must be cpu, cuda or cuda:N, received {device!r}") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {found}: torch sees no CUDA device; use 'cpu'")
    return found


def compiled(net: nn.Module, shown: Sequence[str]) -> Callable[[Tensor], Views]:
    """A network compiled for each shape that it sees, giving its logits and, of its other views, those named.

    What is not named is left out: a compiled network need not write it to memory.
    """
    # every network and every size of a batch is a program of its own: a session has more than the usual eight
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)

    def forward(x: Tensor) -> Views:
        views: Views = net(x)
        return Views(
            views.logits,
            views.pooled if "pooled" in shown else views.logits.new_empty(0),
            views.stages if "stages" in shown else (),
            views.preacts if "preacts" in shown else (),
        )

    return torch.compile(forward, dynamic=False, fullgraph=True)
