"""Every Python block of the README runs, and every command it shows parses."""

import re
import shlex
from pathlib import Path

import pytest

from bcpd import cli
from bcpd.report.ladder import ladder_tables
from bcpd.report.tables import markdown, summary_rows
from bcpd.runs import read_results

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("bcpd ")
]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_block_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert printed
    assert "nan" not in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str) -> None:
    assert callable(cli._parser().parse_args(shlex.split(command)[1:]).run)


def test_the_readme_shows_something() -> None:
    assert len(BLOCKS) >= 5
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("name", ["quickstart", "real-cifar100"])
def test_tables_are_those_of_the_stored_results(name: str) -> None:
    (results,) = read_results(Path(__file__).parents[1] / "experiments" / "results" / name / "results.json")
    assert markdown(summary_rows(results)) in README


def test_the_ladder_s_tables_are_those_of_the_stored_results() -> None:
    (results,) = read_results(Path(__file__).parents[1] / "experiments" / "results" / "ladder" / "results.json")
    for table in ladder_tables(results)[:2]:
        assert markdown([table.columns, *table.rows]) in README
