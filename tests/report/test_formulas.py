"""Formulas: typeset to the same text every time, without colours or fonts of their own; every claim's can be."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from bcpd.report.formulas import formula, formula_svg
from bcpd.theory import CLAIMS, Claim

RISK = r"\mathbb{E}\,\ell(y, q) = \mathbb{E}\,H_\ell(p^*)"


def numbers(drawing: str) -> list[int]:
    return [int(value) for value in re.findall(r"-?\d+", re.findall(r' d="([^"]*)"', drawing)[0])]


@pytest.mark.slow
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_every_claim_can_be_typeset(claim: Claim) -> None:
    drawing = ElementTree.fromstring(formula_svg(claim.formula))
    assert drawing.get("aria-label") == claim.formula


def test_a_formula_takes_the_colour_of_the_text_and_needs_no_font() -> None:
    drawing = formula_svg(RISK)
    assert not re.search(r"fill=|stroke=|<text|font|color", drawing)
    assert set(re.findall(r' d="([^"]*)"', drawing)[0]) <= set("mlqcz -0123456789")


def test_its_outline_fills_its_frame() -> None:
    drawing = formula_svg(r"\frac{p}{q}")
    left, top, width, height = (int(value) for value in re.findall(r'viewBox="([^"]*)"', drawing)[0].split())
    commands = re.findall(r"([mlqcz])([^mlqcz]*)", re.findall(r' d="([^"]*)"', drawing)[0])
    at = start = (0, 0)
    seen = []
    for letter, text in commands:
        values = [int(value) for value in re.findall(r"-?\d+", text)]
        if letter == "z":
            at = start
            continue
        at = (at[0] + values[-2], at[1] + values[-1])
        start = at if letter == "m" else start
        seen.append(at)
    across, down = zip(*seen, strict=True)
    assert left <= min(across) < left + 40
    assert left + width - 40 < max(across) <= left + width
    assert top <= min(down) < top + 40
    assert top + height - 40 < max(down) <= top + height


def test_the_same_text_whatever_the_users_settings() -> None:
    plain = formula_svg(RISK)
    with mpl.rc_context({"mathtext.fontset": "dejavusans", "mathtext.default": "bf", "font.size": 30}):
        assert formula_svg(RISK) == plain
    assert formula_svg(RISK.replace("q", "r")) != plain


def test_a_star_as_an_exponent_stands_close() -> None:
    assert numbers(formula_svg("p^*q")) == numbers(formula_svg(r"p^{\ast}q"))


def test_what_is_summed_stands_apart_from_the_sum() -> None:
    assert numbers(formula_svg(r"\sum_k q_k")) == numbers(formula_svg(r"\sum_k\,q_k"))
    assert numbers(formula_svg(r"\sum_{k}^{K} q")) == numbers(formula_svg(r"\sum_{k}^{K}\,q"))


def test_fractions_that_stand_free_are_large_and_others_small() -> None:
    assert numbers(formula_svg(r"\frac{a}{b} c")) == numbers(formula_svg(r"\dfrac{a}{b}\,c"))
    assert numbers(formula_svg(r"\left(\frac{a}{b}\right)")) == numbers(formula_svg(r"\left(\dfrac{a}{b}\,\right)"))
    for inside in (r"\sqrt{\frac{a}{b}}", r"x^{\frac{a}{b}}", r"[\frac{a}{b}, 1]"):
        assert numbers(formula_svg(inside)) != numbers(formula_svg(inside.replace("frac", "dfrac")))


def test_functions_stand_apart_from_their_factor() -> None:
    assert numbers(formula_svg(r"2\log x")) == numbers(formula_svg(r"2\,\log x"))
    assert numbers(formula_svg(r"(\log x)")) != numbers(formula_svg(r"(\,\log x)"))


def test_parts_of_a_formula_are_drawings_of_their_own() -> None:
    assert formula(r"a = b \qquad c = d,\quad e").count("<svg") == 3
    assert formula(r"\frac{a \qquad b}{c}").count("<svg") == 1
    assert formula(r"\{a\} \qquad b").count("<svg") == 2
    assert formula(r"\left( a \qquad b \right)").count("<svg") == 1


def test_parts_share_a_line_of_writing() -> None:
    tall, flat = re.findall(r'viewBox="([^"]*)"', formula(r"\frac{a}{b_k} \qquad x"))
    assert tall.split()[1::2] == flat.split()[1::2]
    assert tall.split()[1::2] != re.findall(r'viewBox="([^"]*)"', formula("x"))[0].split()[1::2]


@pytest.mark.parametrize("tex", [r"\unknowncommand{x}", r"\frac{a}", "a $ b", " ", r"\left( a"])
def test_what_cannot_be_typeset_is_shown_as_it_is(tex: str) -> None:
    with pytest.raises(ValueError):
        formula_svg(tex)
    assert formula(tex) == f"<code>{tex}</code>"


def test_tex_cannot_become_markup() -> None:
    assert "<b>" not in formula("a <b> c $")
    assert 'aria-label="a &lt; b"' in formula("a < b")
