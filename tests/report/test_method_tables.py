"""Tables and figures of distillation methods, from small results."""

from typing import Any

import matplotlib.lines
import pytest

from bcpd.report import build_report
from bcpd.report.method_figures import difference_figure, method_illustrations, share_figure
from bcpd.report.method_tables import method_tables
from bcpd.report.style import svg_bytes

PAIR = ["resnet20", "resnet8"]


def results(shares: tuple[float, ...] = (1.0,), seeds: int = 3) -> dict[str, Any]:
    values: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    narrow = float("inf") if seeds == 1 else 0.01
    for checkpoint, best in (("last", 0.0), ("best_accuracy", 0.002)):
        for place, arm in enumerate(("ce", "mse")):
            mean = 0.5 - 0.01 * place + best
            about = {"arm": arm, "share": 1.0, "checkpoint": checkpoint, "n": seeds}
            about |= {"mean": mean, "low": mean - narrow, "high": mean + narrow}
            values.append({"role": "teacher", "net": "resnet20", **about})
            for share in shares:
                for method in ("kd", "at"):
                    lower = {"mean": 0.4 + best, "low": 0.4 - narrow, "high": 0.4 + narrow}
                    values.append({"role": "student", "pair": PAIR, "method": method, **about, **lower, "share": share})
        for share in shares:
            alone = {"mean": 0.35, "low": 0.35 - narrow, "high": 0.35 + narrow, "n": seeds, "checkpoint": checkpoint}
            about = {"role": "student", "pair": ["", "resnet8"], "method": "scratch", "arm": "labels", "share": share}
            values.append(about | alone)
            for number, method in enumerate(("kd", "at", "all", "teacher")):
                gap = {"mean": 0.02 - 0.01 * number, "low": 0.014 - narrow, "high": 0.0255 + narrow, "n": seeds}
                about = {"pair": PAIR, "share": share, "checkpoint": checkpoint, "arm": "mse", "against": "ce"}
                p_holm = None if method in ("all", "teacher") else 0.04
                differences.append(about | gap | {"method": method, "p": 0.02, "p_holm": p_holm})
    for seed in range(seeds):
        for share in shares:
            for method in ("kd", "at"):
                for arm in ("ce", "mse"):
                    accuracy = 0.4 + 0.01 * seed + (0.02 + 0.001 * seed) * (arm == "mse")
                    about = {"role": "student", "pair": PAIR, "method": method, "arm": arm, "share": share}
                    rows.append(about | {"checkpoint": "last", "seed": seed, "test_accuracy": accuracy})
    teacher = {"role": "teacher", "net": "resnet20", "arm": "ce", "seed": 0, "checkpoint": "last"}
    scores = {"test_accuracy": 0.5, "test_nll": 2.0, "test_brier": 0.7, "temperature": 1.0}
    rows.append(teacher | scores | {"left": 0.6, "late_gain": 0.01, "under_trained": True})
    trial = {"net": "resnet20", "arm": "mse", "learning_rate": 1.0, "weight_decay": 5e-5, "score": "brier"}
    source = "RepDistiller README: last epoch, one set of weights for all pairs"
    return {
        "kind": "tables",
        "experiment": "table1",
        "title": "Table 1",
        "question": "?",
        "spec": {
            "pairs": [PAIR],
            "methods": ["kd", "at"],
            "teachers": ["ce", "mse"],
            "shares": list(shares),
            "protocol": {"partial": "none" if len(shares) == 1 else "labels", "teacher_sees": "all"},
        },
        "values": values,
        "differences": differences,
        "tuning": [trial | {"mean": 0.9, "chosen": True, "edge": True}],
        "reading": [{"topic": "students", "text": "It stands."}, {"topic": "teachers", "text": "They stand."}],
        "reference": {
            "students": [
                {
                    "pair": PAIR,
                    "of": ["resnet56", "resnet20"],
                    "method": "kd",
                    "accuracy": 70.66,
                    "spread": None,
                    "source": source,
                }
            ],
            "networks": [{"net": "resnet20", "accuracy": 69.06, "source": source}],
            "few_shot": [],
            "claims": [{"difference": 2.67, "what": "largest gain", "source": "Hamidi et al. 2024, Table 1"}],
        },
        "notes": [],
        "rows": rows,
    }


def test_methods_stand_in_rows_with_both_teachers_and_what_is_published() -> None:
    table = method_tables(results())[0]
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == ["the teacher itself", "no teacher", "KD", "AT", "mean over methods"]
    assert rows["KD"]["CE teacher"] == "40.0 [39.0, 41.0]"
    assert rows["KD"]["CE, best validation"] == "40.2 [39.0, 41.0]"
    assert rows["KD"]["MSE minus CE, points"] == "2.0 [0.4, 3.5]"
    assert rows["KD"]["p (paired)"] == "0.02"
    assert rows["KD"]["p (Holm)"] == "0.04"
    assert rows["KD"]["published, CE teacher"] == "70.66 [b]"
    assert rows["AT"]["published, CE teacher"] == "–"
    assert rows["no teacher"]["CE teacher"] == "35.0 [34.0, 36.0]"
    assert rows["the teacher itself"]["MSE teacher"] == "49.0 [48.0, 50.0]"
    assert rows["the teacher itself"]["published, CE teacher"] == "69.06 [a]"
    assert table.notes == ("[a] RepDistiller README", "[b] resnet56 to resnet20, RepDistiller README")
    assert rows["the teacher itself"]["MSE minus CE, points"].startswith("−1.0 [")
    assert rows["mean over methods"]["p (Holm)"] == "–"


def test_one_seed_has_no_interval() -> None:
    table = method_tables(results(seeds=1))[0]
    assert table.rows[2][1] == "40.00 (n = 1)"


def test_flags_and_sources_stand_in_further_tables() -> None:
    tables = {table.title: table for table in method_tables(results()) if not table.default}
    assert tables["Teachers, seed by seed"].rows[0][-1] == "yes"
    settings = tables["Settings of the teachers that were tried"]
    assert settings.rows[0][-1] == "chosen, on the edge"
    assert settings.marked == {0}
    published = tables["Published figures"].rows
    assert ("MSE minus CE teacher", "largest gain", "+2.67 points", "Hamidi et al. 2024, Table 1") in published
    assert "Other teachers, minus CE, points" not in tables


def with_label(figure: Any, start: str) -> list[matplotlib.lines.Line2D]:
    return [line for line in figure.axes[0].get_lines() if str(line.get_label()).startswith(start)]


def test_the_figure_has_a_line_a_method_its_seeds_and_what_others_report() -> None:
    figure = difference_figure(results())
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["KD", "AT", "mean over methods"]
    (claim,) = with_label(figure, "+2.67")
    assert list(claim.get_xdata()) == [2.67, 2.67]  # type: ignore[arg-type]
    squares = [line for line in axes.get_lines() if line.get_marker() == "s" and len(line.get_xdata())]  # type: ignore[arg-type]
    assert [float(line.get_xdata()[0]) for line in squares] == pytest.approx([2.0, 1.0, 0.0])  # type: ignore[index]
    dots = [line for line in axes.get_lines() if line.get_marker() == "."]
    assert list(dots[0].get_xdata()) == pytest.approx([2.0, 2.1, 2.2])  # type: ignore[arg-type]
    assert svg_bytes(figure) == svg_bytes(difference_figure(results()))
    with pytest.raises(ValueError, match="differences"):
        difference_figure(results() | {"differences": []})


def test_shares_have_a_panel_a_method() -> None:
    found = results((0.25, 1.0))
    figure = share_figure(found)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["KD", "AT"]
    assert [item.name for item in method_illustrations(found)] == ["table1-differences", "table1-shares"]
    with pytest.raises(ValueError, match="two shares"):
        share_figure(results())
    assert len([table for table in method_tables(found) if table.default]) == 2


def test_the_page_has_a_section() -> None:
    page = build_report([results()])
    assert "It stands." in page
    assert "Table 1" in page
    assert "resnet20 to resnet8" in page
