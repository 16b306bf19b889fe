"""Verdicts follow from the numbers: change the numbers and the sentence turns."""

from __future__ import annotations

from typing import Any

import pytest

from bcpd.report.sentences import sentence, verdict_of


def row(quantity: str, low: Any, high: Any, role: str = "teacher", mean: Any = None) -> dict[str, Any]:
    middle = mean if mean is not None else (low + high) / 2
    return {
        "quantity": quantity,
        "label": quantity,
        "role": role,
        "teacher_checkpoint": "last" if role == "student" else None,
        "checkpoint": "best_score",
        "arms": {},
        "difference": {"mean": middle, "low": low, "high": high, "p": 0.01, "n": 12},
    }


@pytest.mark.parametrize(
    ("quantity", "low", "high", "claim", "better"),
    [
        ("fresh_mse", -0.003, -0.001, "The MSE teacher was closer to p* in MSE", "mse"),
        ("fresh_mse", 0.001, 0.003, "The MSE teacher was farther from p* in MSE", "ce"),
        ("fresh_mse", -0.001, 0.003, "Neither teacher was shown to be closer to p* in MSE", None),
        ("transfer_kl", 0.001, 0.003, "The MSE teacher was farther from p* in KL", "ce"),
        ("fresh_accuracy", 0.001, 0.003, "The MSE teacher was more accurate", "mse"),
        ("fresh_accuracy", -0.003, -0.001, "The MSE teacher was less accurate", "ce"),
        ("fresh_accuracy", -0.003, 0.001, "Neither teacher was shown to be more accurate", None),
        ("test_ece", -0.03, -0.01, "The MSE teacher was better calibrated", "mse"),
        ("agreement", 0.01, 0.03, "The MSE teacher was in more agreement with its teacher", None),
        ("surprise", 0.01, 0.03, "The MSE teacher was higher in surprise", None),
    ],
)
def test_the_sentence_follows_from_the_interval(
    quantity: str, low: float, high: float, claim: str, better: str | None
) -> None:
    verdict = verdict_of(row(quantity, low, high), "draw")
    assert verdict is not None
    assert verdict.claim == claim
    assert verdict.better == better


def test_an_interval_that_touches_zero_decides_nothing() -> None:
    verdict = verdict_of(row("fresh_mse", 0.0, 0.002), "draw")
    assert verdict is not None
    assert verdict.outcome == "neither"
    assert "the interval contains zero" in verdict.evidence


def test_the_numbers_and_the_unit_of_replication_are_in_the_sentence() -> None:
    verdict = verdict_of(row("fresh_mse", -0.0032, -0.0012), "draw")
    assert verdict is not None
    text = verdict.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "difference −0.0022 [−0.0032, −0.0012] over 12 draws, p = 0.01." in text
    assert "fresh points; best own validation score" in text


def test_accuracies_are_told_in_points() -> None:
    verdict = verdict_of(row("fresh_accuracy", -0.023, -0.002, role="student"), "seed")
    assert verdict is not None
    assert verdict.claim == "The MSE teacher's student was less accurate"
    assert "−1.2 [−2.3, −0.2] points over 12 seeds" in verdict.evidence
    assert "teacher: last epoch; student: best own validation score" in verdict.context


def test_an_undefined_interval_is_said_to_be() -> None:
    for low, high, mean in (("nan", "nan", "nan"), ("-inf", "inf", 0.1)):
        verdict = verdict_of(row("fresh_mse", low, high, mean=mean), "draw")
        assert verdict is not None
        assert verdict.outcome == "undefined"
        assert verdict.claim == "Which teacher was closer to p* in MSE cannot be said"
        assert "undefined" in verdict.evidence
        assert "nan" not in verdict.text


def test_a_row_without_a_pair_has_no_verdict() -> None:
    alone = row("fresh_mse", 0.1, 0.2)
    del alone["difference"]
    assert verdict_of(alone, "draw") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("any loss; any world", "Any loss; any world."),
        ("p* in place of labels", "p* in place of labels."),
        ("q is certain", "q is certain."),
        ("Is it so?", "Is it so?"),
        ("", ""),
    ],
)
def test_words_become_a_sentence_and_symbols_stay(text: str, said: str) -> None:
    assert sentence(text) == said
