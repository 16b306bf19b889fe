"""The ladder's tables and pictures, from small results."""

import json
from typing import Any

import numpy as np
import pytest

from bcpd.report.gallery import gallery_entry, gallery_figure, packed
from bcpd.report.ladder import LADDER_ARMS, ladder_figure, ladder_illustrations, ladder_tables
from bcpd.report.style import png_bytes, svg_bytes


def ladder_results() -> dict[str, Any]:
    rungs = [
        {"name": "templates", "title": "image mixture: templates", "truth": "exact"},
        {"name": "cifar10", "title": "CIFAR-10, p* unknown", "truth": "unknown"},
    ]
    differences = []
    for number, rung in enumerate(rungs):
        for role, quantity in (("teacher", "mse"), ("student", "accuracy"), ("student", "mse"), ("teacher", "kl")):
            for place, arm in enumerate(("mse", "ce_t", "mse_t", "label_smoothing")):
                about = {"rung": rung["name"], "role": role, "checkpoint": "last", "quantity": quantity, "n": 3}
                mean = 0.01 * (place + 1) * (-1) ** number
                about |= {"mean": mean, "low": mean - 0.005, "high": mean + 0.005, "arm": arm, "against": "ce"}
                differences.append(about)
    differences.append(differences[0] | {"arm": "mse_t", "against": "ce_t", "mean": 0.5, "low": 0.4, "high": 0.6})
    differences[16]["without_near"] = {"mean": -0.009, "low": -0.01, "high": -0.008, "n": 3}
    value = {"role": "teacher", "checkpoint": "last", "arm": "ce", "mean": 0.1, "low": 0.09, "high": 0.11, "n": 3}
    names = ("closer_mse", "closer_kl", "student", "student_closer_mse", "closer_mse_with_temperature")
    return {
        "kind": "ladder",
        "title": "The ladder",
        "question": "?",
        "rungs": rungs,
        "differences": differences,
        "values": [
            value | {"rung": "templates", "quantity": "mse"},
            value | {"rung": "cifar10", "quantity": "brier", "mean": 0.7, "low": 0.6, "high": 0.8},
        ],
        "verdicts": [{"rung": rung["name"], **dict.fromkeys(names, "undecided")} for rung in rungs],
        "tuning": [
            {"ground": "templates", "arm": "ce", "learning_rate": 0.1, "mean": 0.5, "edge": True, "chosen": True}
        ],
        "reading": [{"topic": "claim", "text": "It stands."}],
    }


def test_a_table_a_quantity_with_a_line_a_rung() -> None:
    tables = ladder_tables(ladder_results())
    first = tables[0]
    assert [row[0] for row in first.rows] == ["image mixture: templates", "CIFAR-10, p* unknown"]
    assert first.rows[0][2] == "0.100 [0.090, 0.110]"
    assert first.rows[1][2] == "0.70 [0.60, 0.80] (Brier)"  # the score stands where the distance is unknown
    assert first.rows[0][3] == "0.0100 [0.0050, 0.0150]"
    assert first.rows[0][-1] == "undecided"
    (temperatures,) = [table for table in tables if table.title.startswith("MSE + T minus CE + T")]
    assert temperatures.rows[0][1] == "0.50 [0.40, 0.60]"  # and not that against CE
    (near,) = [table for table in tables if "near-duplicates" in table.title]
    assert near.rows == (
        ("CIFAR-10, p* unknown", "teacher", "mse", "−0.0100 [−0.0150, −0.0050]", "−0.0090 [−0.0100, −0.0080]"),
    )
    (rates,) = [table for table in tables if table.title == "Learning rates tried"]
    assert rates.marked == {0}


def test_the_figure_has_a_point_an_arm_and_rung() -> None:
    figure = ladder_figure(ladder_results())
    panels = figure.axes
    assert len(panels) == 3
    markers = [line for line in panels[0].lines if line.get_marker() not in ("None", "") and len(line.get_xdata())]
    assert len(markers) == 2 * (len(LADDER_ARMS) - 1)
    assert float(markers[0].get_xdata()[0]) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="differences"):
        ladder_figure(ladder_results() | {"differences": []})


def picture(shade: int, **further: Any) -> dict[str, Any]:
    return {"image": packed(np.full((1, 8, 8), shade, np.uint8)), "p": [0.25, 0.75], **further}


def test_a_gallery_survives_json_and_is_drawn_twice_alike() -> None:
    rows = [("clear", [picture(0), picture(255)]), ("ambiguous", [picture(128, q=[0.5, 0.5])])]
    entry = gallery_entry("templates", "Templates", "Look.", rows, ["a", "b"], ("p*", "teacher"))
    stored = json.loads(json.dumps(entry))
    assert svg_bytes(gallery_figure(stored)) == svg_bytes(gallery_figure(entry))
    found = ladder_illustrations(ladder_results() | {"gallery": [stored], "own_gallery": [stored | {"name": "own"}]})
    assert [item.name for item in found] == ["ladder", "ladder-gallery-templates", "ladder-gallery-own"]
    assert all(item.figure is not None for item in found)


def test_the_bars_are_the_probabilities() -> None:
    entry = gallery_entry("x", "x", "x", [("one", [picture(3)])], ["a", "b"])
    figure = gallery_figure(entry)
    bars = [axes for axes in figure.axes if axes.patches]
    assert [patch.get_height() for patch in bars[0].patches] == [0.25, 0.75]
    assert png_bytes(figure)[:4] == b"\x89PNG"


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((1, 8, 8)), np.zeros((2, 8, 8), np.uint8)])
def test_what_is_no_picture_is_refused(image: Any) -> None:
    with pytest.raises(ValueError, match="picture"):
        packed(image)


def test_a_gallery_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="pictures"):
        gallery_figure(gallery_entry("x", "x", "x", [("none", [])], ["a", "b"]))
