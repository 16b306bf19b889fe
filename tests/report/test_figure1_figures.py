"""The figures of Figure 1: every mark is a stored row, the same bytes twice, and nothing is drawn that is not there."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bcpd.report.figure1 import (
    FAMILY_STYLES,
    FIGURES,
    correlation_figure,
    matched_figure,
    released_figure,
    separating_figure,
    teacher_figure,
)
from bcpd.report.figure1_tables import figure1_tables, prediction_rows, table_rows
from bcpd.report.style import ARM_STYLES, png_bytes, svg_bytes
from bcpd.targets import TARGETS

DRAWS = 4
OUTCOMES = ("best_score", "best_accuracy", "last")


def student(rng: np.random.Generator, **further: Any) -> dict[str, Any]:
    mse, kl = further.pop("mse"), further.pop("kl")
    row = {"matched": None, "goal": None, "checkpoint": None, "seed": 0, "mse": mse, "kl": kl, **further}
    row |= {"released_ce": 1 + kl, "released_reverse_ce": 1.1 + 0.01 * rng.normal()}
    return row | {f"student_accuracy_{outcome}": 0.6 - 0.2 * mse + 0.002 * rng.normal() for outcome in OUTCOMES}


def results(seed: int = 0) -> dict[str, Any]:
    """The shape of ``experiments.figure1.run`` with few numbers."""
    rng = np.random.default_rng(seed)
    rows = []
    for world in ("10 classes, separation 1", "3 classes, separation 1"):
        common = {"stage": "released", "world": world, "draw": 0}
        for number in range(5):
            rows.append(student(rng, **common, family="label_mixture", mse=0.05 * number, kl=0.1 * number))
        for family in ("ce", "mse"):
            rows.append(student(rng, **common, family=family, mse=0.2, kl=0.5))
    for draw in range(DRAWS):
        common = {"stage": "separating", "world": "toy", "draw": draw}
        rows.append(student(rng, **common, family="bayes", mse=0.0, kl=0.0))
        rows.append(student(rng, **common, family="one_hot", mse=0.5, kl=math.inf))
        for number, family in enumerate(TARGETS):
            for goal in (0.02, 0.2):
                if (family, goal) != ("top_two_noise", 0.2):
                    kl = (1 + number) * goal
                    rows.append(student(rng, **common, family=family, matched="mse", goal=goal, mse=goal, kl=kl))
        for arm in ("ce", "mse", "mse, rate of ce", "mse_mean"):
            for epoch in ("2", "60"):
                rows.append(student(rng, **common, family=arm, checkpoint=epoch, mse=0.3 / int(epoch), kl=0.1))
    rows = [{"id": number, **row} for number, row in enumerate(rows)]
    columns = list(rows[0])
    interval = {"mean": -0.01, "low": -0.02, "high": 0.0, "n": DRAWS}
    matched = [
        {
            "family": family,
            "matched": "mse",
            "goal": goal,
            "ids": [r["id"] for r in rows if (r["family"], r["goal"]) == (family, goal)],
            "student_accuracy_best_score": interval,
        }
        for family in TARGETS
        for goal in (0.02, 0.2)
        if (family, goal) != ("top_two_noise", 0.2)
    ]
    path = {"fresh_mse": [0.3, 0.2, 0.25], "label_probability": [0.2, 0.4, 0.6]}
    teachers = [
        {"world": world, "net": net, "draw": draw, "arm": arm, **path}
        for world, net in (("toy", "mlp"), ("contaminated", "linear"), ("contaminated", "mlp"))
        for draw in range(DRAWS)
        for arm in ("ce", "mse", "mse, rate of ce", "mse_mean")
    ]
    teachers = [{"id": number, **row} for number, row in enumerate(teachers)]
    comparisons = [
        {
            "world": world,
            "net": net,
            "checkpoint": checkpoint,
            "rates_tuned_by": tuned_by,
            "rates": {"ce": 0.001, "mse": 0.00316},
            "distance": distance,
            "ids": [row["id"] for row in teachers if row["net"] == net and row["arm"] in ("ce", "mse")],
            "n": DRAWS - lost,
            "lost": lost,
            "mean": 0.01 * sign,
            "low": 0.01 * sign - 0.005,
            "high": 0.01 * sign + 0.005,
        }
        for world, net, checkpoint, tuned_by, sign, lost in (
            ("toy", "mlp", "path minimum", "best score", 1, 0),
            ("toy", "mlp", "best_score", "best score", 1, 0),
            ("toy", "mlp", "last", "best score", -1, 0),
            ("toy", "mlp", "last", "last epoch", 0, 0),
            ("contaminated", "linear", "path minimum", "best score", -1, 0),
            ("contaminated", "mlp", "path minimum", "best score", -1, 1),
        )
        for distance in ("mse", "kl")
    ]
    part = {"what": "one thing", "mean": 0.1, "low": 0.05, "high": 0.15, "n": 4, "bound": 0.0, "side": "above"}
    return {
        "kind": "figure1",
        "title": "Figure 1",
        "worlds": [
            {"world": "10 classes, separation 1", "refused": ""},
            {"world": "3 classes, separation 4", "refused": "refused: p* is one-hot"},
        ],
        "predictions": [
            {
                "id": "a",
                "statement": "It holds",
                "rule": "x",
                "verdict": "fails",
                "parts": [{**part, "verdict": "holds"}, {**part, "what": "another", "verdict": "fails"}],
                "verdict_last": "holds",
            },
            {"id": "b", "identity": True, "statement": "Nothing", "rule": "y", "verdict": "undecided", "parts": []},
            {
                "id": "d1",
                "statement": "At three rates",
                "rule": "z",
                "verdict": "undecided",
                "parts": [
                    {
                        **part,
                        "verdict": "undecided",
                        "lost": 1,
                        "reason": "1 lost to divergence",
                        "registered": False,
                        "rate": 0.01,
                        "other_rates": [{**part, "rate": 0.003}, {**part, "rate": 0.03, "mean": 0.12}],
                    }
                ],
            },
        ],
        "tally": {"predictions": 2, "holds": 0, "fails": 1, "undecided": 1, "identities": ["b"]},
        "comparisons": comparisons,
        "rates": [
            {
                "arm": "ce",
                "rate": 0.001,
                "score": "nll",
                "mean": 1.23,
                "edge": True,
                "draws": 2,
                "neighbours": [{"rate": 0.00178, "mean": 0.002, "stderr": 0.003}],
            }
        ],
        "correlations": [
            {"set": name, "outcome": "best_score", "distance": distance, "given": given}
            | ({"reason": "nothing is left"} if name == "alone" and given else {**interval, "targets": 7})
            for name in ("all", "alone")
            for distance, given in (("mse", None), ("kl", None), ("mse", "kl"), ("kl", "mse"))
        ],
        "matched": matched,
        "teachers": teachers,
        "table": {"columns": columns, "rows": [[row[name] for name in columns] for row in rows]},
    }


MAKERS = [released_figure, separating_figure, matched_figure, correlation_figure, teacher_figure]


@pytest.mark.parametrize(
    "make",
    [
        *(pytest.param(make, marks=pytest.mark.slow) for make in MAKERS[:3]),
        MAKERS[3],
        pytest.param(MAKERS[4], marks=pytest.mark.slow),
    ],
)
def test_the_same_bytes_twice_and_other_bytes_for_other_data(make: Any) -> None:
    first = svg_bytes(make(results()))
    assert svg_bytes(make(results())) == first
    changed = copy.deepcopy(results())
    for row in changed["table"]["rows"]:
        place = changed["table"]["columns"].index("student_accuracy_best_score")
        row[place], row[place + 1] = row[place] * (1.1 if row[3] else 1.0), row[place + 1] * 0.9
    for entry in changed["matched"]:
        entry["student_accuracy_best_score"] = {"mean": -0.03, "low": -0.04, "high": -0.02, "n": 4}
    for entry in changed["correlations"]:
        if "mean" in entry:
            entry["mean"] = -0.015
    for teacher in changed["teachers"]:
        teacher["fresh_mse"] = [0.5, 0.3, 0.4]
    assert svg_bytes(make(changed)) != first


def test_pixels_are_the_same_bytes_twice() -> None:
    assert png_bytes(matched_figure(results())) == png_bytes(matched_figure(results()))


def marks(figure: Figure) -> dict[tuple[int, ...], list[tuple[float, float]]]:
    """Ids of rows -> where a mark with them stands."""
    found: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for axes in figure.axes:
        for artist in (*axes.collections, *axes.get_lines()):
            gid = artist.get_gid()
            if gid:
                ids = tuple(int(number) for number in gid.removeprefix("rows-").split("-"))
                xy = artist.get_offsets() if hasattr(artist, "get_offsets") else artist.get_xydata()
                assert len(xy) == 1
                found.setdefault(ids, []).append((float(xy[0][0]), float(xy[0][1])))
    return found


def test_every_dot_of_the_released_figure_is_a_row() -> None:
    stored = {row["id"]: row for row in table_rows(results()) if row["stage"] == "released"}
    found = marks(released_figure(results()))
    assert set(found) == {(number,) for number in stored}
    for (number,), places in found.items():
        row = stored[number]
        columns = ["mse", "released_ce", "released_reverse_ce"]
        if row["family"] != "label_mixture":
            columns.insert(1, "released_reverse_ce")  # hollow, where the release puts it
        height = 100 * row["student_accuracy_best_accuracy"]
        assert places == [(pytest.approx(row[column]), pytest.approx(height)) for column in columns]


def test_every_mark_of_the_separating_figure_is_the_mean_of_its_rows() -> None:
    rows = table_rows(results())
    exact = {row["draw"]: row["student_accuracy_best_score"] for row in rows if row["family"] == "bayes"}
    found = marks(separating_figure(results()))
    drawn = {row["id"] for row in rows if row["stage"] == "separating"} - {
        row["id"] for row in rows if row["family"] in ("bayes", "one_hot")
    }
    assert {number for ids in found for number in ids} == drawn
    for ids, places in found.items():
        own = [rows[number] for number in ids]
        assert len({(row["family"], row["goal"], row["checkpoint"]) for row in own}) == 1
        gain = 100 * np.mean([row["student_accuracy_best_score"] - exact[row["draw"]] for row in own])
        for place, distance in zip(places, ("mse", "kl"), strict=True):
            assert place == (pytest.approx(np.mean([row[distance] for row in own])), pytest.approx(gain))


def gids(figure: Figure, kind: str) -> list[tuple[int, ...]]:
    """The numbers of every mark of a kind, in the order of the figure."""
    found = [artist.get_gid() or "" for axes in figure.axes for artist in axes.get_lines()]
    return [tuple(map(int, gid.split("-")[1:])) for gid in found if gid.startswith(kind)]


def test_marks_of_correlations_and_teachers_say_what_they_show() -> None:
    stored = results()
    drawn = gids(correlation_figure(stored), "correlation")
    assert sorted(place for (place,) in drawn) == [
        place for place, entry in enumerate(stored["correlations"]) if "mean" in entry
    ]
    figure = teacher_figure(stored)
    by_arm = {
        tuple(row["id"] for row in stored["teachers"] if (row["arm"], row["world"]) == (arm, "toy"))
        for arm in ("ce", "mse", "mse, rate of ce", "mse_mean")
    }
    drawn = gids(figure, "teachers")
    assert [ids in by_arm for ids in drawn] == [True] * 8 + [False] * 5
    shown = [entry for entry in stored["comparisons"] if entry["distance"] == "mse"]
    assert sorted(drawn[8:]) == sorted(tuple(e["ids"]) for e in shown if e["checkpoint"] != "best_score")


def test_a_student_is_paired_with_that_of_p_star_of_its_own_seed() -> None:
    """A second nested seed that is better for every target changes nothing for teachers, which have no such student."""
    stored = results()
    before = marks(separating_figure(stored))
    columns = stored["table"]["columns"]
    place = {name: columns.index(name) for name in ("id", "seed", "stage", "student_accuracy_best_score", "checkpoint")}
    more = []
    for row in stored["table"]["rows"]:
        if row[place["stage"]] == "separating" and row[place["checkpoint"]] is None:
            twin = list(row)
            twin[place["id"]] += 10_000
            twin[place["seed"]] = 1
            twin[place["student_accuracy_best_score"]] += 0.1
            more.append(twin)
    stored["table"]["rows"] += more
    after = marks(separating_figure(stored))
    heights = {min(ids): [y for _, y in places] for ids, places in after.items()}
    for ids, places in before.items():
        assert heights[min(ids)] == pytest.approx([y for _, y in places])


def test_lost_draws_are_said_and_leave_the_others() -> None:
    stored = results()
    columns = stored["table"]["columns"]
    place = columns.index("student_accuracy_best_score")
    first = next(row for row in table_rows(stored) if (row["family"], row["goal"]) == ("leak", 0.2))
    stored["table"]["rows"][first["id"]][place] = "nan"
    figure = separating_figure(stored)
    assert "leak 1 of 8" in str(figure.get_supxlabel())
    hollow = [
        line.get_gid()
        for axes in figure.axes
        for line in axes.get_lines()
        if line.get_gid() and line.get_markerfacecolor() == "none"
    ]
    assert len(hollow) == 2
    assert all(str(first["id"]) in gid.split("-") for gid in hollow)
    (_, height), _ = next(places for ids, places in marks(figure).items() if first["id"] in ids)
    rows = [row for row in table_rows(stored) if (row["family"], row["goal"]) == ("leak", 0.2)][1:]
    exact = {r["draw"]: r["student_accuracy_best_score"] for r in table_rows(stored) if r["family"] == "bayes"}
    gains = [100 * (row["student_accuracy_best_score"] - exact[row["draw"]]) for row in rows]
    assert height == pytest.approx(np.mean(gains))
    entry = next(entry for entry in stored["matched"] if (entry["family"], entry["goal"]) == ("leak", 0.2))
    entry["student_accuracy_best_score"] = {**entry["student_accuracy_best_score"], "lost": 1}
    texts = [text.get_text() for axes in matched_figure(stored).axes for text in axes.texts]
    assert sorted(texts) == ["1 lost", "out of reach"]
    assert "1 lost" in [text.get_text() for text in teacher_figure(stored).axes[2].texts]


def test_ids_of_rows_are_in_the_file() -> None:
    text = svg_bytes(released_figure(results())).decode()
    assert {int(number) for number in re.findall(r'id="rows-(\d+)"', text)} == set(range(14))


def test_what_is_refused_or_out_of_reach_is_said() -> None:
    assert "refused: p* is one-hot" in str(released_figure(results()).get_supxlabel())
    figure = matched_figure(results())
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [[], ["out of reach"]]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[2] == "top two noise (unbiased)"
    assert "sharpen (argmax kept)" in labels
    figure = correlation_figure(results())
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], ["not defined"]]


def test_a_difference_at_the_minimum_takes_the_colour_of_the_loss_it_favours() -> None:
    axes = teacher_figure(results()).axes[2]
    points = [line for line in axes.get_lines() if line.get_marker() not in ("None", None, "")]
    colours = {float(line.get_ydata()[0]): to_hex(str(line.get_color())) for line in points}
    ce, mse, neither = ARM_STYLES["ce"]["color"], ARM_STYLES["mse"]["color"], "#8a8a8a"
    assert [colours[height] for height in range(5)] == [ce, mse, neither, mse, neither]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert "not registered" in labels[2]


def test_styles_tell_all_families_apart() -> None:
    assert set(FAMILY_STYLES) == set(TARGETS)
    looks = {(style["color"], style["marker"]) for style in FAMILY_STYLES.values()}
    assert len(looks) == len({marker for _, marker in looks}) == len({colour for colour, _ in looks}) == len(TARGETS)
    assert not {style["color"] for style in FAMILY_STYLES.values()} & {style["color"] for style in ARM_STYLES.values()}


def test_tables_name_the_part_that_decides() -> None:
    head, first, second, _ = prediction_rows(results())
    assert len(head) == len(first) == len(second)
    assert first[2:4] == ("fails", "another")
    assert first[4].startswith("0.1")
    assert first[5:] == ("> 0", "holds")
    assert second[2:] == ("identity: undecided", "–", "–", "–", "–")
    tables = figure1_tables(results())
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    predictions, parts, comparisons, rates, correlations = tables
    assert predictions.title.endswith("of 2, 0 held, 1 failed, 1 undecided; (b) is an identity and not counted")
    assert "tuned rate 0.01; at rate 0.003: 0.1" in parts.rows[-1][-1]
    assert parts.rows[-1][-1].endswith("not registered; 1 lost to divergence")
    assert any(row[-1] == "3, 1 lost" for row in comparisons.rows)
    assert rates.rows[0][4:] == ("0.00178: 0.00200 \N{PLUS-MINUS SIGN} 0.00300", "yes")
    assert any("nothing is left" in row[3] for row in correlations.rows)


def test_figures_have_names_of_their_own_and_refuse_results_without_data() -> None:
    assert len({name for name, *_ in FIGURES}) == len(FIGURES) == len(MAKERS)
    empty = {**results(), "matched": [], "correlations": [], "teachers": []}
    empty["table"] = {**empty["table"], "rows": []}
    for _, title, caption, make in FIGURES:
        assert title
        assert caption.endswith(".")
        with pytest.raises(ValueError, match="hold"):
            make(empty)
