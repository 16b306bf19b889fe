"""What every registered loss promises: its formula, its target convention, its gradient, its refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd.losses import LOSSES

mpmath.mp.dps = 40

Number = Any  # mpmath's numbers have no types
Outcome = Callable[[int, Sequence[Number], Mapping[str, float]], Number]


def q_of(z: Sequence[Number]) -> list[Number]:
    weights = [mpmath.exp(value - max(z)) for value in z]
    return [weight / mpmath.fsum(weights) for weight in weights]


def log_q_of(z: Sequence[Number]) -> list[Number]:
    total = max(z) + mpmath.log(mpmath.fsum(mpmath.exp(value - max(z)) for value in z))
    return [value - total for value in z]


def unit(k: int, count: int) -> list[int]:
    return [int(j == k) for j in range(count)]


def square(left: Sequence[Number], right: Sequence[Number]) -> Number:
    return mpmath.fsum((a - b) ** 2 for a, b in zip(left, right, strict=True))


OUTCOMES: dict[str, Outcome] = {
    "ce": lambda k, z, _: -log_q_of(z)[k],
    "mse": lambda k, z, _: square(q_of(z), unit(k, len(z))),
    "mse_mean": lambda k, z, _: square(q_of(z), unit(k, len(z))) / len(z),
    "logit_mse": lambda k, z, _: square(z, unit(k, len(z))),
    "spherical": lambda k, z, _: -q_of(z)[k] / mpmath.sqrt(mpmath.fsum(q**2 for q in q_of(z))),
    "label_smoothing": lambda k, z, c: (
        -(1 - mpmath.mpf(c["epsilon"])) * log_q_of(z)[k] - mpmath.mpf(c["epsilon"]) * mpmath.fsum(log_q_of(z)) / len(z)
    ),
    "focal": lambda k, z, c: -((1 - q_of(z)[k]) ** c["gamma"]) * log_q_of(z)[k],
    "mae": lambda k, z, _: mpmath.fsum(abs(a - b) for a, b in zip(q_of(z), unit(k, len(z)), strict=True)),
    "power": lambda k, z, c: (
        (c["exponent"] - 1) * mpmath.fsum(q ** mpmath.mpf(c["exponent"]) for q in q_of(z))
        - c["exponent"] * q_of(z)[k] ** (mpmath.mpf(c["exponent"]) - 1)
    ),
    "ranked_probability": lambda k, z, _: mpmath.fsum(
        (int(k <= j) - mpmath.fsum(q_of(z)[: j + 1])) ** 2 for j in range(len(z))
    ),
    "generalised_ce": lambda k, z, c: (1 - q_of(z)[k] ** mpmath.mpf(c["exponent"])) / mpmath.mpf(c["exponent"]),
    "tempered_ce": lambda k, z, c: -log_q_of([value / c["temperature"] for value in z])[k],
    "confidence_penalty": lambda k, z, c: (
        -log_q_of(z)[k] + mpmath.mpf(c["beta"]) * mpmath.fsum(mpmath.exp(log_q) * log_q for log_q in log_q_of(z))
    ),
    "hui_belkin": lambda k, z, c: (
        (c["k"] * (z[k] - c["M"]) ** 2 + mpmath.fsum(value**2 for j, value in enumerate(z) if j != k)) / len(z)
    ),
    "crammer_singer": lambda k, z, _: max(0, 1 + max(value for j, value in enumerate(z) if j != k) - z[k]),
}
"""The loss of outcome k at logits z, in 40 digits, by the textbook."""

CONSTANTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mse": lambda t: 1 - t.square().sum(-1),
    "mse_mean": lambda t: (1 - t.square().sum(-1)) / t.shape[-1],
    "logit_mse": lambda t: 1 - t.square().sum(-1),
}
"""Expected label loss minus the loss at the row t, where the convention allows one that the logits do not enter."""


def constant(name: str, t: Tensor) -> Tensor:
    return CONSTANTS[name](t) if name in CONSTANTS else t.new_zeros(t.shape[:-1])


def textbook(name: str, logits: Tensor, target: Tensor) -> Tensor:
    """Slow values in float64, for labels or rows."""
    rows = logits.double().reshape(-1, logits.shape[-1])
    soft = target.is_floating_point()
    flat = target.double().reshape(-1, logits.shape[-1]) if soft else target.reshape(-1)
    parameters = LOSSES[name].parameters
    values = []
    for z, t in zip(rows.tolist(), flat.tolist(), strict=True):
        exact = [mpmath.mpf(value) for value in z]
        if soft:
            terms = [mpmath.mpf(w) * OUTCOMES[name](k, exact, parameters) for k, w in enumerate(t) if w]
            values.append(float(mpmath.fsum(terms)))
        else:
            values.append(float(OUTCOMES[name](t, exact, parameters)))
    expected = torch.tensor(values, dtype=torch.float64).reshape(logits.shape[:-1])
    return expected - constant(name, target.double()) if soft else expected


def outcome_losses(name: str, logits: Tensor) -> Tensor:
    """``(..., K)``: the loss of every label."""
    labels = torch.arange(logits.shape[-1]).expand(logits.shape)
    return torch.stack([LOSSES[name](logits, labels[..., k]) for k in range(logits.shape[-1])], -1)


def random_logits(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_rows(*shape: int, seed: int = 1) -> Tensor:
    return random_logits(*shape, scale=1.5, seed=seed).softmax(-1)


finite_logit = st.floats(-12, 12, allow_nan=False)


@st.composite
def logits_and_row(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    count = draw(st.integers(2, 7))
    row = st.lists(finite_logit, min_size=count, max_size=count).map(lambda z: torch.tensor(z, dtype=torch.float64))
    t = draw(
        st.one_of(
            row.map(lambda z: z.softmax(-1)),
            st.integers(0, count - 1).map(lambda k: torch.eye(count, dtype=torch.float64)[k]),
            st.just(torch.full((count,), 1 / count, dtype=torch.float64)),
        )
    )
    return draw(row), t


every_loss = pytest.mark.parametrize("name", LOSSES)
ORDERED = ("ranked_probability",)
UNBOUNDED = ("ce", "focal", "tempered_ce", "confidence_penalty", "crammer_singer")
LOOKS_EVERYWHERE = ("logit_mse", "hui_belkin", "label_smoothing")
"""Infinite as soon as one class is impossible, whether it happens or not."""
repeatable = settings(max_examples=20)


def test_every_loss_has_its_textbook_formula_here() -> None:
    assert set(OUTCOMES) == set(LOSSES)
    assert all(loss.name == name for name, loss in LOSSES.items())


@every_loss
def test_one_value_an_example_in_the_dtype_of_the_logits(name: str) -> None:
    for shape in ((5,), (4, 5), (2, 3, 5), (0, 5)):
        for dtype in (torch.float64, torch.float32):
            logits = random_logits(*shape).to(dtype)
            labels = torch.zeros(shape[:-1], dtype=torch.int64)
            for target in (labels, random_rows(*shape), random_rows(*shape).float()):
                value = LOSSES[name](logits, target)
                assert (value.shape, value.dtype) == (shape[:-1], dtype)


@every_loss
def test_half_precision_is_computed_in_float32(name: str) -> None:
    labels = torch.arange(6) % 4
    for dtype in (torch.float16, torch.bfloat16):
        half = random_logits(6, 4).to(dtype)
        for target in (labels, random_rows(6, 4)):
            value = LOSSES[name](half, target)
            assert value.dtype == torch.float32
            assert torch.equal(value, LOSSES[name](half.float(), target))
        torch.testing.assert_close(
            LOSSES[name](half, labels).double(), textbook(name, half, labels), rtol=1e-5, atol=1e-6
        )


@every_loss
@given(example=logits_and_row())
@repeatable
def test_float64_values_are_the_textbook_s(name: str, example: tuple[Tensor, Tensor]) -> None:
    logits, t = example
    label = t.argmax()
    torch.testing.assert_close(LOSSES[name](logits, label), textbook(name, logits, label), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(LOSSES[name](logits, t), textbook(name, logits, t), rtol=1e-12, atol=1e-14)


@every_loss
@given(example=logits_and_row())
@repeatable
def test_a_row_costs_the_expected_label_loss_up_to_a_constant_of_the_row(
    name: str, example: tuple[Tensor, Tensor]
) -> None:
    logits, t = example
    expected = (t * outcome_losses(name, logits)).sum(-1)
    torch.testing.assert_close(LOSSES[name](logits, t) + constant(name, t), expected, rtol=1e-12, atol=1e-12)


@every_loss
def test_a_label_and_its_one_hot_row_cost_the_same(name: str) -> None:
    logits, labels = random_logits(8, 5), torch.arange(8) % 5
    one_hot = torch.eye(5, dtype=torch.float64)[labels]
    torch.testing.assert_close(LOSSES[name](logits, labels), LOSSES[name](logits, one_hot), rtol=1e-14, atol=1e-15)


@every_loss
def test_examples_do_not_see_each_other(name: str) -> None:
    logits, labels, rows = random_logits(2, 6, 5), torch.arange(12).reshape(2, 6) % 5, random_rows(2, 6, 5)
    for target in (labels, rows):
        whole = LOSSES[name](logits, target)
        one = LOSSES[name](logits[1, 3], target[1, 3])
        torch.testing.assert_close(whole[1, 3], one, rtol=1e-14, atol=0)


@every_loss
def test_classes_have_no_order(name: str) -> None:
    logits, rows = random_logits(6, 5), random_rows(6, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = LOSSES[name](logits[:, order], rows[:, order])
    if name in ORDERED:
        assert float((LOSSES[name](logits, rows) - moved).abs().max()) > 1e-2
        moved = LOSSES[name](logits.flip(-1), rows.flip(-1))  # but no direction
        torch.testing.assert_close(LOSSES[name](logits, rows), moved)
        return
    torch.testing.assert_close(LOSSES[name](logits, rows), moved)
    torch.testing.assert_close(
        LOSSES[name](logits, order[:1].expand(6)), LOSSES[name](logits[:, order], torch.zeros(6).long())
    )


@every_loss
def test_gradients_are_the_derivatives(name: str) -> None:
    logits = random_logits(4, 5, scale=2.0).requires_grad_()
    for target in (torch.tensor([0, 4, 2, 2]), random_rows(4, 5)):
        assert torch.autograd.gradcheck(lambda z, t=target: LOSSES[name](z, t), (logits,), eps=1e-6, atol=1e-8)


@every_loss
def test_extreme_logits_stay_finite_and_so_do_their_gradients(name: str) -> None:
    rows = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, -1e4], [700.0, 0.0, -700.0]]
    for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for label in range(3):
            logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
            labels = torch.full((4,), label)
            value = LOSSES[name](logits, labels)
            expected = textbook(name, logits.detach(), labels)
            torch.testing.assert_close(
                value.detach().double(), expected, rtol=rtol, atol=1e-6 if dtype == torch.float32 else 1e-14
            )
            (gradient,) = torch.autograd.grad(value.sum(), logits)
            assert bool(gradient.isfinite().all())


@every_loss
def test_an_impossible_class_without_mass_costs_nothing(name: str) -> None:
    """A logit of -inf is q = 0 exactly: infinite only where the loss of that class is, and has weight."""
    logits = torch.tensor([0.0, 1.0, -torch.inf], dtype=torch.float64)
    near = torch.tensor([0.0, 1.0, -1e5], dtype=torch.float64)
    if name in LOOKS_EVERYWHERE:
        assert LOSSES[name](logits, torch.tensor(0)) == torch.inf
        return
    row = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64)
    for target in (torch.tensor(0), torch.tensor(1), row):
        torch.testing.assert_close(LOSSES[name](logits, target), LOSSES[name](near, target), rtol=1e-12, atol=0)
    limit = LOSSES[name](logits, torch.tensor(2))
    if name in UNBOUNDED:
        assert limit == torch.inf
    else:
        torch.testing.assert_close(limit, LOSSES[name](near, torch.tensor(2)), rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------------------------------------------------- refusals


@every_loss
@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3, 4), torch.tensor([0, 1, 4]), r"labels must lie in 0\.\.3, received 0\.\.4"),
        (torch.zeros(3, 4), torch.tensor([-1, 1, 2]), r"labels must lie in 0\.\.3, received -1\.\.2"),
        (torch.zeros(3, 4), torch.tensor([0, 1]), r"shape \(3,\).*received torch.int64 \(2,\)"),
        (torch.zeros(3, 4), torch.zeros(3, 1, dtype=torch.int64), r"received torch.int64 \(3, 1\)"),
        (torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool), r"received torch.bool"),
        (torch.zeros(3, 4), torch.zeros(3, dtype=torch.complex64), r"received torch.complex64"),
        (torch.zeros(3, 4), torch.full((3, 5), 0.2), r"shape of the logits \(3, 4\), received \(3, 5\)"),
        (torch.zeros(3, 4), torch.zeros(3), r"shape of the logits \(3, 4\), received \(3,\)"),
        (torch.zeros(3, 4), torch.full((3, 4), 0.3), "target must be rows of probabilities"),
        (torch.zeros(1, 2), torch.tensor([[1.5, -0.5]]), "target must be rows of probabilities"),
        (torch.zeros(1, 2), torch.tensor([[torch.nan, 1.0]]), "target must be rows of probabilities"),
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), "logits must be floating"),
        (torch.tensor(1.0), torch.tensor(0), "logits must be floating"),
    ],
    ids=[
        "label too large",
        "negative label",
        "too few labels",
        "labels with an axis too many",
        "bool",
        "complex",
        "too many columns",
        "floats for labels",
        "sum 1.2",
        "negative probability",
        "nan probability",
        "integer logits",
        "scalar logits",
    ],
)
def test_a_target_that_does_not_belong_is_refused(name: str, logits: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LOSSES[name](logits, target)


@every_loss
def test_labels_of_any_integer_type_are_labels(name: str) -> None:
    logits, labels = random_logits(4, 3), torch.tensor([0, 2, 1, 2])
    for dtype in (torch.int32, torch.uint8, torch.int16):
        assert torch.equal(LOSSES[name](logits, labels.to(dtype)), LOSSES[name](logits, labels))


@every_loss
def test_rows_that_are_no_probabilities_have_no_minimiser(name: str) -> None:
    with pytest.raises(ValueError, match="p must be rows of probabilities"):
        LOSSES[name].minimiser(torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match=f"read-out of {name} must be one of .*received 'sigmoid'"):
        LOSSES[name].minimiser(torch.tensor([0.5, 0.5]), "sigmoid")
    with pytest.raises(ValueError, match=f"read-out of {name} must be one of .*received 'sigmoid'"):
        LOSSES[name].readout("sigmoid")
