"""The map's figures show the stored numbers, favour the right loss, and are the same bytes twice."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from map_results import made_up
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from bcpd.report import build_report
from bcpd.report.figures import illustrations
from bcpd.report.map_marks import BLUE, RED
from bcpd.report.style import svg_bytes

NAMES = [
    "map-lines",
    "map-lines-kl",
    "map-lines-transfer",
    "map-students",
    "map-students-mse",
    "map-train-epochs",
    "map-settings",
    "map-controls",
    "map-controls-binary",
    "map-rates",
]


def figure_of(results: dict[str, Any], name: str) -> Any:
    found = next(item for item in illustrations(results) if item.name == name)
    assert found.figure is not None, found.missing
    return found.figure


def with_difference(cell: str, quantity: str, mean: float, half: float) -> dict[str, Any]:
    results = made_up()
    for row in results["summary"]:
        if (row["cell"], row["quantity"]) == (cell, quantity):
            row.update(mean=mean, low=mean - half, high=mean + half)
    return results


@pytest.mark.slow
def test_every_figure_is_there_and_drawn_twice_the_same() -> None:
    results = made_up()
    assert [item.name for item in illustrations(results)] == NAMES
    for item, again in zip(illustrations(results), illustrations(copy.deepcopy(results)), strict=True):
        assert item.figure is not None
        assert again.figure is not None
        assert svg_bytes(item.figure) == svg_bytes(again.figure)


@pytest.mark.parametrize(("mean", "colour"), [(-0.02, RED), pytest.param(0.02, BLUE, marks=pytest.mark.slow)])
def test_a_field_has_the_colour_of_the_loss_it_favours(mean: float, colour: str) -> None:
    results = with_difference("train=8000, epochs=10", "teacher fresh_mse score/best_score", mean, 0.001)
    axes = figure_of(results, "map-train-epochs").axes[0]
    image = next(child for child in axes.get_children() if isinstance(child, AxesImage))
    shown = image.cmap(image.norm(image.get_array()[0, 2]))
    other = BLUE if colour == RED else RED
    assert to_hex(shown[:3]) == to_hex(to_rgb(colour))
    assert to_hex(shown[:3]) != to_hex(to_rgb(other))
    # accuracy is better when larger: there the same sign favours the other loss
    results = with_difference("train=8000, epochs=10", "student fresh_accuracy score/best_score", mean, 0.001)
    axes = figure_of(results, "map-train-epochs").axes[1]
    image = next(child for child in axes.get_children() if isinstance(child, AxesImage))
    assert to_hex(image.cmap(image.norm(image.get_array()[0, 2]))[:3]) == to_hex(to_rgb(other))


@pytest.mark.parametrize("half", [0.001, pytest.param(0.05, marks=pytest.mark.slow)])
def test_a_field_is_hatched_exactly_where_its_interval_contains_zero(half: float) -> None:
    results = with_difference("train=8000, epochs=30", "teacher fresh_mse score/best_score", 0.02, half)
    axes = figure_of(results, "map-train-epochs").axes[0]
    hatched = {
        (round(patch.get_x() + 0.5), round(patch.get_y() + 0.5))
        for patch in axes.patches
        if isinstance(patch, Rectangle) and patch.get_hatch()
    }
    expected = {
        (x, y)
        for y, line in enumerate(results["pairs"][0]["cells"])
        for x, cell in enumerate(line)
        for row in results["summary"]
        if (row["cell"], row["quantity"]) == (cell, "teacher fresh_mse score/best_score")
        and row["low"] <= 0 <= row["high"]
    }
    assert hatched == expected
    assert ((2, 1) in hatched) == (half > 0.02)


def test_a_line_separates_the_fields_whose_signs_differ() -> None:
    quantity = "teacher fresh_mse score/best_score"
    results = made_up()
    for row in results["summary"]:
        if row["quantity"] == quantity and row["cell"].startswith("train=") and "epochs" in row["cell"]:
            sign = -1 if row["cell"].startswith("train=8000") else 1
            row.update(mean=0.01 * sign, low=0.01 * sign - 0.001, high=0.01 * sign + 0.001)
    axes = figure_of(results, "map-train-epochs").axes[0]
    edges = {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines}
    assert edges == {((1.5, 1.5), (-0.5, 0.5)), ((1.5, 1.5), (0.5, 1.5))}


def test_no_line_separates_two_fields_that_are_both_hatched() -> None:
    quantity = "teacher fresh_mse score/best_score"
    results = made_up()
    for row in results["summary"]:
        if row["quantity"] == quantity and row["cell"].startswith("train=") and "epochs" in row["cell"]:
            sign = -1 if row["cell"].startswith("train=8000") else 1
            half = 0.001 if row["cell"] == "train=8000, epochs=10" else 0.05
            row.update(mean=0.01 * sign, low=0.01 * sign - half, high=0.01 * sign + half)
    axes = figure_of(results, "map-train-epochs").axes[0]
    edges = {(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in axes.lines}
    assert edges == {((1.5, 1.5), (-0.5, 0.5))}


@pytest.mark.parametrize(("p", "filled"), [(0.01, True), (0.2, False)])
def test_a_point_is_filled_where_the_difference_is_shown(p: float, filled: bool) -> None:
    results = made_up()
    for row in results["summary"]:
        row["p_holm"] = p
    for row in results["controls"]:
        row["p_holm"] = p
    drawn = {item.name: item.figure for item in illustrations(results)}
    for name in ("map-lines", "map-lines-kl", "map-students-mse", "map-controls-binary"):
        figure = drawn[name]
        assert figure is not None
        points = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
        assert points
        assert all((to_hex(point.get_markerfacecolor()) != "#ffffff") == filled for point in points), name
    fields = drawn["map-train-epochs"]
    assert fields is not None
    texts = [text.get_text() for text in fields.axes[0].texts]
    assert any(text.endswith("*") for text in texts) == filled


def test_a_kl_is_shown_at_the_minimum_of_its_own_path() -> None:
    results = made_up()
    rows = {(row["cell"], row["quantity"]): row for row in results["summary"]}
    cells = results["lines"][0]["cells"]
    expected = [rows[cell, "teacher fresh_kl score/path_minimum_kl"]["mean"] for cell in cells]
    assert any(list(line.get_ydata()) == expected for line in figure_of(results, "map-lines-kl").axes[0].lines)


def test_points_stand_at_the_stored_means() -> None:
    results = made_up()
    axes = figure_of(results, "map-lines").axes[0]
    rows = {(row["cell"], row["quantity"]): row for row in results["summary"]}
    first = results["lines"][0]["cells"]
    expected = [rows[cell, "teacher fresh_mse score/best_score"]["mean"] for cell in first]
    assert any(list(line.get_ydata()) == expected for line in axes.lines)


@pytest.mark.slow
def test_what_was_not_run_is_said_and_missing_numbers_do_not_break_a_figure() -> None:
    results = made_up(settings=[], controls=[])
    missing = {item.name: item.missing for item in illustrations(results) if item.figure is None}
    assert missing == {
        "map-settings": "the results hold no further setting",
        "map-controls": "the results hold no control arm against CE",
        "map-controls-binary": "the results hold no control arm against CE",
    }
    results = made_up()
    for row in results["summary"]:
        if row["quantity"].startswith("teacher fresh_mse"):
            row.update(mean="nan", low="nan", high="nan")
    for item in illustrations(results):
        assert item.figure is not None
        svg_bytes(item.figure)


@pytest.mark.slow
def test_the_page_has_the_reading_with_its_figures_and_the_planner() -> None:
    page = build_report([made_up()])
    assert "At N = 500 the MSE teacher is closer by 0.004. (figure map-lines)" in page
    assert "Is the MSE teacher closer to p*?" in page
    assert "New topic" in page
    assert "Nothing else. (table)" in page
    assert "limited by the budget" in page
    assert "0.1: 0.0400 (0.0300)" in page
    assert "at the median, level 0.05 / 18 cells" in page
    assert "Draws needed to see an effect (power 0.8, level 0.05, paired t)" in page
    assert page.count("<figure") == len(NAMES)
