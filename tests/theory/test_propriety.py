"""The verdict on a loss is the theory's, its witness is a counterexample, and Savage's identity tells them apart."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from bcpd.losses import LOSSES, confidence_penalty, focal, label_smoothing, power
from bcpd.losses.loss import softmax
from bcpd.theory.scores.bregman import SCORES
from bcpd.theory.scores.own_loss import loss_from_callable
from bcpd.theory.scores.propriety import propriety


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(z, y, reduction="none")


def zero_one(z: Tensor, y: Tensor) -> Tensor:
    return (z.argmax(-1) != y).double()


def rewarded(z: Tensor, y: Tensor) -> Tensor:
    return -cross_entropy(z, y)


def linear(z: Tensor, y: Tensor) -> Tensor:
    return -z.gather(1, y[:, None]).squeeze(1)


def constant(z: Tensor, y: Tensor) -> Tensor:
    return 0 * z[:, 0] + 3


def floored(z: Tensor, y: Tensor) -> Tensor:
    return -(z.softmax(-1).gather(1, y[:, None]).squeeze(1) + 1e-3).log()


def weighted(z: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(z, y) * torch.tensor([1.0, 1.1, 1.0, 1.0]).double()[y]


def single(z: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(z.float(), y)


def square_of_logits(z: Tensor, y: Tensor) -> Tensor:
    return (z - functional.one_hot(y, z.shape[-1])).square().sum(-1)


READ_OUT_RIGHT = ("logit_mse", "hui_belkin")
BAD = [name for name, loss in LOSSES.items() if not loss.proper and name not in READ_OUT_RIGHT]


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in BAD])
def test_proper_losses_are_found_proper(name: str) -> None:
    found = propriety(LOSSES[name], num_classes=4, seed=1)
    assert found.verdict == "strictly proper"
    assert found.proper
    assert found.bounded
    assert found.attained
    assert str(found).startswith(f"{name} with 4 classes: strictly proper")
    assert found.of_probabilities == (name not in READ_OUT_RIGHT)
    if found.of_probabilities:
        assert found.savage is not None
        assert found.savage < 1e-14
        assert found.gap < found.resolution


@pytest.mark.parametrize("name", BAD)
def test_improper_losses_come_with_a_counterexample(name: str) -> None:
    loss = LOSSES[name]
    found = propriety(loss, num_classes=3)
    assert found.verdict == "not proper"
    p, q = found.witness, found.minimiser
    assert torch.allclose(q, loss.minimiser(p), atol=1e-3 if name in ("mae", "crammer_singer") else 1e-5)
    at_truth, at_minimiser = (p @ loss(z.expand(3, 3), torch.arange(3)) for z in (p.log(), q.clamp(min=1e-12).log()))
    if found.of_probabilities and name != "crammer_singer":
        assert float(at_truth - at_minimiser) == pytest.approx(found.gap, rel=1e-3)
        assert found.gap > 100 * found.resolution
    assert found.savage is not None
    assert found.savage > 1e-2
    assert found.attained == (name != "mae")
    assert "the minimiser is q = (" in str(found)
    assert ("approached as logits grow without bound" in str(found)) == (name == "mae")


@given(
    loss=st.one_of(
        st.floats(1e-3, 0.5).map(label_smoothing),
        st.floats(0.05, 5).map(focal),
        st.floats(0.01, 3).map(confidence_penalty),
        st.floats(1.05, 3).map(power),
        st.sampled_from([score.as_loss() for score in SCORES.values()]),
    ),
    count=st.integers(2, 5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=12)
def test_the_verdict_depends_neither_on_constants_nor_on_classes_nor_on_the_seed(
    loss: object, count: int, seed: int
) -> None:
    found = propriety(loss, count, seed)  # type: ignore[arg-type]
    assert found.proper == loss.proper, str(found)  # type: ignore[attr-defined]


def test_a_callable_is_judged_by_its_values() -> None:
    found = propriety(cross_entropy)
    assert (found.name, found.verdict) == ("cross_entropy", "strictly proper")
    for improper in (floored, weighted):
        found = propriety(improper, num_classes=4)
        assert found.verdict == "not proper"
        assert found.savage is not None
        assert found.savage > 1e-3


def test_ties_of_the_risk_are_proper_but_not_strictly() -> None:
    for loss in (zero_one, constant):
        found = propriety(loss)
        assert found.verdict == "proper, not strictly"
        assert found.proper
        assert float((found.witness - found.minimiser).abs().max()) > 0.05
        assert "costs as little as p" in str(found)
    assert "autograd sees no gradient" in str(propriety(zero_one))


def test_a_risk_without_a_minimum_is_said_to_have_none() -> None:
    for loss in (rewarded, linear):
        found = propriety(loss)
        assert not found.bounded
        assert found.verdict == "not proper"
        assert "not bounded below" in str(found)
    # stationary at the truth everywhere, and yet a maximum there: G is concave
    found = propriety(rewarded)
    assert found.savage is not None
    assert found.savage < 1e-14
    assert found.convexity is not None
    assert found.convexity > 0.01


def test_single_precision_is_not_taken_for_impropriety() -> None:
    found = propriety(single)
    assert found.verdict == "strictly proper"
    assert found.resolution > 1e-6


def test_the_read_out_decides_for_losses_of_logits() -> None:
    assert propriety(LOSSES["logit_mse"], readout=softmax).verdict == "not proper"
    assert propriety(square_of_logits).verdict == "not proper"
    right = propriety(square_of_logits, readout=LOSSES["logit_mse"].readout())
    assert right.verdict == "strictly proper"
    assert "no function of softmax probabilities" in str(right)


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mean must return one value an example.*received shape \(\)"):
        propriety(named("mean", lambda z, y: functional.cross_entropy(z, y)))
    with pytest.raises(ValueError, match="received float"):
        propriety(named("number", lambda z, y: 1.0))
    with pytest.raises(ValueError, match="undefined returned nan at logits"):
        propriety(named("undefined", lambda z, y: (-1 - z[:, 0].abs()).log()))
    with pytest.raises(ValueError, match="depend on the other examples"):
        propriety(named("centred", lambda z, y: cross_entropy(z, y) - cross_entropy(z, y).mean()))
    with pytest.raises(ValueError, match="num_classes must be >= 2, received 1"):
        propriety(cross_entropy, num_classes=1)


def named(name: str, function: object) -> object:
    function.__name__ = name  # type: ignore[attr-defined]
    return function


# ------------------------------------------------------------------------------------------------ losses of one's own


def test_a_loss_from_a_callable_is_the_named_one() -> None:
    own, entry = loss_from_callable(cross_entropy, "mine"), LOSSES["ce"]
    assert own.name == "mine"
    assert own.entropy is not None
    assert own.divergence is not None
    assert entry.divergence is not None
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    labels = p.argmax(-1)
    for target in (p, labels):
        torch.testing.assert_close(own(z, target), entry(z, target), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(own.entropy(p), -(p * p.log()).sum(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        own.divergence(p, z.softmax(-1)), entry.divergence(p, z.softmax(-1)), rtol=1e-9, atol=1e-12
    )
    vertex = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert float(own.entropy(vertex)) == pytest.approx(0, abs=1e-12)
    assert float(own.divergence(vertex, p[0, 0])) == pytest.approx(-float(p[0, 0, 0].log()))


def test_an_improper_callable_does_not_satisfy_theorem_1() -> None:
    z = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    for function, right in ((cross_entropy, True), (weighted, False), (floored, False)):
        own = loss_from_callable(function, "mine")
        assert own.entropy is not None
        assert own.divergence is not None
        gap = float(own(z, p) - own.entropy(p) - own.divergence(p, z.softmax(-1)))
        assert abs(gap) < 1e-13 if right else abs(gap) > 1e-4


def test_a_loss_stays_itself_and_a_wrong_shape_is_named_when_called() -> None:
    assert loss_from_callable(LOSSES["focal"], "other") is LOSSES["focal"]
    own = loss_from_callable(lambda z, y: functional.cross_entropy(z, y), "mean")
    with pytest.raises(ValueError, match="mean must return one value an example"):
        own(torch.zeros(2, 3), torch.tensor([0, 1]))
