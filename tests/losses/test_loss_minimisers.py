"""Population minimisers of every registered loss, and the way back: numeric optima, fixed points, corrections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from bcpd.losses import (
    LOSSES,
    Loss,
    confidence_penalty,
    focal,
    generalised_ce,
    hui_belkin,
    label_smoothing,
    power,
    tempered_ce,
)

every_loss = pytest.mark.parametrize("name", LOSSES)

PROPER = ("ce", "mse", "mse_mean", "spherical", "power", "ranked_probability")
READ_OUT_RIGHT = ("logit_mse", "hui_belkin")
"""Losses on logits whose first read-out is the inverse of their minimiser."""
IMPROPER = tuple(name for name in LOSSES if name not in PROPER + READ_OUT_RIGHT)
NO_CORRECTION = ("mae", "crammer_singer")
NOT_SMOOTH = ("crammer_singer",)
KEEPS_VERTICES = tuple(
    name for name in LOSSES if name not in ("label_smoothing", "confidence_penalty", "crammer_singer")
)

FAMILIES = {
    "label_smoothing": st.floats(0.01, 0.95).map(label_smoothing),
    "focal": st.floats(0.05, 6).map(focal),
    "generalised_ce": st.floats(0.02, 0.85).map(generalised_ce),
    "tempered_ce": st.floats(0.25, 5).map(tempered_ce),
    "confidence_penalty": st.floats(0.01, 5).map(confidence_penalty),
    "hui_belkin": st.tuples(st.floats(0.3, 15), st.floats(0.3, 30)).map(lambda pair: hui_belkin(*pair)),
    "power": st.floats(1.1, 3).map(power),
}


@st.composite
def distributions(draw: st.DrawFn, steepest: float = 4.0) -> Tensor:
    """Rows that are interior (entropies mostly within (0.2, 0.9) log K), nearly uniform, tied, or nearly certain."""
    count = draw(st.integers(2, 6))
    logit = st.floats(-steepest, steepest, allow_nan=False)
    z = torch.tensor(draw(st.lists(logit, min_size=count, max_size=count)), dtype=torch.float64)
    shape = draw(st.sampled_from(["plain", "plain", "tied", "certain"]))
    if shape == "tied":
        z[1] = z[0] = z.max()
    p = z.softmax(-1)
    if shape == "certain":
        p = 0.98 * torch.eye(count, dtype=torch.float64)[draw(st.integers(0, count - 1))] + 0.02 * p
    return p


any_loss = st.one_of(st.sampled_from(list(LOSSES.values())), *FAMILIES.values())


def risk(loss: Loss, z: Tensor, p: Tensor) -> Tensor:
    """The risk at logits z by its definition, outcome by outcome."""
    outcomes = loss.function(z.expand(len(p), -1), torch.arange(len(p)))
    return (p * outcomes)[p > 0].sum()


def descend(loss: Loss, p: Tensor, start: Tensor) -> Tensor:
    """Logits of a local minimum by BFGS; nothing of the loss is used but its values and autograd."""

    def value_and_slope(z: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        logits = torch.tensor(z, requires_grad=True)
        value = risk(loss, logits, p)
        (gradient,) = torch.autograd.grad(value, logits)
        return float(value.detach()), gradient.numpy()

    found = minimize(value_and_slope, start.numpy(), jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 500})
    return torch.tensor(found.x)


def numeric_minimiser(loss: Loss, p: Tensor) -> Tensor:
    """The lower of BFGS's minima from two starts."""
    starts = [torch.zeros_like(p), torch.tensor(np.random.default_rng(0).normal(size=len(p)))]
    found = [descend(loss, p, start) for start in starts]
    return min(found, key=lambda z: float(risk(loss, z, p)))


def test_every_loss_is_of_one_kind() -> None:
    assert set(PROPER) == {name for name, loss in LOSSES.items() if loss.proper}
    assert set(PROPER) | set(READ_OUT_RIGHT) | set(IMPROPER) == set(LOSSES)
    assert set(NO_CORRECTION) == {name for name in LOSSES if not LOSSES[name].proper and not LOSSES[name].correction}
    for name in IMPROPER:
        assert LOSSES[name].entropy is None
        assert LOSSES[name].divergence is None


TRUTHS = [
    [0.7, 0.3],
    [0.5, 0.3, 0.2],
    [0.9, 0.06, 0.04],
    [0.4, 0.35, 0.15, 0.1],
    [0.62, 0.3, 0.05, 0.02, 0.01],
]


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NOT_SMOOTH])
@pytest.mark.parametrize("truth", TRUTHS, ids=str)
def test_the_minimiser_is_where_bfgs_lands(name: str, truth: list[float]) -> None:
    loss, p = LOSSES[name], torch.tensor(truth, dtype=torch.float64)
    z = numeric_minimiser(loss, p)
    for number, readout in enumerate(loss.readouts):
        claimed = loss.minimiser(p, readout)
        found = loss.readout(readout)(z)
        torch.testing.assert_close(found, claimed, rtol=0, atol=1e-6)
        if number == 0:
            distance = float((found - p).square().sum())
            # "the minimiser is p*" must fail for the controls
            assert distance > 1e-4 if name in IMPROPER else distance < 1e-12


@given(family=st.sampled_from(list(FAMILIES)), data=st.data(), p=distributions(steepest=2.5))
@settings(max_examples=30)
def test_whatever_its_constants_the_minimiser_is_where_bfgs_lands(family: str, data: st.DataObject, p: Tensor) -> None:
    loss = data.draw(FAMILIES[family])
    p = 0.9 * p + 0.1 / len(p)
    claimed = loss.minimiser_logits(p)
    # flat directions far out are beyond BFGS
    assume(float(claimed.amax() - claimed.amin()) < 12)
    z = numeric_minimiser(loss, p)
    torch.testing.assert_close(loss.readout()(z), loss.minimiser(p), rtol=0, atol=2e-6)
    least, found = (float(risk(loss, at, p)) for at in (claimed, z))
    assert least <= found + 1e-12 * (1 + abs(found))


@given(p=distributions())
@settings(max_examples=60)
def test_crammer_singers_minimiser_is_that_of_a_linear_program(p: Tensor) -> None:
    """Least expected slack: ``s_y >= 1 + z_j - z_y`` for j other than y, ``s_y >= 0``; the last logit is 0."""
    count = len(p)
    assume(abs(float(p.max()) - 0.5) > 1e-3)
    rows = []
    for y in range(count):
        for j in range(count):
            if j != y:
                row = np.zeros(2 * count)
                row[j], row[y], row[count + y] = 1, -1, -1
                rows.append(row)
    bounds = [(None, None)] * (count - 1) + [(0, 0)] + [(0, None)] * count
    found = linprog(np.concatenate([np.zeros(count), p.numpy()]), np.array(rows), -np.ones(len(rows)), bounds=bounds)
    loss = LOSSES["crammer_singer"]
    claimed = loss.minimiser_logits(p)
    top = float(p.max())
    expected = 2 * (1 - top) if top > 0.5 else 1.0
    assert found.fun == pytest.approx(expected, abs=1e-9)
    assert float(risk(loss, claimed, p)) == pytest.approx(expected, abs=1e-12)
    if float(p.min()) > 1e-3:
        z = torch.tensor(found.x[:count])
        torch.testing.assert_close(z - z.mean(), claimed, rtol=0, atol=1e-6)


def test_crammer_singer_for_two_classes_is_the_hinge() -> None:
    z = torch.tensor([[0.3, -0.4], [2.0, 0.5], [0.0, 0.0]], dtype=torch.float64)
    margin = z[:, 1] - z[:, 0]
    for y in (0, 1):
        value = LOSSES["crammer_singer"](z, torch.full((3,), y))
        torch.testing.assert_close(value, (1 - (2 * y - 1) * margin).clamp(min=0))
    for eta in (0.1, 0.49, 0.5, 0.51, 0.97):
        logits = LOSSES["crammer_singer"].minimiser_logits([1 - eta, eta])
        assert float(logits[1] - logits[0]) == np.sign(2 * eta - 1)


@given(loss=any_loss, p=distributions(steepest=12), data=st.data())
@settings(max_examples=50)
def test_no_row_of_logits_costs_less_than_the_minimiser(loss: Loss, p: Tensor, data: st.DataObject) -> None:
    count = len(p)
    draw = data.draw(st.lists(st.floats(-12, 12), min_size=count, max_size=count))
    z = torch.tensor(draw, dtype=torch.float64)
    # a vertex of the simplex has no finite logits
    least = risk(loss, loss.minimiser_logits(p).clamp(min=-700), p)
    assert float(risk(loss, z, p)) >= float(least) * (1 - 1e-12) - 1e-12


@given(loss=any_loss, p=distributions(steepest=8))
@settings(max_examples=30)
def test_a_minimiser_is_a_distribution_that_keeps_the_argmax_and_the_order(loss: Loss, p: Tensor) -> None:
    q = loss.minimiser(p)
    assert bool((q >= 0).all())
    assert float(q.sum()) == pytest.approx(1, abs=1e-12)
    ordered = q[p.argsort(stable=True)]
    assert bool((ordered.diff() >= -1e-12).all())
    assert float(q[p.argmax()]) >= float(q.max()) - 1e-12


def test_asymmetric_noise_does_not_keep_the_argmax() -> None:
    channel = torch.tensor([[0.4, 0.6, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert int(LOSSES["ce"].minimiser(p @ channel).argmax()) == 1


@every_loss
def test_the_minimiser_of_a_batch_is_a_batch_of_minimisers(name: str) -> None:
    p = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    q = LOSSES[name].minimiser(p)
    assert (q.shape, q.dtype) == (p.shape, torch.float64)
    torch.testing.assert_close(q[1, 2], LOSSES[name].minimiser(p[1, 2]), rtol=0, atol=1e-14)
    torch.testing.assert_close(LOSSES[name].minimiser(p.numpy()), q, rtol=0, atol=0)
    torch.testing.assert_close(LOSSES[name].minimiser_logits(p)[1, 2], LOSSES[name].minimiser_logits(p[1, 2]))


@every_loss
def test_the_minimisers_logits_are_read_out_as_the_minimiser(name: str) -> None:
    loss, p = LOSSES[name], torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=torch.float64)
    for readout in loss.readouts:
        torch.testing.assert_close(loss.readout(readout)(loss.minimiser_logits(p)), loss.minimiser(p, readout))


@every_loss
def test_the_uniform_row_is_a_fixed_point(name: str) -> None:
    for count in (2, 3, 10, 100):
        uniform = torch.full((count,), 1 / count, dtype=torch.float64)
        for readout in LOSSES[name].readouts:
            torch.testing.assert_close(LOSSES[name].minimiser(uniform, readout), uniform, rtol=0, atol=1e-12)
        if name not in NO_CORRECTION:
            torch.testing.assert_close(LOSSES[name].corrected(uniform), uniform, rtol=0, atol=1e-12)


@every_loss
def test_certainty_keeps_its_class(name: str) -> None:
    vertices = torch.eye(4, dtype=torch.float64)
    q = LOSSES[name].minimiser(vertices)
    assert bool(q.isfinite().all())
    assert torch.equal(q.argmax(-1), torch.arange(4))
    assert bool(torch.isclose(q, vertices, rtol=0, atol=1e-12).all()) == (name in KEEPS_VERTICES)


# ------------------------------------------------------------------------------------------------------- corrections


@given(loss=any_loss, p=distributions())
@settings(max_examples=40)
def test_the_correction_leads_back_to_p(loss: Loss, p: Tensor) -> None:
    assume(loss.name not in NO_CORRECTION)
    torch.testing.assert_close(loss.corrected(loss.minimiser(p)), p, rtol=0, atol=1e-9)


@every_loss
@pytest.mark.parametrize("truth", TRUTHS, ids=str)
def test_without_the_correction_an_improper_loss_is_off(name: str, truth: list[float]) -> None:
    loss, p = LOSSES[name], torch.tensor(truth, dtype=torch.float64)
    q = loss.minimiser(p, list(loss.readouts)[-1])
    assert (float((q - p).abs().max()) > 1e-2) == (name not in PROPER)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in NO_CORRECTION])
def test_corrections_take_batches_and_reach_the_vertices(name: str) -> None:
    loss = LOSSES[name]
    p = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(loss.corrected(loss.minimiser(p).numpy()), p, rtol=0, atol=1e-10)
    vertices = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(loss.corrected(loss.minimiser(vertices)), vertices, rtol=0, atol=1e-10)


@given(loss=any_loss, q=distributions(steepest=30))
def test_what_no_p_leads_to_is_corrected_to_some_distribution_all_the_same(loss: Loss, q: Tensor) -> None:
    assume(loss.name not in NO_CORRECTION)
    p = loss.corrected(q)
    assert bool((p >= 0).all())
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", NO_CORRECTION)
def test_a_minimiser_shared_by_many_p_has_no_correction(name: str) -> None:
    p = torch.tensor([[0.6, 0.3, 0.1], [0.8, 0.1, 0.1]], dtype=torch.float64)
    first, second = LOSSES[name].minimiser(p)
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match=f"{name} has no correction: none exists where different p share"):
        LOSSES[name].corrected(first)


def test_rows_that_are_no_probabilities_have_no_correction() -> None:
    with pytest.raises(ValueError, match="q must be rows of probabilities"):
        LOSSES["focal"].corrected([0.5, 0.6])
    with pytest.raises(ValueError, match="p must be rows of probabilities"):
        LOSSES["focal"].minimiser_logits([0.5, 0.6])
