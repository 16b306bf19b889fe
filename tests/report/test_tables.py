"""Tables: the same cells for the terminal and the page."""

from __future__ import annotations

import pytest
from example_results import quickstart, real

from bcpd.report.tables import summary_rows, summary_tables, tuning_notes, tuning_table


def test_a_table_for_every_network_and_checkpoint_in_the_order_stored() -> None:
    tables = summary_tables(quickstart()["summary"])
    assert [table.network for table in tables] == [
        "teacher (best score)",
        "teacher (last epoch)",
        "student (best score) of teacher (best score)",
    ]
    assert [table.default for table in tables] == [True, False, True]


def test_headlines_fall_back_on_the_checkpoint_that_is_there() -> None:
    tables = summary_tables(real()["summary"])
    assert [(table.network, table.default) for table in tables] == [
        ("teacher (last epoch)", True),
        ("student (last epoch) of teacher (last epoch)", True),
    ]


def test_cells_are_the_stored_numbers() -> None:
    summary = quickstart(gap=-0.01, spread=0.001)["summary"]
    teachers, _, students = summary_tables(summary)
    cells = dict(zip(teachers.columns, teachers.rows[1], strict=True))
    assert cells["CE"] == "0.0800 [0.0779, 0.0821]"
    assert cells["MSE"] == "0.0700 [0.0679, 0.0721]"
    assert cells["MSE minus CE"] == "−0.0100 [−0.0141, −0.0059]"
    cells = dict(zip(students.columns, students.rows[0], strict=True))
    assert cells["quantity"] == "accuracy, %"
    assert cells["exact p*"] == "60.15 [59.94, 60.36]"
    assert students.rows[1][students.columns.index("exact p*")] == "–"


def test_the_terminal_shows_the_cells_of_the_page() -> None:
    results = quickstart()
    header, *rows = summary_rows(results)
    assert header == ("network", "quantity", "CE", "MSE", "exact p*", "MSE minus CE", "p")
    assert {len(row) for row in rows} == {len(header)}
    tables = summary_tables(results["summary"])
    assert [row[2] for row in rows] == [cells[1] for table in tables for cells in table.rows]
    assert [row[0] for row in rows if row[0]] == [table.network for table in tables]


def test_a_choice_on_the_edge_is_a_warning() -> None:
    notes = tuning_notes(quickstart()["tuning"])
    assert notes[0] == ("CE teacher: learning rate 0.01; inside the grid.", False)
    assert notes[1][0].startswith("MSE teacher: learning rate 0.1; it lies on the edge of the grid")
    assert notes[1][1]
    assert tuning_notes(real()["tuning"])[0][0].startswith("CE teacher: learning rate 0.1 and weight decay 0.0005;")


def test_the_table_of_settings_marks_the_chosen_and_says_what_diverged() -> None:
    table = tuning_table(quickstart()["tuning"])
    assert table.marked == {0, 2}
    assert [row[5] for row in table.rows] == ["1.3000", "diverged", "0.6100"]
    assert [row[6] for row in table.rows] == ["chosen", "", "chosen, on the edge of the grid"]


def test_a_row_that_lacks_a_key_is_refused_by_name() -> None:
    summary = quickstart()["summary"]
    del summary[1]["checkpoint"]
    with pytest.raises(ValueError, match=r"a summary row must have .*; missing checkpoint in"):
        summary_tables(summary)
    with pytest.raises(ValueError, match="missing summary"):
        summary_rows({"kind": "verify"})
    with pytest.raises(ValueError, match=r"a tuning trial must have .*; missing chosen, edge"):
        tuning_table([{"arm": "ce", "learning_rate": 0.1}])
