"""Training on labels or on p*: the mean of a loss, its read-out, what identifies it."""

import math
from typing import Any

import pytest
import torch

from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.losses import LOSSES, focal
from bcpd.nets import Views


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def source(**options: Any) -> InMemory:
    log_bayes = random(6, 3, seed=1).log_softmax(-1)
    return InMemory(torch.zeros(6, 1), torch.tensor([0, 1, 2, 0, 1, 2]), num_classes=3, log_bayes=log_bayes, **options)


def views(logits: torch.Tensor) -> Views:
    return Views(logits, logits, (), ())


@pytest.mark.parametrize("name", LOSSES)
def test_its_one_term_is_the_mean_of_the_loss(name: str) -> None:
    data, z = source(), random(6, 3)
    batch = data.batch(torch.arange(6))
    terms = Supervised(name).loss(batch, views(z), None)
    assert set(terms) == {"label"}
    torch.testing.assert_close(terms["label"], LOSSES[name](z, data.y).mean(), rtol=1e-14, atol=0)
    terms = Supervised(name, target="bayes").loss(batch, views(z), None)
    assert data.log_bayes is not None
    torch.testing.assert_close(terms["label"], LOSSES[name](z, data.log_bayes.exp()).mean(), rtol=1e-14, atol=0)


def test_unlabelled_examples_are_left_out_of_the_mean_but_keep_their_bayes_target() -> None:
    mask = torch.tensor([True, True, False, False, True, False])
    data, z = source(labelled=mask), random(6, 3)
    batch = data.batch(torch.arange(6))
    label = Supervised("ce").loss(batch, views(z), None)["label"]
    torch.testing.assert_close(label, LOSSES["ce"](z[mask], data.y[mask]).mean(), rtol=1e-14, atol=0)
    assert data.log_bayes is not None
    bayes = Supervised("ce", target="bayes").loss(batch, views(z), None)["label"]
    torch.testing.assert_close(bayes, LOSSES["ce"](z, data.log_bayes.exp()).mean(), rtol=1e-14, atol=0)


def test_the_network_is_read_out_as_its_loss_says() -> None:
    z = torch.tensor([[2.0, 0.0, -1.0], [0.4, 0.3, 0.0]])
    assert torch.equal(Supervised("ce").log_probabilities(z), z.log_softmax(-1))
    projected = Supervised("logit_mse").log_probabilities(z)
    assert projected.dtype == z.dtype
    torch.testing.assert_close(projected.exp(), torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.4, 0.1]]))
    assert projected[0].tolist() == [0.0, -math.inf, -math.inf]
    assert torch.equal(Supervised("logit_mse", readout="softmax").log_probabilities(z), z.log_softmax(-1))


def test_a_diverged_network_reads_as_nan_whatever_the_read_out() -> None:
    z = torch.tensor([[math.nan, 0.0, 1.0]])
    assert bool(Supervised("ce").log_probabilities(z).isnan().all())
    assert bool(Supervised("logit_mse").log_probabilities(z).isnan().all())


def test_it_is_identified_by_all_that_changes_it() -> None:
    methods = [
        Supervised("ce"),
        Supervised("mse"),
        Supervised("ce", target="bayes"),
        Supervised("logit_mse"),
        Supervised("logit_mse", readout="softmax"),
        Supervised("focal"),
        Supervised(focal(1.0)),
    ]
    descriptions = [str(method.describe()) for method in methods]
    assert len(set(descriptions)) == len(methods)
    assert Supervised(focal(2.0)).describe() == Supervised("focal").describe()


def test_its_needs_and_its_score_follow_from_target_and_loss() -> None:
    assert Supervised("ce").needs == {"labels"}
    assert Supervised("ce", target="bayes").needs == {"bayes"}
    assert (Supervised("ce").score, Supervised("mse").score) == ("nll", "brier")


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss must be one of \['ce', .*received 'hinge'"):
        Supervised("hinge")
    with pytest.raises(ValueError, match=r"target must be one of \['bayes', 'given', 'labels'\], received 'truth'"):
        Supervised("ce", target="truth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"read-out of ce must be one of \['softmax'\], received 'projection'"):
        Supervised("ce", readout="projection")
    blind = InMemory(torch.zeros(2, 1), torch.tensor([0, 1]), num_classes=2)
    with pytest.raises(ValueError, match=r"needs p\* in the batch"):
        Supervised("ce", target="bayes").loss(blind.batch(torch.arange(2)), views(random(2, 2)), None)
