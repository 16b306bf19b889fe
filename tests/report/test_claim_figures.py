"""Figures of claims: what is given is what is drawn, and the margins of checks lie where they should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from example_results import check, curves, panels, surface, verify
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bcpd.report import illustrations
from bcpd.report.claim_figures import COLOURS, claim_figure, margin_figure
from bcpd.report.style import INK


def line(axes: Axes, label: str) -> Line2D:
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return found


def points(figure: Figure) -> dict[tuple[float, float], str]:
    """Place of every point in a figure of margins, with its marker."""
    found: dict[tuple[float, float], str] = {}
    for drawn in figure.axes[0].get_lines():
        if drawn.get_linestyle() == "None":
            marker = str(drawn.get_marker())
            marker += " hollow" if drawn.get_markerfacecolor() == "none" else ""
            places = zip(np.asarray(drawn.get_xdata()), np.asarray(drawn.get_ydata()), strict=True)
            found |= {(round(float(x), 12), round(float(y), 12)): marker for x, y in places}
    return found


def test_curves_are_drawn_in_their_colours_and_styles() -> None:
    axes = claim_figure(curves()).axes[0]
    assert np.asarray(line(axes, "CE").get_ydata()).tolist() == [0.2, 0.3, 0.4, 0.5]
    assert to_hex(line(axes, "CE").get_color()) == COLOURS["ce"]["color"]
    assert (line(axes, "smooth").get_linestyle(), line(axes, "smooth").get_marker()) == ("--", "")
    assert (line(axes, "MSE").get_linestyle(), line(axes, "MSE").get_marker()) == ("None", "s")
    assert (line(axes, "measured").get_linestyle(), line(axes, "measured").get_marker()) == ("-", "x")
    assert np.asarray(line(axes, "no difference").get_ydata()).tolist() == [1.0, 1.0]
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).bounds == pytest.approx((0.5, 0.1, 3.5, 0.5))
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale(), axes.get_yscale()) == (
        "separation",
        "ratio",
        "linear",
        "linear",
    )


@pytest.mark.parametrize(("logarithmic", "missing"), [(False, [False, True]), (True, [True, True])])
def test_what_cannot_be_drawn_is_left_open(logarithmic: bool, missing: list[bool]) -> None:
    axes = claim_figure(curves(logarithmic)).axes[0]
    assert axes.get_xscale() == ("log" if logarithmic else "linear")
    y = np.asarray(line(axes, "MSE").get_ydata())
    assert [math.isnan(value) for value in y] == [*missing, False, False]


def test_every_series_is_in_the_legend() -> None:
    (legend,) = claim_figure(curves()).legends
    assert {text.get_text() for text in legend.get_texts()} == {"CE", "MSE", "smooth", "measured", "no difference"}


def test_a_surface_has_its_rows_along_y() -> None:
    data = surface()
    data["z"] = [[10.0 * row + column for column in range(5)] for row in range(3)]
    figure = claim_figure(data)
    axes = figure.axes[0]
    assert axes.get_xlim() == (-2.0, 2.0)
    assert axes.get_ylim() == (-1.0, 1.0)
    lowest = axes.collections[0].get_paths()[0].get_extents()
    assert lowest.y1 < 0  # the low values fill the low rows
    assert np.asarray(line(axes, "minimiser").get_xdata()).tolist() == [0.0]
    assert np.asarray(line(axes, "descent").get_ydata()).tolist() == [1.0, 0.0]
    assert figure.axes[1].get_ylabel() == "risk"


def test_panels_stand_beside_each_other_with_their_titles() -> None:
    figure = claim_figure(panels())
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["Efficiency", "Risk"]
    assert len(figure.axes) == 3  # and the scale of the surface
    assert all(axes.get_legend() is not None for axes in figure.axes[:2])


def test_panels_that_show_the_same_share_a_legend() -> None:
    figure = claim_figure({"kind": "panels", "panels": [curves(), curves(True), curves()]})
    assert len(figure.legends) == 1
    assert all(axes.get_legend() is None for axes in figure.axes)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ({"kind": "pie"}, r"a picture must be one of \('curves', 'surface', 'panels'\).*received 'pie'"),
        ({"kind": "panels", "panels": []}, "received 'panels'"),
        ({"kind": "panels", "panels": [{"kind": "panels"}]}, "received 'panels'"),
        ({"kind": "curves", "x_label": "x", "y_label": "y"}, "missing series"),
        ({**curves(), "series": [{"name": "a", "x": [1]}]}, "a series must have .*missing y"),
        ({**curves(), "series": [{"name": "a", "x": [1], "y": [1], "colour": "red"}]}, "colour must be one of .*'red'"),
        ({**curves(), "series": [{"name": "a", "x": [1], "y": [1], "style": "wavy"}]}, "style must be .*'wavy'"),
        ({**surface(), "z": [[1.0, 2.0]]}, r"3 rows of 5 values, received \(1, 2\)"),
        ({**surface(), "z": [["nan"] * 5] * 3}, "a finite value, received none"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(picture: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        claim_figure(picture)


def test_a_claim_lies_left_of_one_and_its_controls_right_of_it() -> None:
    figure = margin_figure(
        [
            check("risk", 5e-13),
            check("risk", 1e-9, control="wrong"),
            check("risk", 2e-13, control="harmless", role="claim"),
        ]
    )
    assert points(figure) == {(0.5, 0.0): "o", (1000.0, 1.0): "x", (0.2, 2.0): "o hollow"}
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["the claim", "wrong", "harmless"]
    (bar,) = [drawn for drawn in figure.axes[0].get_lines() if np.asarray(drawn.get_xdata()).tolist() == [1, 1]]
    assert to_hex(bar.get_color()) == INK


def test_signed_gaps_and_exact_zeros_stand_at_the_edges() -> None:
    figure = margin_figure(
        [check("gap", -1e-3, -1e-6), check("gap", 0.0), check("gap", 1.0, -1e-6, control="reversed")]
    )
    low, high = figure.axes[0].get_xlim()
    assert set(points(figure)) == {(0.001, 0.0), (round(low, 12), 0.0), (high, 1.0)}
    assert low < 1e-3
    assert high > 10


def test_losses_have_their_colours_beside_each_other() -> None:
    figure = margin_figure([check("risk", 5e-13, loss=loss) for loss in ("ce", "mse", "spherical")])
    heights = sorted(y for _, y in points(figure))
    assert heights == pytest.approx([-0.28, 0.0, 0.28])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["CE", "MSE", "spherical"]


def test_what_a_loss_did_not_do_takes_no_room() -> None:
    """An empty line that is not clipped would stretch the layout to the corner of the figure."""
    figure = margin_figure(
        [check("risk", 5e-13, loss="ce"), check("risk", 1.0, loss="mse", control="wrong")],
    )
    figure.draw_without_rendering()
    (legend,) = figure.legends
    below = figure.axes[0].xaxis.get_tightbbox()
    assert below is not None
    assert 0 < below.y0 - legend.get_window_extent().y1 < 12


def test_lines_that_mean_different_things_look_different() -> None:
    data = {**curves(), "lines": [{"y": 1.0, "name": "one"}, {"y": 2.0, "name": "two", "colour": "mse"}]}
    axes = claim_figure(data).axes[0]
    assert line(axes, "one")._unscaled_dash_pattern != line(axes, "two")._unscaled_dash_pattern  # type: ignore[attr-defined]
    assert to_hex(line(axes, "two").get_color()) == COLOURS["mse"]["color"]


def test_margins_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a check with a value, received none"):
        margin_figure([check("risk", math.nan)])


def test_every_claim_has_its_own_picture_or_that_of_its_margins() -> None:
    found = {item.name: item for item in illustrations(verify())}
    places = {name.removeprefix("verify-"): item.claim for name, item in found.items()}
    assert places == {
        "posterior": "posterior-calibration",
        "identity": "risk-identity",
        "projection": "own-metric",
        "minimisers": "",
        "risk-identity": "risk-identity",
        "own-metric": "own-metric",
        "excess-risk-l2": "excess-risk-l2",
        "your-own": "your-own",
    }
    assert found["verify-own-metric"].caption == "Both fall. The points follow the line. One valley."
    assert found["verify-your-own"].title == "Margins of its checks"


def test_a_picture_that_cannot_be_drawn_is_said() -> None:
    results = {**verify(), "claim_pictures": {"your-own": {"kind": "pie"}}}
    (item,) = [item for item in illustrations(results) if item.name == "verify-your-own"]
    assert item.figure is None
    assert "received 'pie'" in item.missing


def test_pictures_of_claims_that_were_not_asked_for_are_left_out() -> None:
    claims = [claim for claim in verify()["claims"] if claim["id"] == "own-metric"]
    checks = [entry for entry in verify()["checks"] if entry["claim"] == "own-metric"]
    some = {**verify(), "only": ["own-metric"], "claims": claims, "checks": checks}
    assert [item.name for item in illustrations(some)] == ["verify-projection", "verify-own-metric"]
    mine = {**some, "only": [], "pictures": {}, "claim_pictures": {}, "mixture": "mine"}
    assert [item.name for item in illustrations(mine)] == ["verify-own-metric"]
