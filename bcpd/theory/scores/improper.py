r"""What improper losses converge to, and the way back: closed-form minimisers (C3) and their corrections (C4).

Both are statements about :math:`\arg\min_q \sum_k p_k\,\ell(k, q)` for one x at a time. They are tried numerically on
random p, and on a table of logits (linear softmax on indicators of x, which contains every function on finite X) that
the production trainer fits with full batches to all pairs of a finite distribution, labels summed out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.losses import (
    LOSSES,
    confidence_penalty,
    focal,
    generalised_ce,
    hui_belkin,
    label_smoothing,
    tempered_ce,
)
from bcpd.seeds import derive
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.scores.improper_cases import (
    CASES,
    MORE,
    SEPARATION,
    T1,
    Case,
    minimised,
    numeric_minimiser,
    plain_rows,
    trained,
)

__all__ = ["CLAIMS"]


@dataclass(frozen=True)
class _Place:
    """Where a case is tried: how its logits are found, how well, and what it is called."""

    detail: str
    find: Callable[[], tuple[Tensor, Tensor]]
    bound: float


def _places(case: Case, settings: Settings) -> list[_Place]:
    """Numerical minimisation for every p, and the trainer's table. A user's finite mixture takes the place of both."""
    root = derive(settings.seed, "improper")
    if settings.mixture is not None:
        rows = _rows_of(settings)
        if rows is None or case.loss.name in ("mae", "crammer_singer"):
            return []
        return [_Place("each x", cache(partial(_at_rows, case, rows, root)), T1)]
    bound = 1e-4 if case.loss.name == "mae" else T1
    places = [_Place(f"each x, K={k}", partial(minimised, case, k, root), bound) for k in (3, 5)]
    if case.steps and settings.loss is None:
        places.append(_Place("trained", partial(trained, case, root, settings.trainer), case.reached))
    return places


def _at_rows(case: Case, rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return numeric_minimiser(case.loss, rows, seed), rows


def _rows_of(settings: Settings) -> Tensor | None:
    """Up to eight of the p* of a user's finite mixture, those without (nearly) impossible classes."""
    found = settings.finite([])
    if not found:
        return None
    rows = found[0].rows
    inside = rows[rows.amin(-1) > 1e-3][:8]
    return inside if len(inside) else None


def _cases(settings: Settings) -> Sequence[Case]:
    if settings.loss is not None:
        return [Case(settings.loss, steps=0)]
    return (*CASES, *MORE) if settings.full else CASES


def _world(settings: Settings) -> str:
    return "finite X" if settings.mixture is None else settings.mixture[0]


def _minimiser_trials(settings: Settings) -> list[Trial]:
    trials = []
    for case in _cases(settings):
        for place in _places(case, settings):
            detail = ", ".join(part for part in (case.name, place.detail) if part)
            for control in (None, "is_bayes"):
                # of a user's loss or mixture it is not known that the two differ
                if control is None or (settings.loss is None and settings.mixture is None):
                    run = partial(_reaches, case, place, control)
                    trials.append(Trial(_world(settings), run, control, case.loss.name, detail))
        if settings.loss is None and settings.mixture is None:
            detail = ", ".join(part for part in (case.name, "separation") if part)
            rows = plain_rows(derive(settings.seed, "improper"), 3)
            trials.append(Trial("finite X", partial(_separation, case, rows), loss=case.loss.name, detail=detail))
    return trials


def _reaches(case: Case, place: _Place, control: str | None) -> Outcome:
    """Largest difference of a probability between the minimum that was found and the one that is claimed."""
    z, rows = place.find()
    readout = case.readout
    claimed = rows if control == "is_bayes" else case.loss.minimiser(rows, readout)
    return Outcome(float((case.loss.readout(readout)(z) - claimed).abs().max()), place.bound)


def _separation(case: Case, rows: Tensor) -> Outcome:
    """The closed form itself lies apart from p*, at every p that is tried."""
    distance = simplex.squared_distance(case.loss.minimiser(rows, case.readout), rows)
    return Outcome(-float(distance.min()), -SEPARATION)


def _correction_trials(settings: Settings) -> list[Trial]:
    trials = []
    for case in _cases(settings):
        if case.loss.proper or not case.corrected:
            continue
        for place in _places(case, settings):
            detail = ", ".join(part for part in (case.name, place.detail) if part)
            for control in (None, "no_map", "wrong_constant"):
                known = settings.loss is None and settings.mixture is None
                if control is None or (known and (control == "no_map" or case.wrong is not None)):
                    run = partial(_recovers, case, place, control)
                    trials.append(Trial(_world(settings), run, control, case.loss.name, detail))
    return trials


def _recovers(case: Case, place: _Place, control: str | None) -> Outcome:
    """Largest difference between p* and the corrected minimum that was found."""
    z, rows = place.find()
    # a correction may enlarge an error of the minimum, but not tenfold for these p
    bound = 10 * place.bound
    if control == "no_map":
        return Outcome(float((case.loss.readout(case.readout)(z) - rows).abs().max()), bound)
    corrected = case.wrong.corrected if control == "wrong_constant" and case.wrong else case.loss.corrected
    return Outcome(float((corrected(case.loss.readout()(z)) - rows).abs().max()), bound)


CURVES = (
    (label_smoothing(0.2), None, "label smoothing 0.2", "a"),
    (focal(2.0), None, "focal, gamma 2", "b"),
    (generalised_ce(0.4), None, "generalised CE, 0.4", "c"),
    (tempered_ce(2.0), None, "temperature 2", "d"),
    (confidence_penalty(0.3), None, "confidence penalty 0.3", "e"),
    (hui_belkin(), "softmax", "Hui-Belkin by softmax", "f"),
    (LOSSES["mae"], None, "MAE", "control"),
    (LOSSES["crammer_singer"], None, "Crammer-Singer by softmax", "mse"),
)


def _minimiser_picture(settings: Settings) -> Picture:
    """For two classes, where every loss ends."""
    p, rows = _binary_rows()
    series = [_diagonal(p)]
    for loss, readout, name, colour in CURVES:
        reached = loss.minimiser(rows, readout)[:, 1]
        style = "dashed" if loss.correction is None else "line"
        series.append({"name": name, "x": _rounded(p), "y": _rounded(reached), "style": style, "colour": colour})
    caption = (
        "Two classes: what infinite data and a class without restriction make of each true probability. Only the "
        "diagonal is p*. All but the last two curves increase, so that they can be undone; the dashed ones have steps, "
        "and what a step covers is lost."
    )
    return _curves("Where improper losses end", caption, series)


def _correction_picture(settings: Settings) -> Picture:
    """The minimisers corrected with the right constant, and with a wrong one."""
    p, rows = _binary_rows()
    series = [_diagonal(p)]
    for case, (_, _, name, colour) in zip(CASES, CURVES, strict=False):
        if case.wrong is None:
            continue
        reached = case.loss.minimiser(rows)
        shown = {"x": _rounded(p[::10]), "y": _rounded(case.loss.corrected(reached)[::10, 1])}
        series.append({"name": name, **shown, "style": "points", "colour": colour})
        constant = ", ".join(f"{key} {value:g}" for key, value in case.wrong.parameters.items())
        wrong = {"x": _rounded(p), "y": _rounded(case.wrong.corrected(reached)[:, 1])}
        series.append({"name": f"undone with {constant}", **wrong, "style": "dashed", "colour": colour})
    caption = (
        "Two classes. Points: each minimiser after its own correction lies on the diagonal, p* itself. Dashed: the "
        "same minimiser after the correction for a constant that it was not trained with."
    )
    return _curves("The way back needs the right constant", caption, series)


def _binary_rows() -> tuple[Tensor, Tensor]:
    p = torch.linspace(0, 1, 101, dtype=torch.float64)
    return p, torch.stack([1 - p, p], -1)


def _diagonal(p: Tensor) -> dict[str, Any]:
    return {"name": "p*", "x": _rounded(p), "y": _rounded(p), "style": "line", "colour": "bayes"}


def _curves(title: str, caption: str, series: list[dict[str, Any]]) -> Picture:
    return {
        "kind": "curves",
        "title": title,
        "caption": caption,
        "x_label": "true probability of class 1",
        "y_label": "probability read out",
        "x_log": False,
        "y_log": False,
        "series": series,
        "lines": [],
    }


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "improper-minimiser",
        "C3",
        "Where improper losses end: not at p*, in closed form",
        "An improper loss makes of p* the row that its closed form says, for each x by itself and in a table of logits "
        "that the trainer fits; that row lies apart from p*.",
        r"\arg\min_q\, \sum_k p^*_k\, \ell(k, q) = m_\ell(p^*) \neq p^*",
        "Infinite data, a class without restriction. Not at a fixed point of m (for most losses the uniform row). The "
        "minimum of mae is approached at infinite logits; crammer_singer has ties where a class has exactly 1/2.",
        "Szegedy et al. 2016; Charoenphakdee et al. 2021; Zhang & Sabuncu 2018; Hui & Belkin 2021; Crammer & Singer "
        "2001; confidence penalty: derived here",
        {"is_bayes": "the minimiser is claimed to be p*"},
        _minimiser_trials,
        _minimiser_picture,
    ),
    Claim(
        "improper-correction",
        "C4",
        "The way back: corrected minimisers are p*",
        "The correction map of an improper loss recovers p* from the minimiser.",
        r"c_\ell(m_\ell(p^*)) = p^*",
        "Losses whose minimiser is a one-to-one function of p*, and the constant that the loss was trained with. mae "
        "and crammer_singer have none: different p* share one minimiser.",
        "Charoenphakdee et al. 2021, Theorem 11 (focal); Hui & Belkin 2021; else inverting the minimiser, derived here",
        {
            "no_map": "the minimiser is taken for p* as it is",
            "wrong_constant": "the correction is made for a constant that the loss was not trained with",
        },
        _correction_trials,
        _correction_picture,
    ),
)
