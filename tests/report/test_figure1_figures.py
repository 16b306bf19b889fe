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
    figure1_tables,
    matched_figure,
    prediction_rows,
    released_figure,
    separating_figure,
    table_rows,
    teacher_figure,
)
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
        {
            "world": world,
            "net": net,
            "draw": draw,
            "arm": arm,
            **path,
            "path_minimum_mse": {"fresh_mse": 0.2 + 0.01 * (arm == "mse") * sign + 0.001 * rng.normal()},
        }
        for world, net, sign in (("toy", "mlp", 1), ("contaminated", "linear", -1), ("contaminated", "mlp", 0))
        for draw in range(DRAWS)
        for arm in ("ce", "mse", "mse, rate of ce", "mse_mean")
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
            {"id": "b", "statement": "Nothing to see", "rule": "y", "verdict": "undecided", "parts": []},
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


@pytest.mark.parametrize("make", MAKERS)
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
            entry["mean"] = -0.9
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
    colours = [to_hex(str(line.get_color())) for line in points]
    assert colours == [ARM_STYLES["ce"]["color"], ARM_STYLES["mse"]["color"], "#8a8a8a"]


def test_styles_tell_all_families_apart() -> None:
    assert set(FAMILY_STYLES) == set(TARGETS)
    looks = {(style["color"], style["marker"]) for style in FAMILY_STYLES.values()}
    assert len(looks) == len({marker for _, marker in looks}) == len({colour for colour, _ in looks}) == len(TARGETS)
    assert not {style["color"] for style in FAMILY_STYLES.values()} & {style["color"] for style in ARM_STYLES.values()}


def test_tables_name_the_part_that_decides() -> None:
    head, first, second = prediction_rows(results())
    assert len(head) == len(first) == len(second)
    assert first[2:4] == ("fails", "another")
    assert first[4].startswith("0.1")
    assert first[5:] == ("> 0", "holds")
    assert second[2:] == ("undecided", "–", "–", "–", "–")
    tables = figure1_tables(results())
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert any("nothing is left" in row[3] for row in tables[2].rows)


def test_figures_have_names_of_their_own_and_refuse_results_without_data() -> None:
    assert len({name for name, *_ in FIGURES}) == len(FIGURES) == len(MAKERS)
    empty = {**results(), "matched": [], "correlations": [], "teachers": []}
    empty["table"] = {**empty["table"], "rows": []}
    for _, title, caption, make in FIGURES:
        assert title
        assert caption.endswith(".")
        with pytest.raises(ValueError, match="hold"):
            make(empty)
