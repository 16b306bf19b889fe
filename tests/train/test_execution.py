"""Precision and compilation change the last bits of a training, and nothing else."""

from typing import Any

import pytest
import torch
from shared_runs import Conv
from small_world import K, furthest, mlp, world
from test_graphs import images
from torch import nn

import bcpd
from bcpd.data import InMemory
from bcpd.distill import AT, KD, PKT, Supervised
from bcpd.nets import Views, build
from bcpd.train import Execution, Recipe
from bcpd.train.execution import compiled

SGD = Recipe(epochs=3, learning_rate=0.05, batch_size=8, weight_decay=0.01, validation=0.25)


def single(**options: Any) -> InMemory:
    x = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return InMemory(x, torch.arange(40) % K, num_classes=K, **options)


class Seen(Supervised):
    """Remembers the dtypes of what it is shown and what it returns."""

    dtypes: list[torch.dtype]

    def loss(self, batch: Any, s: Views, t: Views | None) -> Any:
        terms = super().loss(batch, s, t)
        self.dtypes = [s.logits.dtype, *(term.dtype for term in terms.values())]
        return terms


def test_bfloat16_is_of_networks_and_not_of_weights_or_losses() -> None:
    method = Seen("mse")
    narrow = bcpd.fit(
        Conv(1, norm=True).float(), single(), method, SGD, seed=0, execution=Execution(precision="bfloat16")
    )
    assert method.dtypes == [torch.bfloat16, torch.float32]
    assert {value.dtype for value in narrow.states["last"].values() if value.is_floating_point()} == {torch.float32}
    plain = bcpd.fit(Conv(1, norm=True).float(), single(), Seen("mse"), SGD, seed=0)
    left, right = ({name: value.double() for name, value in one.states["last"].items()} for one in (plain, narrow))
    assert 1e-5 < furthest(left, right) < 0.05
    assert narrow.history[-1]["train_loss"][0] == pytest.approx(plain.history[-1]["train_loss"][0], rel=0.02)
    assert narrow.identity != plain.identity


def test_a_network_without_replicas_that_knows_its_gradient_uses_autograd_in_bfloat16() -> None:
    source = world(dtype=torch.float32)
    fits = [
        bcpd.fit(mlp(1).float(), source, Supervised("ce"), SGD, seed=0, execution=execution)
        for execution in (Execution(), Execution(precision="bfloat16"))
    ]
    first, second = ({k: v.double() for k, v in one.states["last"].items()} for one in fits)
    assert 1e-6 < furthest(first, second) < 0.05


def test_the_default_leaves_identities_as_they_were() -> None:
    plain = bcpd.fit(mlp(1), world(), Supervised("ce"), SGD, seed=0)
    named = bcpd.fit(mlp(1), world(), Supervised("ce"), SGD, seed=0, execution=Execution())
    assert plain.identity == named.identity


def test_what_a_device_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of float32, tf32, bfloat16, received 'float16'"):
        Execution(precision="float16")  # type: ignore[arg-type]
    for wrong, named in ((Execution(precision="tf32"), "precision='tf32'"), (Execution(graphs=True), "graphs")):
        with pytest.raises(ValueError, match=f"{named} needs CUDA, received device cpu"):
            bcpd.fit(mlp(1), world(), Supervised("ce"), SGD, seed=0, execution=wrong)


def test_a_compiled_network_shows_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler, which takes its time: only what it is given."""
    asked: dict[str, Any] = {}

    def stand_in(function: Any, **options: Any) -> Any:
        asked.update(options)
        return function

    monkeypatch.setattr(torch, "compile", stand_in)
    net, x = Conv(1), images().x[:3]
    whole = net(x)
    for shown in ((), ("pooled",), ("stages", "preacts")):
        views = compiled(net, shown)(x)
        assert torch.equal(views.logits, whole.logits)
        assert [bool(views.pooled.numel()), bool(views.stages), bool(views.preacts)] == [
            name in shown for name in ("pooled", "stages", "preacts")
        ]
    assert asked == {"dynamic": False, "fullgraph": True}
    for method in (KD(2.0), PKT(), AT()):
        plain = bcpd.fit(Conv(1, norm=True), images(), method, SGD, seed=0, teacher=Conv(5))
        through = bcpd.fit(
            Conv(1, norm=True), images(), method, SGD, seed=0, teacher=Conv(5), execution=Execution(compile=True)
        )
        assert furthest(plain.states["last"], through.states["last"]) == 0
        assert plain.identity != through.identity


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("method", [Supervised("mse"), KD(2.0), AT()], ids=["labels", "kd", "at"])
def test_compiled_networks_train_the_same(method: Any) -> None:
    torch.compiler.reset()

    def net(seed: int) -> nn.Module:
        return build("resnet8x0.5", num_classes=K, input_shape=(1, 8, 8), seed=seed).double()

    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source = InMemory(x, torch.arange(20) % K, num_classes=K, dtype=torch.float64)
    recipe = Recipe(epochs=2, learning_rate=0.05, batch_size=8, validation=0.25)
    teacher = None if isinstance(method, Supervised) else net(5)
    fits = [
        bcpd.fit(net(1), source, method, recipe, seed=0, teacher=teacher, execution=execution)
        for execution in (Execution(), Execution(compile=True))
    ]
    assert furthest(fits[0].states["last"], fits[1].states["last"]) < 1e-10


@pytest.mark.gpu
def test_float32_on_cuda_is_ieee() -> None:
    """TF32 would show: its inputs have 10 bits."""
    stream = torch.Generator("cuda").manual_seed(0)
    left, right = (torch.randn(256, 256, device="cuda", generator=stream) for _ in range(2))
    exact = left.double() @ right.double()
    errors = {}
    for precision in ("float32", "tf32"):
        with Execution(precision=precision).products(torch.device("cuda")):
            errors[precision] = float((left @ right - exact).abs().max())
    assert errors["float32"] < 1e-4 < errors["tf32"]
