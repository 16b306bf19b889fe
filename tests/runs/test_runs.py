"""Tuning, summaries and stored results."""

import math
from pathlib import Path
from typing import Any

import pytest
from scipy import stats as scipy_stats

from bcpd.runs import Quantity, Trial, choose, read_results, summarise, write_results


def _trials(scores: dict[float, tuple[float, ...]]) -> list[Trial]:
    return [Trial("ce", rate, 0.0, values, "nll") for rate, values in scores.items()]


def test_the_best_mean_score_is_chosen_and_an_inner_rate_is_no_edge() -> None:
    best, marked = choose(_trials({0.1: (1.0, 1.2), 0.3: (0.9, 1.0), 1.0: (2.0, 0.1)}))
    assert best.learning_rate == 0.3
    assert not best.edge
    assert [trial.chosen for trial in marked] == [False, True, False]


def test_a_rate_on_the_edge_is_flagged_and_a_diverged_one_never_chosen() -> None:
    best, marked = choose(_trials({0.1: (1.0,), 0.3: (0.9,), 1.0: (math.nan,)}))
    assert best.learning_rate == 0.3
    assert not best.edge
    best, _ = choose(_trials({0.1: (0.5,), 0.3: (0.9,), 1.0: (1.0,)}))
    assert best.edge
    assert marked[2].record()["mean"] == "inf"
    with pytest.raises(ValueError, match="every learning rate of arm ce diverged"):
        choose(_trials({0.1: (math.nan,)}))
    with pytest.raises(ValueError, match="one arm"):
        choose([*_trials({0.1: (1.0,)}), Trial("mse", 0.1, 0.0, (1.0,), "brier")])


def test_a_grid_of_one_has_no_edge() -> None:
    best, _ = choose(_trials({0.1: (1.0,)}))
    assert not best.edge


def _rows(arm: str, values: list[float], role: str = "teacher", source: str | None = None) -> list[dict[str, Any]]:
    return [
        {"draw": draw, "role": role, "arm": arm, "teacher_checkpoint": source, "checkpoint": "last", "mse": value}
        for draw, value in enumerate(values)
    ]


def test_summary_is_the_paired_t_interval_over_draws_whatever_their_order() -> None:
    ce, mse = [0.10, 0.12, 0.15, 0.11], [0.09, 0.13, 0.12, 0.10]
    rows = _rows("ce", ce) + _rows("mse", mse)[::-1]
    (entry,) = summarise(rows, [Quantity("mse", "MSE", "teacher", "last")], unit="draw")
    reference = scipy_stats.ttest_rel(mse, ce)
    interval = reference.confidence_interval()
    assert entry["difference"]["mean"] == pytest.approx(sum(mse) / 4 - sum(ce) / 4)
    assert entry["difference"]["p"] == pytest.approx(reference.pvalue)
    assert (entry["difference"]["low"], entry["difference"]["high"]) == pytest.approx((interval.low, interval.high))
    unpaired = scipy_stats.ttest_ind(mse, ce)
    assert entry["difference"]["p"] != pytest.approx(unpaired.pvalue)


def test_students_of_the_exact_posterior_stand_beside_every_teacher_checkpoint() -> None:
    rows = _rows("ce", [1.0, 2.0], "student", "last") + _rows("bayes", [3.0, 5.0], "student", None)
    (entry,) = summarise(rows, [Quantity("mse", "MSE", "student", "last", "last")], unit="draw")
    assert entry["arms"]["bayes"]["mean"] == 4.0
    assert "difference" not in entry


def test_arms_on_different_draws_are_not_paired() -> None:
    with pytest.raises(ValueError, match="same draws"):
        summarise(_rows("ce", [1.0, 2.0]) + _rows("mse", [1.0]), [Quantity("mse", "", "teacher", "last")], "draw")


def test_results_survive_a_round_trip_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    write_results(path, {"kind": "quickstart", "value": math.inf, "rows": [math.nan]})
    assert read_results(path) == [{"kind": "quickstart", "value": "inf", "rows": ["nan"]}]
    assert read_results(tmp_path) == read_results(path)
    write_results(tmp_path / "small.json.gz", {"kind": "quickstart", "value": 1})
    assert [found["value"] for found in read_results(tmp_path)] == ["inf", 1]
    with pytest.raises(ValueError, match="kind among"):
        write_results(path, {"kind": "poem"})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not JSON"):
        read_results(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="no stored results"):
        read_results(empty)
