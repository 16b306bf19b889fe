"""The verification's part of the page: the verdict follows from the checks, and every claim says what it found."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from example_results import check, mutant, verify

from bcpd.report import build_report, sections
from bcpd.report.chapters import CHAPTERS, chapters, described
from bcpd.report.verification import verification
from bcpd.theory import CLAIMS


class Text(HTMLParser):
    """The text of a piece of the page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


def words(piece: str) -> str:
    parser = Text()
    parser.feed(piece)
    return " ".join(" ".join(parser.pieces).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, and these tests are about words."""
    monkeypatch.setattr(sections, "illustrations", lambda results: [])


def article(results: dict[str, Any], claim: str) -> str:
    """The section of one claim, in words."""
    (found,) = re.findall(rf'<article class="[^"]*" id="{claim}">.*?</article>', build_report([results]), re.DOTALL)
    return words(found)


def changed(results: dict[str, Any], id: str, **values: Any) -> dict[str, Any]:
    (entry,) = [entry for entry in results["checks"] if entry["id"] == id]
    entry |= values
    return results


def test_the_verdict_says_what_was_tried_and_how_it_came_out() -> None:
    text = words(build_report([verify()]))
    roles = [entry["role"] for entry in verify()["checks"] if entry["control"] is None or entry["role"] == "control"]
    claims, controls = roles.count("claim"), roles.count("control")
    harmless = len(verify()["checks"]) - claims - controls
    assert "Verified. All 5 claims hold wherever they were tried, and all their wrong versions fail." in text
    assert f"Checks of claims {claims} of {claims} hold" in text
    assert f"Negative controls {controls} of {controls} fail, as wrong versions must" in text
    assert f"Wrong versions without bearing {harmless} of {harmless} leave the claim standing" in text
    assert "Seeded mistakes 2 of 2 turn a check red Level quick Seed 0" in text
    assert "at most 2.3×10⁻⁵ over 40 Monte Carlo numbers, within the budget of 0.001" in text
    assert "What came out otherwise" not in text
    assert "does not follow" not in text


def test_a_claim_that_fails_turns_the_verdict() -> None:
    broken = changed(verify(), "posterior-calibration/finite", value=6.5, holds=False)
    text = words(build_report([broken]))
    assert "Not verified. 1 of 5 claims did not come out as stated." in text
    assert "The stored verdict is “ok” and does not follow from what is stored." in text
    assert "What came out otherwise check value bound outcome posterior-calibration/finite" in text
    claim = article(broken, "posterior-calibration")
    assert "Title of posterior-calibration fails" in claim
    assert "It failed in 1 of 1 checks; the worst is a value of 6.5 against a bound of 5 (finite)." in claim


def test_a_control_that_passes_turns_the_verdict() -> None:
    broken = changed(verify(), "posterior-calibration/finite/off", value=1.0, holds=True)
    assert "Not verified." in words(build_report([broken]))
    claim = article(broken, "posterior-calibration")
    assert "Title of posterior-calibration holds, but a control passes" in claim
    assert "Its wrong versions passed in 1 of 1 checks, as they must not." in claim
    assert "0 of 1 fail" in claim


def test_a_mistake_that_survives_turns_the_verdict_and_stands_on_top() -> None:
    results = {**verify(), "ok": False, "mutants": [*verify()["mutants"], mutant("survivor", 1e-16, killed=False)]}
    page = build_report([results])
    text = words(page)
    assert "Not verified. All 5 claims hold wherever they were tried" in text
    assert "1 seeded mistake went unnoticed." in text
    assert "does not follow" not in text
    table = page[page.index('id="mutants"') :]
    assert table.index("survivor") < table.index("halved-distance")
    assert re.search(r'<tr class="bad"><th scope="row"><code>survivor', table)
    assert (
        "survivor bcpd.simplex:kl what is wrong with survivor risk-identity/ce/finite X 1.0×10⁻¹⁶ 10⁻¹² survived"
        in text
    )
    assert "halved-distance bcpd.simplex:kl what is wrong with halved-distance" in text
    assert "0.50 10⁻¹² 5.0×10¹¹ bounds" in text
    assert "∞ 10⁻¹² infinite" in text


def test_a_budget_that_is_overrun_is_marked() -> None:
    results = {**verify(), "false_alarm": {"bound": 2e-3, "budget": 1e-3, "comparisons": 3500}}
    page = build_report([results])
    assert '<dd class="bad">at most 0.0020 over 3500 Monte Carlo numbers, beyond the budget of 0.001' in page
    nothing = {**verify(), "false_alarm": {"bound": 0.0, "budget": 1e-3, "comparisons": 0}}
    assert "Chance of a false alarm none: nothing here is left to chance" in words(build_report([nothing]))


def test_what_the_user_asked_for_is_said() -> None:
    text = words(build_report([{**verify(), "only": ["C8", "own-metric"], "mixture": "mine", "loss": "my_loss"}]))
    assert "Claims asked for C8, own-metric" in text
    assert "Mixture mine, instead of the default worlds" in text
    assert "Loss my loss, instead of the default losses" in text


def test_the_contents_lead_to_every_claim_chapter_by_chapter() -> None:
    page = build_report([verify()])
    table = page[page.index('id="contents"') : page.index("</table>")]
    order = ["risk-identity", "excess-risk-l2", "own-metric", "posterior-calibration", "your-own"]
    assert re.findall(r'<th scope="row"><a href="#([^"]*)"', table) == order
    assert re.findall(r'<article class="claim good" id="([^"]*)"', page) == order
    assert all(f'id="{target}"' in page for target in re.findall(r'href="#([^"]*)"', page))
    text = words(table)
    assert (
        "C8 Title of excess-risk-l2 holds attains 99.97 % nothing of its bound 1 of 1 nearest: 2.0×10⁹ bounds" in text
    )
    assert "C99 Title of your-own holds 4.0×10⁻⁶ of its bound 1 of 1 nearest: wrong sign" in text
    assert "Further claims" in text


def test_a_claim_says_everything_that_is_known_about_it() -> None:
    text = article(verify(), "excess-risk-l2")
    assert text.startswith("C8 Title of excess-risk-l2 holds excess-risk-l2 in words.")
    assert "Where it holds Where excess-risk-l2 holds. Source Source of excess-risk-l2" in text
    assert "bcpd verify --only excess-risk-l2" in text
    assert "It held in both checks, with nothing of a bound used." in text
    assert "The inequality attains 99.97 % of the bound that it states (finite X, K=2)." in text
    assert "Its wrong version fails in both checks; the nearest miss, constant one, is 2.0×10⁹ times its bound" in text
    assert "world detail value bound share used standard error attains" in text
    assert "finite X K=5 −0.29 10⁻¹² 0 0.0010 70 %" in text
    assert "constant_one the constant is 1 2 of 2 fail 2.0×10⁹ bounds finite X, K=2" in text
    assert "loss" not in text.split("How close")[1].split("What the wrong")[0]
    chance = article(verify(), "posterior-calibration")
    assert "Left to chance 40 Monte Carlo numbers, each judged at 5 standard errors" in chance
    assert "It held in its one check; the closest used 0.42 of its bound (finite)." in chance


def test_wrong_versions_without_bearing_are_apart() -> None:
    text = article(verify(), "risk-identity")
    wrong, harmless = text.split("Without bearing on this claim")
    assert "swapped_arguments the divergence is taken the wrong way round, d(q, p*) 1 of 1 fail" in wrong or (
        "swapped_arguments" in wrong
    )
    assert "swapped_arguments (" in harmless
    assert "MSE" in harmless
    broken = changed(verify(), "risk-identity/mse/finite X/swapped_arguments", value=1.0, holds=False)
    assert "breaks where it should not" in article(broken, "risk-identity")


def test_repetitions_are_shown_as_one_row() -> None:
    results = verify()
    again = check("posterior-calibration", 3.0, 5.0, world="finite", comparisons=40).record()
    results["checks"].append({**again, "id": again["id"] + "#2"})
    text = article(results, "posterior-calibration")
    assert "finite 3.0 5 0.60 2 of 2 hold" in text
    assert "Every row is the worst of its tries" in text


def test_the_formula_is_drawn_in_the_page() -> None:
    page = build_report([verify()])
    assert page.count('<svg class="formula"') == 5
    results = verify()
    results["claims"][0]["formula"] = r"\nonsense{<b>}"
    page = build_report([results])
    assert page.count('<svg class="formula"') == 4
    assert r"<code>\nonsense{&lt;b&gt;}</code>" in page


def test_the_matrix_has_a_column_for_every_loss_that_was_tried() -> None:
    results = verify()
    results["matrix"] = {"risk-identity": {"mae": dict.fromkeys(("ce", "mse", "power", "untried"), "fails")}}
    results["checks"] = [
        check("risk-identity", value, loss=loss, control="mae").record()
        for loss, value in (("ce", 1.0), ("mse", 1e-15), ("power", 1.0))
    ]
    matrix = verification(results)["matrix"]
    assert matrix["claims"] == [("risk-identity", ["CE", "MSE", "power"])]
    (row,) = matrix["rows"]
    assert [cell["state"] for cell in row["cells"]] == ["fails", "unexpected", "fails"]
    assert [mark for mark, _, _ in matrix["legend"]] == ["✕", "‼"]


def test_a_matrix_cell_that_no_check_tried_is_said() -> None:
    results = verify()
    results["checks"] = [entry for entry in results["checks"] if entry["control"] != "focal"]
    assert "? stated, but tried by no check" in words(build_report([results]))
    assert "tried by no check" not in words(build_report([verify()]))


def test_every_number_of_the_list_has_one_chapter_and_no_claim_is_lost() -> None:
    numbers = [number for _, _, inside in CHAPTERS for number in inside]
    assert {f"C{number}" for number in range(1, 23)} <= set(numbers)
    assert len(numbers) == len(set(numbers))
    stored = [{"id": claim.id, "number": claim.number} for claim in CLAIMS]
    found = chapters(described({"claims": stored}, []))
    assert sum(len(inside) for _, _, inside in found) == len(CLAIMS)


def test_an_older_file_makes_a_page() -> None:
    old = ("id", "statement", "world", "loss", "role", "value", "bound", "holds")
    results = {key: verify()[key] for key in ("kind", "ok", "matrix", "controls")}
    results["checks"] = [
        {key: entry[key] for key in old} for entry in verify()["checks"] if entry["claim"] == "risk-identity"
    ]
    results["statements"] = {"risk-identity": "The risk is a constant plus a distance."}
    page = build_report([results])
    text = article(results, "risk-identity")
    assert text.startswith("risk-identity holds The risk is a constant plus a distance.")
    assert "dropped_constant the constant E H(p*) is left out" in text
    assert "Verified. The claim holds wherever it was tried" in words(page)
    assert "Seeded mistakes" not in words(page)


def test_several_verifications_have_ids_of_their_own() -> None:
    page = build_report([verify(), verify()])
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert all(f'id="{target}"' in page for target in re.findall(r'href="#([^"]*)"', page))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"claims": [{"number": "C1"}]}, "a claim must have id"),
        ({"mutants": [{"name": "x"}]}, "a mutant must have .*missing target"),
        ({"false_alarm": {"bound": 1.0}}, "the false-alarm bound must have .*missing budget"),
    ],
)
def test_what_is_no_part_is_refused_by_name(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_report([{**verify(), **part}])
