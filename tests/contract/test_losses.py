"""What every registered loss promises: its formula, its target convention, its gradient, its population minimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from bcpd.losses import LOSSES, Loss

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
proper = pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.proper])
IMPROPER = ("focal", "label_smoothing", "mae")
repeatable = settings(derandomize=True, deadline=None, max_examples=20)
sparingly = settings(derandomize=True, deadline=None, max_examples=10)


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
    torch.testing.assert_close(LOSSES[name](logits, rows), LOSSES[name](logits[:, order], rows[:, order]))
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
    if name == "logit_mse" or (name == "label_smoothing" and LOSSES[name].parameters["epsilon"]):
        assert LOSSES[name](logits, torch.tensor(0)) == torch.inf
        return
    row = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64)
    for target in (torch.tensor(0), torch.tensor(1), row):
        torch.testing.assert_close(LOSSES[name](logits, target), LOSSES[name](near, target), rtol=1e-12, atol=0)
    limit = LOSSES[name](logits, torch.tensor(2))
    if name in ("ce", "focal"):
        assert limit == torch.inf
    else:
        torch.testing.assert_close(limit, LOSSES[name](near, torch.tensor(2)), rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------------------------------------- population minimisers

TRUTHS = [
    [0.7, 0.3],
    [0.5, 0.3, 0.2],
    [0.9, 0.06, 0.04],
    [0.4, 0.35, 0.15, 0.1],
    [0.62, 0.3, 0.05, 0.02, 0.01],
]


def numeric_minimum(loss: Loss, p: Tensor) -> tuple[float, Tensor]:
    """Least risk and its logits by BFGS from several starts."""

    def risk(z: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        logits = torch.tensor(z, requires_grad=True)
        value = loss(logits, p)
        (gradient,) = torch.autograd.grad(value, logits)
        return float(value.detach()), gradient.numpy()

    starts = [
        np.zeros(len(p)),
        np.log(p.numpy()),
        *(0.5 * np.random.default_rng(seed).normal(size=len(p)) for seed in range(2)),
    ]
    found = [minimize(risk, z, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 2000}) for z in starts]
    best = min(found, key=lambda result: float(result.fun))
    return float(best.fun), torch.tensor(best.x)


@every_loss
@pytest.mark.parametrize("truth", TRUTHS, ids=str)
def test_the_minimiser_is_where_bfgs_lands(name: str, truth: list[float]) -> None:
    loss, p = LOSSES[name], torch.tensor(truth, dtype=torch.float64)
    _, z = numeric_minimum(loss, p)
    for number, readout in enumerate(loss.readouts):
        claimed = loss.minimiser(p, readout)
        found = loss.readout(readout)(z)
        torch.testing.assert_close(found, claimed, rtol=0, atol=1e-6)
        if number == 0:
            distance = float((found - p).square().sum())
            # "the minimiser is p*" must fail for the controls
            assert distance > 1e-4 if name in IMPROPER else distance < 1e-12


@every_loss
def test_the_minimiser_of_a_batch_is_a_batch_of_minimisers(name: str) -> None:
    p = random_rows(2, 3, 4)
    q = LOSSES[name].minimiser(p)
    assert (q.shape, q.dtype) == (p.shape, torch.float64)
    torch.testing.assert_close(q.sum(-1), torch.ones(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(q[1, 2], LOSSES[name].minimiser(p[1, 2]), rtol=0, atol=1e-14)
    torch.testing.assert_close(LOSSES[name].minimiser(p.numpy()), q, rtol=0, atol=0)


@every_loss
@given(example=logits_and_row())
@sparingly
def test_the_minimiser_keeps_the_argmax_and_the_order(name: str, example: tuple[Tensor, Tensor]) -> None:
    _, p = example
    q = LOSSES[name].minimiser(p)
    ordered = q[p.argsort(stable=True)]
    assert bool((ordered.diff() >= -1e-12).all())
    assert float(q[p.argmax()]) >= float(q.max()) - 1e-12


@every_loss
def test_the_uniform_row_is_a_fixed_point(name: str) -> None:
    for count in (2, 3, 10, 100):
        uniform = torch.full((count,), 1 / count, dtype=torch.float64)
        for readout in LOSSES[name].readouts:
            torch.testing.assert_close(LOSSES[name].minimiser(uniform, readout), uniform, rtol=0, atol=1e-12)


@every_loss
def test_certainty_keeps_its_class(name: str) -> None:
    vertices = torch.eye(4, dtype=torch.float64)
    q = LOSSES[name].minimiser(vertices)
    assert bool(q.isfinite().all())
    assert torch.equal(q.argmax(-1), torch.arange(4))
    if name != "label_smoothing":
        torch.testing.assert_close(q, vertices, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------ Theorem 1 and propriety


def theorem_gap(name: str, logits: Tensor, p: Tensor, divergence: Callable[[Tensor, Tensor], Tensor]) -> float:
    """|label risk - entropy - divergence| of one row."""
    loss = LOSSES[name]
    assert loss.entropy is not None
    risk = (p * outcome_losses(name, logits)).sum()
    return float((risk - loss.entropy(p) - divergence(p, logits.softmax(-1))).abs() / (1 + risk.abs()))


@proper
@given(example=logits_and_row())
@repeatable
def test_risk_is_entropy_plus_divergence(name: str, example: tuple[Tensor, Tensor]) -> None:
    logits, p = example
    divergence = LOSSES[name].divergence
    assert divergence is not None
    assert theorem_gap(name, logits, p, divergence) < 1e-12
    assert float(divergence(p, logits.softmax(-1))) >= -1e-12
    assert abs(float(divergence(p, p))) < 1e-12


@proper
def test_the_divergence_of_another_loss_is_found_out(name: str) -> None:
    logits, p = random_logits(4), random_rows(4)
    others = {other: LOSSES[other].divergence for other in LOSSES if other != name and LOSSES[other].proper}
    for divergence in others.values():
        assert divergence is not None
        assert theorem_gap(name, logits, p, divergence) > 1e-3


@pytest.mark.parametrize("name", ["ce", "spherical"])
def test_the_truth_comes_first_in_a_divergence(name: str) -> None:
    divergence = LOSSES[name].divergence
    assert divergence is not None
    assert theorem_gap(name, random_logits(4), random_rows(4), lambda p, q: divergence(q, p)) > 1e-2


@proper
def test_the_gradient_of_the_label_risk_is_that_of_the_divergence(name: str) -> None:
    divergence = LOSSES[name].divergence
    assert divergence is not None
    logits, p = random_logits(6, 4).requires_grad_(), random_rows(6, 4)
    (left,) = torch.autograd.grad(LOSSES[name](logits, p).sum(), logits)
    (right,) = torch.autograd.grad(divergence(p, logits.softmax(-1)).sum(), logits)
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)


@every_loss
@given(example=logits_and_row())
@sparingly
def test_no_row_costs_less_than_the_minimiser(name: str, example: tuple[Tensor, Tensor]) -> None:
    logits, p = example
    q = LOSSES[name].minimiser(p)
    if name == "logit_mse":
        least = LOSSES[name](q, p)
    elif name == "ce" or name == "label_smoothing" or name == "focal":
        # a vertex of the simplex has no finite logits; -inf there, and 0 log 0 = 0
        least = LOSSES[name](torch.where(q > 0, q, 1e-300).log(), p)
    else:
        least = LOSSES[name](q.log(), p)
    assert float(LOSSES[name](logits, p)) >= float(least) - 1e-12


@pytest.mark.parametrize("name", IMPROPER)
def test_an_improper_loss_prefers_its_minimiser_to_the_truth(name: str) -> None:
    for truth in TRUTHS:
        p = torch.tensor(truth, dtype=torch.float64)
        at_truth = LOSSES[name](p.log(), p)
        at_minimiser = LOSSES[name](LOSSES[name].minimiser(p).clamp(min=1e-300).log(), p)
        assert float(at_truth - at_minimiser) > 1e-4
    assert LOSSES[name].entropy is None
    assert LOSSES[name].divergence is None
    assert not LOSSES[name].proper


def test_which_losses_are_proper_is_what_theory_says() -> None:
    assert {name for name, loss in LOSSES.items() if loss.proper} == {"ce", "mse", "mse_mean", "spherical"}
    assert set(IMPROPER) | {"logit_mse"} == {name for name, loss in LOSSES.items() if not loss.proper}


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
