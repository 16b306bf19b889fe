"""The page: one file, everything in it from the data, nothing fetched, nothing that does not parse."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from example_results import quickstart, real, verify

from bcpd.report import build_report, embedding, sections, write_report
from bcpd.report.style import svg_bytes
from bcpd.report.summary_figures import arms_figure

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Outline(HTMLParser):
    """Open tags, tags that do not match, attributes that load something, and the text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "poster", "action") or (name == "href" and tag == "link"):
                self.loaded.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser


def words(page: str) -> str:
    return " ".join(" ".join(outline(page).text).replace("\N{NO-BREAK SPACE}", " ").split())


@cache
def whole() -> str:
    return build_report([verify(), quickstart(), real()])


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, and most tests are about words."""
    monkeypatch.setattr(sections, "illustrations", lambda results: [])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and not drawn."""
    monkeypatch.setattr(sections, "data_uri", lambda figure: "data:,")


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    parsed = outline(whole())
    assert parsed.open == []
    assert parsed.wrong == []
    assert parsed.loaded
    assert all(source.startswith(("data:image/svg+xml,", "data:image/png;base64,")) for source in parsed.loaded)
    page = re.sub(r'src="[^"]*"', "", whole())
    assert not re.search(r"https?://|url\(|@import", page)
    drawings = [unquote(source) for source in parsed.loaded if "svg" in source]
    for drawing in drawings:  # names of namespaces are addresses too
        assert not re.search(
            r"https?://", re.sub(r"xmlns(:xlink)?='http://www.w3.org/(1999/xlink|2000/svg)'", "", drawing)
        )
        assert set(re.findall(r"href='(.)", drawing)) <= {"#", "d"}
    assert not {"script", "iframe", "object", "link"} & parsed.tags
    assert len(set(parsed.ids)) == len(parsed.ids)


@pytest.mark.slow
def test_the_page_and_its_figures_are_the_same_bytes_twice() -> None:
    assert whole() == build_report([verify(), quickstart(), real()])


def test_every_result_has_its_section_in_a_fixed_order(without_figures: None) -> None:
    page = build_report([real(), {**quickstart(), "title": "First"}, {**quickstart(), "title": "Second"}, verify()])
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["Verification: the claims and their controls", "First", "Second", "Images", "Conventions"]


@pytest.mark.parametrize(
    ("gap", "spread", "sentence"),
    [
        (
            -0.01,
            0.001,
            "The MSE teacher was closer to p* in MSE (fresh points) : difference −0.0100 [−0.0141, −0.0059]",
        ),
        (0.01, 0.001, "The MSE teacher was farther from p* in MSE (fresh points) : difference 0.0100 [0.0059, 0.0141]"),
        (
            0.001,
            0.01,
            "Neither teacher was shown to be closer to p* in MSE (fresh points) : difference 0.001 [−0.040, 0.042]",
        ),
    ],
)
def test_verdicts_turn_with_the_data(without_figures: None, gap: float, spread: float, sentence: str) -> None:
    text = words(build_report([quickstart(gap, spread)]))
    assert sentence in text
    assert text.count("The MSE teacher was closer to p* in MSE") == (2 if gap < 0 else 0)


def test_the_tally_counts_both_sides(without_figures: None) -> None:
    assert "the MSE arm was better in 7, the CE arm in 0, and 0 had an interval" in words(build_report([quickstart()]))
    assert "the MSE arm was better in 0, the CE arm in 7, and 0 had" in words(build_report([quickstart(0.01)]))
    assert "in 0, the CE arm in 0, and 7 had" in words(build_report([quickstart(0.001, 0.01)]))


def test_a_direction_that_turns_with_the_checkpoint_is_said(without_figures: None) -> None:
    assert "The direction depends" not in words(build_report([quickstart()]))
    results, other = quickstart(-0.01), quickstart(0.01)
    results["summary"] = [
        turned if row["checkpoint"] == "last" else row
        for row, turned in zip(results["summary"], other["summary"], strict=True)
    ]
    text = words(build_report([results]))
    assert (
        "only MSE is favoured for teacher (best score), student (best score) of teacher (best score); "
        "only CE for teacher (last epoch)." in text
    )


def test_references_and_tuning_are_told_from_the_data(without_figures: None) -> None:
    results = quickstart()
    text = words(build_report([results]))
    assert "The best possible accuracy is 61.00 % (1 minus the Bayes error, monte carlo, standard error 0.05)." in text
    assert "A student taught by p* itself reached an accuracy of 60.15 [59.94, 60.36] %." in text
    assert "MSE teacher: learning rate 0.1; it lies on the edge of the grid" in text
    results["bayes_error"] = {"value": 0.25, "stderr": 0.0, "method": "exact"}
    results["tuning"][2]["edge"] = False
    text = words(build_report([results]))
    assert "The best possible accuracy is 75.00 % (1 minus the Bayes error, exact)." in text
    assert "on the edge of the grid, a better one" not in text


@pytest.mark.parametrize("make", [verify, quickstart, real])
def test_what_is_not_stored_is_said(without_figures: None, make: Callable[[], dict[str, Any]]) -> None:
    results = {key: value for key, value in make().items() if key in sections.REQUIRED[make()["kind"]] or key == "kind"}
    text = words(build_report([results]))
    assert "Provenance: not stored with these results." in text
    if results["kind"] == "verify":
        assert "The matrix of claims and controls is not stored" in text
    else:
        assert "No tuning is stored with these results." in text
        assert "Specification: not stored" in text


def test_empty_parts_are_said(undrawn: None) -> None:
    empty = {**quickstart(), "rows": [], "paths": [], "summary": [], "tuning": []}
    text = words(build_report([empty]))
    assert "No paired comparison of an MSE and a CE arm in these results." in text
    assert "The summary is empty." in text
    assert text.count("No figure: ") == 3
    nothing = words(build_report([{**verify(), "checks": [], "pictures": {}}]))
    assert "Not verified." in nothing
    assert "There are no checks in these results." in nothing


def test_numbers_that_are_not_finite_are_words(undrawn: None) -> None:
    results = quickstart()
    results["summary"][1]["arms"]["mse"] = {"mean": "nan", "low": "nan", "high": "nan"}
    results["summary"][1]["difference"] = {"mean": "nan", "low": "nan", "high": "nan", "p": "nan"}
    results["rows"][0]["fresh_mse"] = "nan"
    results["paths"][0]["metrics"]["fresh_kl"][1][0] = "inf"
    results["bayes_error"]["stderr"] = "nan"
    text = words(build_report([results]))
    assert "Which teacher was closer to p* in MSE cannot be said (fresh points) : difference undefined" in text
    assert not re.search(r"\b(nan|inf)\b", text, re.IGNORECASE)


def test_text_in_results_cannot_become_markup(without_figures: None) -> None:
    page = build_report([{**real(), "title": "<script>alert(1)</script>", "notes": ["a < b & c"]}])
    assert "script" not in outline(page).tags
    assert html.escape("<script>alert(1)</script>") in page
    assert "a &lt; b &amp; c" in page


def test_a_figure_too_large_as_drawing_is_embedded_as_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = arms_figure(real()["summary"][:1])
    size = len(embedding.compact(svg_bytes(figure).decode()))
    monkeypatch.setattr(embedding, "LARGEST_SVG", size)
    assert embedding.data_uri(figure).startswith("data:image/svg+xml,")
    monkeypatch.setattr(embedding, "LARGEST_SVG", size - 1)
    assert embedding.data_uri(figure).startswith("data:image/png;base64,")


def test_an_embedded_drawing_is_smaller_and_the_same_to_a_hundredth_of_a_point() -> None:
    figure = arms_figure(real()["summary"])
    before = svg_bytes(figure).decode()
    uri = str(embedding.data_uri(figure))
    after = unquote(uri.removeprefix("data:image/svg+xml,"))
    assert not set('"<>#%') & set(re.sub("%[0-9A-F]{2}", "", uri))
    assert len(uri) < len(before)
    old, new = (list(ElementTree.fromstring(text).iter()) for text in (before, after))
    old = [element for element in old if "metadata" not in element.tag and "rdf" not in element.tag]
    old = [element for element in old if "creativecommons" not in element.tag and "purl.org" not in element.tag]
    assert [element.tag for element in old] == [element.tag for element in new]
    for one, other in zip(old, new, strict=True):
        outline, shorter = (re.findall(r"-?\d+(?:\.\d+)?", element.get("d", "")) for element in (one, other))
        assert [float(value) for value in shorter] == pytest.approx([float(value) for value in outline], abs=0.0051)
        others = [{**element.attrib, "d": ""} for element in (one, other)]
        assert others[0] == others[1]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "at least one result"),
        ({"kind": "verify"}, "a sequence of at least one result, received dict"),
        (
            [{"kind": "toy"}],
            r"kind among \['figure1', 'ladder', 'quickstart', 'real', 'tables', 'teachers', 'verify', "
            r"'when-mse-wins'\], received 'toy'",
        ),
        ([{}], "received None"),
        ([{"kind": "real", "title": "t", "rows": []}], "missing question, summary"),
        ([{**verify(), "checks": [{"id": "x"}]}], "a check must have"),
        ([{**quickstart(), "summary": [{"quantity": "fresh_mse"}]}], "a summary row must have"),
    ],
)
def test_what_is_no_result_is_refused_by_name(results: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_report(results)


def test_the_page_is_written_whole(tmp_path: Path, without_figures: None) -> None:
    path = tmp_path / "folder" / "report.html"
    write_report([real()], path)
    assert path.read_text(encoding="utf-8") == build_report([real()])
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def console(page: str, folder: Path, chromium: str) -> list[str]:
    """What a browser that opens the page from disk, without a network, writes to its console; the page must show."""
    folder.mkdir()
    (folder / "page.html").write_text(page, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--window-size=1280,3000"]
    flags += [f"--user-data-dir={folder / 'profile'}", f"--screenshot={folder / 'page.png'}"]
    command = [chromium, *flags, (folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (folder / "page.png").stat().st_size > 50_000
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
def test_a_browser_shows_the_page_without_a_request_or_an_error(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine: the page is not opened")
    assert console(whole(), tmp_path / "right", chromium) == []
    # the page's own policy refuses what it must not load, and says so: the test would see a request
    wrong = whole().replace("</main>", '<img src="http://example.invalid/a.png"></main>')
    assert len(console(wrong, tmp_path / "wrong", chromium)) == 1
