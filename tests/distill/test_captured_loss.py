"""A step of every method can be captured: its loss asks the device for nothing and brings nothing to it.

On a CPU nothing would stall, so what would on a GPU is looked for among the operations: reading a value back
(``item``, a branch on a tensor), shapes that depend on values (``nonzero``, a mask as an index), and tensors made of
Python numbers (``torch.tensor(0.5)``, a copy from the host).
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bcpd.data import InMemory
from bcpd.distill import AT, CC, CRD, DKD, HSAKD, KD, PKT, RKD, SP, VID, FitNet, Method, ReviewKD, Supervised
from bcpd.losses import LOSSES
from bcpd.nets import build
from bcpd.train.execution import Execution
from bcpd.train.gradient import Gradient, StepOf
from bcpd.train.ranks import Ranks

K = 4
FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "lift_fresh")


class OnDevice(TorchDispatchMode):
    """Refuses what a captured step cannot hold."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in FORBIDDEN or masks:
            raise AssertionError(f"{name}{' by a mask' if masks else ''} waits for the device")
        return func(*args, **(kwargs or {}))


def net(seed: int) -> nn.Module:
    return build("resnet8x0.5", num_classes=K, input_shape=(1, 16, 16), seed=seed)


def images(labelled: bool = False) -> InMemory:
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (24, 1, 16, 16), dtype=torch.uint8, generator=stream)
    mask = torch.arange(24) % 3 > 0 if labelled else None
    return InMemory(x, torch.arange(24) % K, num_classes=K, augment="crop-flip", labelled=mask)


METHODS: dict[str, Callable[[nn.Module, nn.Module], Method]] = {
    **{f"supervised, {loss}": lambda s, t, loss=loss: Supervised(loss) for loss in LOSSES},
    "kd": lambda s, t: KD(4.0),
    "dkd": lambda s, t: DKD(warm_up=1),
    "at": lambda s, t: AT(),
    "pkt": lambda s, t: PKT(),
    "sp": lambda s, t: SP(),
    "cc": lambda s, t: CC(),
    "rkd": lambda s, t: RKD(),
    "vid": lambda s, t: VID(),
    "fitnet": lambda s, t: FitNet(),
    "crd": lambda s, t: CRD(images().y, negatives=5, dimension=6),
    "reviewkd": lambda s, t: ReviewKD(),
    "hsakd": lambda s, t: HSAKD(s, t, head_epochs=1),
}


def steps(gradient: Gradient, step_of: StepOf, source: InMemory, optimizer: Any, looked_at: bool) -> None:
    """Two steps as they come, and a third that is looked at."""
    for number in range(3):
        batch = source.batch(torch.arange(number, number + 8), seed=0, epoch=0)
        step_of.progress(1, number)
        batch = step_of.prepare(batch, 8, 1, number)
        optimizer.zero_grad()
        if number < 2 or not looked_at:
            step_of.learn(batch, 8, 1, number)
            optimizer.step()
        else:
            with OnDevice():
                step_of.learn(batch, 8, 1, number)


def gradient_of(method: Method, labelled: bool = False) -> tuple[Gradient, InMemory, Any]:
    torch.manual_seed(0)
    student, teacher, source = net(1), net(2).eval(), images(labelled)
    return prepared(method, student, teacher, source)


def prepared(
    method: Method, student: nn.Module, teacher: nn.Module, source: InMemory
) -> tuple[Gradient, InMemory, Any]:
    x = source.inputs(torch.arange(2))
    with torch.no_grad():
        method.adapt(student.eval()(x), teacher(x))
    student.train()
    gradient = Gradient(student, method, teacher, source, [0], Ranks(), Execution(), torch.device("cpu"), by_hand=False)
    optimizer = torch.optim.SGD([*student.parameters(), *method.parameters()], 0.01)
    return gradient, source, optimizer


@pytest.mark.parametrize(
    ("name", "labelled"), [*((name, False) for name in METHODS), ("supervised, mse", True), ("kd", True), ("crd", True)]
)
def test_a_step_waits_for_nothing(name: str, labelled: bool) -> None:
    student, teacher, source = net(1), net(2).eval(), images(labelled)
    method = METHODS[name](student, teacher)
    gradient, source, optimizer = prepared(method, student, teacher, source)
    for number, phase in enumerate(method.phases()):
        steps(gradient, gradient.of_phase(phase, number), source, optimizer, looked_at=True)
    steps(gradient, gradient.of_student(), source, optimizer, looked_at=True)


class Waits(KD):
    """Asks the device in one of several ways."""

    def __init__(self, how: Callable[[Tensor], object]) -> None:
        super().__init__(2.0)
        self._how = how

    def loss(self, batch: Any, s: Any, t: Any) -> Any:
        self._how(s.logits)
        return super().loss(batch, s, t)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        (lambda z: float(z.detach().sum()), "_local_scalar_dense"),
        (lambda z: z.detach().sum() > 0 and None, "_local_scalar_dense"),
        (lambda z: z[z > 0], "index by a mask"),
        (lambda z: z * torch.tensor(0.5), "lift_fresh"),
        (lambda z: (z > 0).nonzero(), "nonzero"),
        (lambda z: z.argmax(-1).unique(), "_unique2"),
    ],
)
def test_what_waits_is_noticed(how: Callable[[Tensor], object], named: str) -> None:
    gradient, source, optimizer = gradient_of(Waits(how))
    with pytest.raises(AssertionError, match=f"{named} waits for the device"):
        steps(gradient, gradient.of_student(), source, optimizer, looked_at=True)
