"""Figures: the same bytes every time, no date, no outside settings, and what they show is the data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from example_results import DRAWS, EPOCHS, quickstart, real, verify
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bcpd.report import illustrations, save_figure, save_figures
from bcpd.report.rate_figure import rate_figure
from bcpd.report.run_figures import distance_path_figure, path_figure, student_figure
from bcpd.report.style import ARM_STYLES, png_bytes, svg_bytes
from bcpd.report.summary_figures import arms_figure, differences_figure
from bcpd.report.theory_figures import identity_figure, posterior_figure

CE, MSE = (ARM_STYLES[arm]["color"] for arm in ("ce", "mse"))


def colours(figure: Figure) -> set[str]:
    return {to_hex(line.get_color()) for axes in figure.axes for line in axes.get_lines()}


@pytest.mark.slow
@pytest.mark.parametrize("make", [verify, quickstart, real])
def test_panels_do_not_cover_each_other(make: Any) -> None:
    for item in illustrations(make()):
        assert item.figure is not None, item.missing
        layout = item.figure.get_layout_engine()
        assert layout is not None
        layout.execute(item.figure)
        boxes = [box for axes in item.figure.axes if (box := axes.get_tightbbox()) is not None]
        for number, box in enumerate(boxes):
            assert box.width > 20
            assert box.height > 20
            assert not any(box.overlaps(other) for other in boxes[:number]), item.name


def test_pixels_are_the_same_bytes_twice() -> None:
    first, second = (arms_figure(real()["summary"]) for _ in range(2))
    drawn = svg_bytes(first)
    assert png_bytes(first) == png_bytes(second)
    assert svg_bytes(first) == drawn  # writing a figure leaves it as it was


def test_other_data_make_another_picture() -> None:
    assert svg_bytes(student_figure(quickstart(-0.01))) != svg_bytes(student_figure(quickstart(-0.02)))


@pytest.mark.slow
def test_the_users_settings_change_nothing_and_are_left_alone() -> None:
    plain = svg_bytes(distance_path_figure(quickstart()))
    with mpl.rc_context({"font.size": 22, "axes.facecolor": "red", "svg.fonttype": "none", "svg.hashsalt": None}):
        assert svg_bytes(distance_path_figure(quickstart())) == plain
        assert mpl.rcParams["font.size"] == 22


def test_files_are_svg_and_png_without_date_or_text_that_needs_a_font(tmp_path: Path) -> None:
    figure = arms_figure(real()["summary"])
    svg, png = save_figure(figure, tmp_path / "folder" / "students")
    assert (svg.name, png.name) == ("students.svg", "students.png")
    text = svg.read_text()
    assert "<dc:date>" not in text
    assert "<text" not in text
    assert png.read_bytes().startswith(b"\x89PNG")
    assert save_figure(figure, tmp_path / "folder" / "students.svg") == (svg, png)


def test_all_figures_of_a_result_are_written_under_their_names(tmp_path: Path) -> None:
    paths = save_figures({**real(), "paths": []}, tmp_path)
    names = [
        "real-digits-arms.svg",
        "real-digits-arms.png",
        "real-digits-differences.svg",
        "real-digits-differences.png",
    ]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_ce_and_mse_have_their_colours_everywhere() -> None:
    results = quickstart()
    for figure in (
        distance_path_figure(results),
        arms_figure(results["summary"]),
        path_figure(real(), ("validation_nll",)),
    ):
        assert {CE, MSE} <= colours(figure)


def test_paths_show_the_mean_over_draws_and_a_marker_at_the_mean_epoch() -> None:
    results = quickstart()
    figure = distance_path_figure(results)
    solid = [
        line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == EPOCHS and line.get_linestyle() == "-"
    ]
    heights = [float(np.asarray(line.get_ydata())[0]) for line in solid if line.get_label() == "CE, fresh points"]
    assert heights == pytest.approx([results["paths"][0]["metrics"]["fresh_mse"][0][0]])
    markers = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 1]
    assert {float(np.asarray(line.get_xdata())[0]) for line in markers} == {3.5}


def test_an_epoch_at_which_a_draw_diverged_is_left_open() -> None:
    results = quickstart()
    results["paths"][0]["metrics"]["fresh_mse"][2][1] = "nan"
    figure = distance_path_figure(results)
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "CE, fresh points"]
    assert [math.isnan(value) for value in np.asarray(line.get_ydata())] == [False, False, True, False, False, False]


def test_students_are_joined_by_draw() -> None:
    figure = student_figure(quickstart(gap=-0.01))
    joining = [line for line in figure.axes[0].get_lines() if to_hex(line.get_color()) == "#cccccc"]
    assert len(joining) == DRAWS
    for line in joining:
        (ce_distance, mse_distance), (ce_accuracy, mse_accuracy) = (
            np.asarray(line.get_xdata()),
            np.asarray(line.get_ydata()),
        )
        assert mse_distance < ce_distance
        assert mse_accuracy > ce_accuracy


def test_a_difference_takes_the_colour_of_the_arm_it_favours() -> None:
    def shown(gap: float, spread: float = 0.001) -> set[str]:
        summary = [row for row in quickstart(gap, spread)["summary"] if row["quantity"] == "fresh_mse"]
        return colours(differences_figure(summary))

    assert MSE in shown(-0.01)
    assert CE not in shown(-0.01)
    assert CE in shown(0.01)
    assert not {CE, MSE} & shown(0.0001, spread=0.01)


def test_more_accuracy_favours_the_arm_that_has_it() -> None:
    summary = [row for row in quickstart(-0.01)["summary"] if row["quantity"] == "fresh_accuracy"]
    assert MSE in colours(differences_figure(summary))


def test_the_identity_figure_draws_right_and_wrong_versions() -> None:
    data = verify()["pictures"]["identity"]
    figure = identity_figure(data)
    drawn = [np.asarray(points.get_offsets())[:, 1].tolist() for points in figure.axes[0].collections]
    assert data["losses"]["ce"]["claimed"] in drawn
    assert data["losses"]["ce"]["swapped_arguments"] in drawn


def test_the_axes_of_the_plane_are_not_swapped() -> None:
    axes = posterior_figure(verify()["pictures"]["posterior"]).axes[0]
    assert axes.get_images()[0].get_extent() == [0.0, 1.0, 0.0, 2.0]


def test_a_figure_without_its_data_says_what_is_missing() -> None:
    results = quickstart()
    results["paths"] = []
    del results["rows"][:]
    missing = {item.name: item.missing for item in illustrations(results) if item.figure is None}
    assert "paths must hold one of fresh_mse, fresh_kl" in missing["quickstart-distance-paths"]
    assert "students at best_score" in missing["quickstart-students"]
    assert {item.missing for item in illustrations({**verify(), "pictures": None}) if item.figure is None} == {
        f"the results hold no {key}" for key in ("posterior", "identity", "projection", "minimisers")
    }


def test_figures_of_nothing_and_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a summary row with a difference, received none"):
        differences_figure([])
    with pytest.raises(ValueError, match="at least one row, received none"):
        arms_figure([])
    with pytest.raises(
        ValueError,
        match=r"kind among \['figure1', 'ladder', 'quickstart', 'real', 'tables', 'teachers', 'verify', "
        r"'when-mse-wins'\], received 'toy'",
    ):
        illustrations({"kind": "toy"})


def test_every_rate_tried_is_drawn_and_the_chosen_one_ringed() -> None:
    results = quickstart()
    figure = rate_figure(results)
    panels = figure.axes
    assert [axes.get_xscale() for axes in panels] == ["log", "log"]
    means = {line.get_label(): line.get_ydata() for line in panels[1].lines if not line.get_label().startswith("_")}
    assert [list(values) for values in means.values()] == [pytest.approx([0.0315, 0.0945])] * 2
    rings = [line.get_xdata()[0] for line in panels[1].lines if line.get_marker() == "o"]
    assert rings == [0.01, 0.1]
    results["sensitivity"] = [row | {"role": "student"} for row in results["sensitivity"]]
    with pytest.raises(ValueError, match="no teacher"):
        rate_figure(results)
