"""Scores on labels against scikit-learn and their definitions."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from bcpd.losses import LOSSES
from bcpd.measure import label_scores
from bcpd.seeds import generator


def _case(n: int = 3000, num_classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(0, "label scores")
    z = 2 * torch.randn(n, num_classes, generator=draw, dtype=torch.float64)
    y = torch.multinomial(z.softmax(-1), 1, generator=draw).squeeze(-1)
    return z, y


def test_label_scores_are_scikit_learns_and_the_losses_own_means() -> None:
    z, y = _case()
    q = z.softmax(-1)
    scores = label_scores(q, y)
    assert scores["accuracy"].value == pytest.approx(accuracy_score(y, q.argmax(-1)), abs=1e-12)
    assert scores["nll"].value == pytest.approx(log_loss(y, q, labels=range(5)), abs=1e-9)
    assert scores["brier"].value == pytest.approx(float(LOSSES["mse"](z, y).mean()), abs=1e-12)
    spread = float(LOSSES["mse"](z, y).std()) / len(y) ** 0.5
    assert scores["brier"].stderr == pytest.approx(spread, rel=1e-9)
    assert abs(scores["brier"].value - float(LOSSES["mse_mean"](z, y).mean())) > 10 * scores["brier"].stderr


def test_ece_on_labels_by_a_loop_over_bins() -> None:
    z, y = _case()
    q = z.softmax(-1).numpy()
    confidence, hit = q.max(1), (q.argmax(1) == y.numpy()).astype(float)
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += abs((hit - confidence)[inside].mean()) * inside.mean()
    assert label_scores(q, y)["ece"].value == pytest.approx(total, abs=1e-10)


def test_a_certain_mistake_has_an_infinite_log_score_and_is_said_so() -> None:
    q = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    scores = label_scores(q, torch.tensor([1, 0, 1]))
    assert scores["nll"].value == float("inf")
    assert np.isnan(scores["nll"].stderr)


def test_saturated_networks_keep_their_log_score_through_log_q() -> None:
    z = torch.tensor([[0.0, 1000.0], [0.0, -1.0]], dtype=torch.float64)
    scores = label_scores(z.softmax(-1), torch.tensor([0, 0]), log_q=z.log_softmax(-1))
    assert scores["nll"].value == pytest.approx((1000 + np.log1p(np.exp(-1))) / 2)


@pytest.mark.parametrize("y", [torch.tensor([0, 5]), torch.tensor([0]), torch.tensor([0.0, 1.0])])
def test_labels_that_do_not_belong_to_the_rows_are_refused(y: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"y must|q must"):
        label_scores(torch.full((2, 3), 1 / 3), y)
