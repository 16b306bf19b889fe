"""The fast posterior of Gaussian mixtures with one covariance: the same p* in both layouts and both precisions."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bcpd.mixtures import FAMILIES, GaussianMixture, LabelNoise, Mixture, StudentMixture, paper_toy
from bcpd.mixtures.linear import Layout, LinearPosterior
from bcpd.testing import mixtures_with_points

Drawn = tuple[Mixture, Tensor]
gaussians = mixtures_with_points(kinds=["gaussian"], max_depth=0, max_dimension=5)


def linear(mixture: Mixture, layout: Layout | None = None) -> LinearPosterior:
    assert isinstance(mixture, GaussianMixture)
    found = mixture._linear_posterior(layout)
    assert found is not None
    return found


def one_by_one(mixture: Mixture, x: Tensor) -> Tensor:
    """log p* of every point by the formula itself, which a single point goes by."""
    return torch.cat([mixture._log_posterior_rows(row[None]) for row in x.double()])


def within_single_precision(found: Tensor, log_p: Tensor, log: bool) -> bool:
    """2e-6 of p*; of log p* 1e-5, or 1e-6 of itself."""
    if not log:
        return float((found.double() - log_p.exp()).abs().max()) <= 2e-6
    error, size = (found.double() - log_p).abs(), log_p.abs()
    return bool((error <= (1e-6 * size).clamp(min=1e-5)).all())


def many_classes(classes: int, dimension: int = 3) -> GaussianMixture:
    draw = torch.Generator().manual_seed(classes)
    return GaussianMixture(
        torch.randn(classes, dimension, dtype=torch.float64, generator=draw),
        0.7,
        priors=torch.rand(classes, dtype=torch.float64, generator=draw).softmax(-1),
    )


# ----------------------------------------------------------------------------------------------------- double precision


@settings(max_examples=25)
@given(gaussians, st.floats(0, 6), st.sampled_from([0.0, 1e3, -1e6]))
def test_the_linear_form_is_the_formula(drawn: Drawn, exponent: float, shift: float) -> None:
    mixture, x = drawn
    assert isinstance(mixture, GaussianMixture)
    assume(mixture.shared)
    moved = GaussianMixture(mixture.means + shift, mixture.covariance, mixture.weights, mixture.priors)
    x = 10**exponent * x + shift
    truth = one_by_one(moved, x)
    torch.testing.assert_close(moved.log_posterior(x), truth, rtol=1e-11, atol=1e-11)
    assert torch.equal(moved.posterior(x), moved.log_posterior(x).exp())
    off = GaussianMixture(mixture.means + shift, mixture.covariance, mixture.weights, mixture.priors.roll(1))
    assert torch.equal(mixture.priors, mixture.priors.roll(1)) or not torch.allclose(
        off.log_posterior(x[:1]), truth[:1], rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("classes", [2, 7, 50, 51, 90])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_both_layouts_give_the_same(classes: int, dtype: torch.dtype) -> None:
    mixture = many_classes(classes)
    x = mixture.sample(500, 0)[0].to(dtype)
    by_layout = {}
    layouts: tuple[Layout, ...] = ("rows", "columns")
    for layout in layouts:
        output = torch.zeros(len(x), classes, dtype=dtype)
        linear(mixture, layout).fill(x, output, log=True)
        by_layout[layout] = output
        assert linear(mixture, layout).layout(dtype) == layout
    tolerance = 1e-13 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(by_layout["rows"], by_layout["columns"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(by_layout["rows"].double(), one_by_one(mixture, x), rtol=tolerance, atol=tolerance)


def test_few_classes_are_computed_as_columns_and_many_as_rows() -> None:
    few, many = linear(many_classes(15)), linear(many_classes(60))
    assert {few.layout(torch.float32), few.layout(torch.float64)} == {"columns"}
    assert {many.layout(torch.float32), many.layout(torch.float64)} == {"rows"}
    components = linear(GaussianMixture(torch.randn(60, 2, 3), 1.0), "rows")
    assert components.layout(torch.float32) == "columns"


def test_the_bits_of_a_row_do_not_depend_on_the_rows_beside_it() -> None:
    mixture = paper_toy()
    x = mixture.sample(20_000, 0)[0]
    for dtype in (torch.float64, torch.float32):
        whole = mixture.posterior(x, dtype=dtype)
        for n in (1, 7, 191, 192, 8737, 19_999):
            assert torch.equal(mixture.posterior(x[:n], dtype=dtype), whole[:n])


def test_a_wrapper_gets_the_same_bits_as_the_mixture() -> None:
    mixture = paper_toy()
    x = mixture.sample(5000, 0)[0]
    assert torch.equal(LabelNoise.symmetric(mixture, 0.0).log_posterior(x), mixture.log_posterior(x))


def test_gradients_go_through_the_formula() -> None:
    mixture = paper_toy(num_classes=3, dimension=4)
    x = mixture.sample(5, 0)[0].requires_grad_()
    log_p = mixture.log_posterior(x)
    slope = torch.autograd.grad((log_p[:, 0] - log_p[:, 1]).sum(), x)[0]
    expected = (mixture.means[0, 0] - mixture.means[1, 0]) / mixture.covariance
    torch.testing.assert_close(slope, expected.expand(5, 4), rtol=1e-12, atol=1e-12)
    p = torch.autograd.grad(mixture.posterior(x)[:, 0].sum(), x)[0]
    assert float(p.abs().max()) > 0
    with torch.no_grad():
        assert not mixture.posterior(x).requires_grad


# ----------------------------------------------------------------------------------------------------- single precision


@settings(max_examples=80)
@given(gaussians, st.floats(0, 6), st.sampled_from([0.0, 1.0, 1e3, -1e6]), st.booleans(), st.booleans())
def test_float32_keeps_its_digits_wherever_x_lies(
    drawn: Drawn, exponent: float, shift: float, single_points: bool, log: bool
) -> None:
    mixture, x = drawn
    assert isinstance(mixture, GaussianMixture)
    moved = GaussianMixture(mixture.means + shift, mixture.covariance, mixture.weights, mixture.priors)
    # one point far out, the others where the classes meet
    x = torch.cat([x[:1] * 10**exponent, x[1:]]) + shift
    x = x.float() if single_points else x
    found = (moved.log_posterior if log else moved.posterior)(x, dtype=torch.float32)
    assert found.dtype == torch.float32
    truth = moved.log_posterior(x)
    assert within_single_precision(found, truth, log)
    assert within_single_precision((truth if log else truth.exp()).float(), truth, log)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_float32_of_the_paper_toy_and_a_version_without_centring_that_fails(shift: float) -> None:
    plain = paper_toy()
    mixture = GaussianMixture(plain.means + shift, plain.covariance)
    x = mixture.sample(50_000, 3)[0].float()
    truth = mixture.log_posterior(x)
    assert within_single_precision(mixture.posterior(x, dtype=torch.float32), truth, log=False)
    assert within_single_precision(mixture.log_posterior(x, dtype=torch.float32), truth, log=True)
    means = mixture.means[:, 0].float()
    naive = (x @ means.T - means.square().sum(-1) / 2) / mixture.covariance.float()
    assert within_single_precision(naive.softmax(-1), truth, log=False) == (shift == 0)


def test_points_too_far_out_for_single_precision_need_the_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far out along a direction in which the classes do not differ, p* is not settled."""
    mixture = GaussianMixture([[0.3, 0.7], [-0.2, 0.1]], 1.3)
    x = mixture.sample(400, 0)[0] + 1e4 * torch.tensor([0.6, -0.5])
    truth = mixture.log_posterior(x)
    assert within_single_precision(mixture.posterior(x, dtype=torch.float32), truth, log=False)
    monkeypatch.setattr(LinearPosterior, "_keeps_digits", lambda *arguments: True)
    assert not within_single_precision(mixture.posterior(x, dtype=torch.float32), truth, log=False)


def test_points_of_the_paper_toy_are_computed_in_single_precision() -> None:
    """Rounded double precision would be closer than 1e-7: the speed is really taken."""
    mixture = paper_toy()
    x = mixture.sample(50_000, 4)[0]
    exact, single = mixture.posterior(x), mixture.posterior(x, dtype=torch.float32)
    assert 1e-7 < float((single.double() - exact).abs().max()) < 2e-6


def test_components_that_do_not_exist_count_nothing_in_single_precision() -> None:
    means = [[[0.0], [100.0]], [[3.0], [2.0]]]
    mixture = GaussianMixture(means, 1.0, weights=[[1.0, 0.0], [0.0, 1.0]])
    plain = GaussianMixture([[0.0], [2.0]], 1.0)
    x = plain.sample(100, 0)[0]
    for log in (False, True):
        found = (mixture.log_posterior if log else mixture.posterior)(x, dtype=torch.float32)
        assert within_single_precision(found, plain.log_posterior(x), log)


@pytest.mark.parametrize("name", ["student", "laplace", "finite", "gaussian-classwise", "label-noise"])
def test_other_families_are_rounded(name: str) -> None:
    mixture = FAMILIES[name]()
    x = mixture.sample(500, 0)[0]
    assert torch.equal(mixture.posterior(x, dtype=torch.float32), mixture.posterior(x).float())
    assert torch.equal(mixture.log_posterior(x, dtype=torch.float32), mixture.log_posterior(x).float())


# ---------------------------------------------------------------------------------------------------- output and misuse

WORLDS: dict[str, Mixture] = {
    "linear": paper_toy(num_classes=4, dimension=3),
    "rows": many_classes(60),
    "components": GaussianMixture(torch.arange(12.0).reshape(2, 2, 3), [1.0, 2.0, 3.0]),
    "general": StudentMixture([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], 1.0, 3.0),
}


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_output_is_filled_and_returned(name: str, dtype: torch.dtype) -> None:
    mixture = WORLDS[name]
    x = mixture.sample(60, 0)[0].reshape(3, 20, 3)
    for method in (mixture.posterior, mixture.log_posterior):
        out = torch.full((3, 20, mixture.num_classes), 7.0, dtype=dtype)
        assert method(x, dtype=dtype, out=out) is out
        assert torch.equal(out, method(x, dtype=dtype))
        assert torch.equal(out, method(x.numpy(), dtype=dtype))


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.int64])
def test_points_of_any_real_dtype_are_those_of_float64(name: str, given: torch.dtype) -> None:
    mixture = WORLDS[name]
    x = (3 * mixture.sample(50, 0)[0]).to(given)
    assert torch.equal(mixture.posterior(x), mixture.posterior(x.double()))
    single = mixture.posterior(x, dtype=torch.float32)
    assert within_single_precision(single, mixture.log_posterior(x.double()), log=False)


@pytest.mark.parametrize("name", WORLDS)
def test_an_output_that_does_not_fit_is_refused(name: str) -> None:
    mixture = WORLDS[name]
    classes = mixture.num_classes
    x = torch.zeros(5, 3)
    double = torch.zeros(5, classes, dtype=torch.float64)
    expected = (
        f"out must be torch.float64 of shape (5, {classes}) on cpu, received torch.float32 of shape (5, {classes})"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        mixture.posterior(x, out=double.float())
    with pytest.raises(ValueError, match=r"out must be torch.float32"):
        mixture.posterior(x, dtype=torch.float32, out=double)
    with pytest.raises(ValueError, match=r"received torch.float64 of shape \(4, "):
        mixture.posterior(x, out=double[:4])
    for wrong in (double.T.contiguous().T, double.clone().requires_grad_()):
        with pytest.raises(ValueError, match="out must be contiguous and without gradient"):
            mixture.log_posterior(x, out=wrong)


@pytest.mark.parametrize("name", WORLDS)
def test_other_dtypes_are_refused(name: str) -> None:
    mixture = WORLDS[name]
    for dtype in (torch.float16, torch.int64, "float32"):
        with pytest.raises(ValueError, match=r"dtype must be torch.float64 or torch.float32, received"):
            mixture.posterior(torch.zeros(2, 3), dtype=dtype)  # type: ignore[arg-type]
    for x in (torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.complex64)):
        with pytest.raises(ValueError, match="x must be real numbers, received dtype"):
            mixture.posterior(x)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_row_that_is_not_finite_is_named(name: str, value: float, dtype: torch.dtype) -> None:
    mixture = WORLDS[name]
    for row in (0, 191, 99_999):
        x = torch.zeros(100_000, 3, dtype=dtype)
        x[row, row % 3] = value
        with pytest.raises(ValueError, match=f"x must be finite, received nan or inf in row {row}$"):
            mixture.posterior(x, dtype=dtype)


def test_a_numpy_array_of_float32_is_accepted() -> None:
    mixture = paper_toy()
    x = mixture.sample(10, 0)[0].numpy().astype(np.float32)
    assert torch.equal(
        mixture.posterior(x, dtype=torch.float32), mixture.posterior(torch.tensor(x), dtype=torch.float32)
    )
