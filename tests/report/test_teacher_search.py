"""Tables and figures of the search for teachers, from small results."""

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bcpd.report.figures import illustrations
from bcpd.report.sections import REQUIRED
from bcpd.report.studies import findings
from bcpd.report.style import svg_bytes
from bcpd.report.teacher_search import teacher_tables
from bcpd.report.teacher_search_figures import closeness_figure, search_figure, teacher_illustrations
from bcpd.runs.results import KINDS

NET = "resnet56"


def trial(loss: str, rate: float, decay: float, warm_up: float, score: Any, **marks: Any) -> dict[str, Any]:
    name = "nll" if loss == "ce" else "brier"
    row = {"net": NET, "loss": loss, "rate": rate, "decay": decay, "warm_up": warm_up, "name": name, "score": score}
    return {**row, "under_trained": False, "chosen": False, "edge": [], **marks}


def difference(arm: str, against: str, quantity: str, mean: float, half: Any = 0.01) -> dict[str, Any]:
    seeds = [{"seed": seed, "value": mean + 0.001 * (seed - 1), "stderr": 0.004} for seed in range(3)]
    row = {"net": NET, "arm": arm, "against": against, "quantity": quantity, "n": 3, "images": 50, "by_seed": seeds}
    return row | {"mean": mean, "low": mean - half, "high": mean + half}


def results() -> dict[str, Any]:
    search = [
        trial("ce", 0.05, 5e-4, 0.0, 1.2),
        trial("ce", 0.1, 5e-4, 0.0, 1.1, chosen=True),
        trial("ce", 0.2, 5e-4, 0.0, 1.3),
        trial("mse", 1.0, 5e-5, 0.0, 0.6, under_trained=True),
        trial("mse", 3.0, 5e-5, 0.0, 0.5),
        trial("mse", 9.0, 5e-5, 0.0, "nan", diverged=2),
        trial("mse", 3.0, 1e-5, 0.0, 0.45),
        trial("mse", 3.0, 1e-5, 5.0, 0.4, chosen=True, edge=["decay", "warm-up"]),
    ]
    differences = [
        difference("mse", "ce", "mse", -0.02),
        difference("mse", "ce", "kl", 0.3),
        difference("mse", "ce", "accuracy", 0.005),
        difference("ce+T", "ce", "mse", -0.001),
        difference("ce+T", "ce", "kl", -0.05),
        difference("ce+T", "ce", "accuracy", 0.0),
        difference("mse+T", "mse", "mse", 0.004),
        difference("mse+T", "mse", "kl", -0.2),
    ]
    differences[0]["without_near"] = {"mean": -0.025, "low": -0.04, "high": -0.01, "n": 3}
    row = {"net": NET, "loss": "mse", "seed": 0, "temperature": 1.4, "left": 0.04, "late_gain": 0.031}
    row |= {"test_accuracy": 0.71, "test_nll": 1.3, "test_brier": 0.4, "under_trained": True}
    lost = {"net": NET, "loss": "mse", "seed": 1, "refused": "diverged in epoch 3"}
    value = {"net": NET, "arm": "mse", "mean": 0.71, "low": 0.7, "high": 0.72, "n": 3}
    return {
        "kind": "teachers",
        "title": "Teachers at the recipe's length",
        "question": "?",
        "spec": {"nets": [NET], "losses": ["ce", "mse"]},
        "search": search,
        "values": [
            value | {"quantity": "accuracy"},
            value | {"quantity": "brier", "mean": 0.4, "low": 0.3, "high": 0.5},
        ],
        "differences": differences,
        "reading": [{"topic": topic, "text": f"It says {topic}."} for topic in ("settings", "levelled", "closer")],
        "notes": ["A note."],
        "rows": [row, lost],
    }


def test_tables_say_what_was_chosen_and_what_came() -> None:
    tables = {table.title: table for table in teacher_tables(results())}
    settings = tables["The setting that each loss wants"].rows
    assert settings[1] == (NET, "MSE", "3", "1e-05", "5", "brier 0.400", "decay, warm-up", "")
    scores = tables["Teachers on test images"].rows
    assert scores == ((NET, "MSE", "71.0 [70.0, 72.0]", "–", "0.40 [0.30, 0.50]", "1 of 2"),)
    closer = tables["Which teacher is closer to p*: differences by test labels"].rows
    assert [row[1] for row in closer] == ["MSE minus CE", "CE + T minus CE"]
    assert closer[0][2:] == ("−0.020 [−0.030, −0.010]", "0.300 [0.290, 0.310]", "0.5 [−0.5, 1.5]", "closer")
    assert closer[1][-1] == "undecided"
    others = tables["The other pairs of teachers"]
    assert (others.default, others.rows[0][1], others.rows[0][-1]) == (False, "MSE + T minus MSE", "undecided")
    assert tables["Differences without near-duplicates"].rows[0][-1] == "−0.025 [−0.040, −0.010]"
    assert len(tables["Differences, seed by seed"].rows) == 12
    tried = tables["Settings that were tried"]
    assert tried.marked == {1, 7}
    assert tried.rows[5][5] == "diverged"
    assert tried.rows[3][6] == "under-trained"
    seeds = tables["Teachers, seed by seed"].rows
    assert seeds[0][-1] == "under-trained"
    assert seeds[1][3] == "diverged in epoch 3"


def marks(axes: Axes) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_linestyle() == "None"]


def places(lines: list[Line2D]) -> list[tuple[float, float]]:
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]  # type: ignore[index]


def test_the_search_has_a_line_a_decay_and_marks_what_is_to_be_marked() -> None:
    figure = search_figure(results())
    ce, mse = figure.axes
    assert [axes.get_title(loc="left") for axes in (ce, mse)] == [f"{NET}, CE", f"{NET}, MSE"]
    lines = [line for line in mse.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata())]  # type: ignore[arg-type]
    assert [list(line.get_xdata()) for line in lines] == [[3.0], [1.0, 3.0]]  # type: ignore[arg-type]
    assert len({line.get_color() for line in lines}) == 2
    rings = [line for line in marks(mse) if line.get_markersize() > 10]
    ((rate, score),) = places(rings)
    assert (score, rate) == (0.4, pytest.approx(3.0 * 1.09))
    open_ones = [line for line in marks(mse) if line.get_markersize() == 6 and line.get_markerfacecolor() == "white"]
    assert places(open_ones) == [(1.0, 0.6)]
    assert [line.get_marker() for line in marks(mse) if line.get_markersize() == 6] == ["o", "o", "o", "^"]
    (cross,) = [line for line in marks(mse) if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [9.0]  # type: ignore[arg-type]
    assert [text.get_text() for text in mse.texts] == ["edge in decay, warm-up"]
    assert not ce.texts
    assert svg_bytes(figure) == svg_bytes(search_figure(results()))
    with pytest.raises(ValueError, match="trials of the search"):
        search_figure(results() | {"search": []})


def test_differences_have_intervals_seeds_and_what_is_left_without_repeats() -> None:
    figure = closeness_figure(results())
    mse, kl = figure.axes
    names = [f"{NET}: MSE minus CE", f"{NET}: CE + T minus CE"]
    assert [label.get_text() for label in mse.get_yticklabels()] == names
    squares = [line for line in marks(mse) if line.get_marker() == "s"]
    assert places(squares) == [(-0.02, 0.0), (-0.025, -0.2)]
    assert squares[1].get_markerfacecolor() == "white"
    dots = [line for line in marks(kl) if line.get_marker() == "."]
    assert list(dots[0].get_xdata()) == pytest.approx([0.299, 0.3, 0.301])  # type: ignore[arg-type]
    spans = [line for line in mse.get_lines() if line.get_linestyle() == "-" and line.get_color() == "#d55e00"]
    assert list(spans[0].get_xdata()) == pytest.approx([-0.03, -0.01])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="differences of two teachers"):
        closeness_figure(results() | {"differences": []})


def test_what_is_not_finite_has_no_interval() -> None:
    found = results()
    found["differences"] = [difference("mse", "ce", "mse", -0.02) | {"low": "-inf", "high": "inf", "n": 1}]
    found["differences"][0]["by_seed"][0]["value"] = "inf"
    (table,) = [table for table in teacher_tables(found) if table.title.startswith("Which teacher")]
    assert table.rows[0][2] == "−0.0200 (interval undefined)"
    assert table.rows[0][3] == "–"
    axes = closeness_figure(found).axes[0]
    assert not [line for line in axes.get_lines() if line.get_color() == "#d55e00" and line.get_linestyle() == "-"]


def test_the_report_knows_the_kind() -> None:
    found = results()
    assert "teachers" in KINDS
    assert set(REQUIRED["teachers"]) <= found.keys()
    assert [item.name for item in illustrations(found)] == [item.name for item in teacher_illustrations(found)]
    assert all(isinstance(item.figure, Figure) for item in illustrations(found))
    headings = [heading for heading, _ in findings(found)]
    assert headings == [
        "What setting each loss wants",
        "Has the training levelled off?",
        "Is the MSE teacher closer to p*?",
    ]
