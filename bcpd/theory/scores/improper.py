r"""What improper losses converge to, and the way back: closed-form minimisers (C3) and their corrections (C4).

Both are statements about :math:`\arg\min_q \sum_k p_k\,\ell(k, q)` for one x at a time. They are tried numerically on
random p, and on a table of logits (linear softmax on indicators of x, which contains every function on finite X) that
the production trainer fits with full batches to all pairs of a finite distribution, labels summed out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
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
from bcpd.mixtures import FiniteMixture, LabelNoise
from bcpd.seeds import derive, generator
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.finite_tables import outcome_losses
from bcpd.theory.scores.improper_cases import (
    CASES,
    MORE,
    T1,
    Case,
    minimised,
    numeric_minimiser,
    plain_rows,
    trained,
)

__all__ = ["CLAIMS"]

EXACT = 1e-12


UNKNOWN = 1e-5
"""How close to p* a correction leads from a minimum within T1, of a user's loss or for a user's p*."""


@dataclass(frozen=True)
class _Place:
    """Where a case is tried: how its logits are found, how well, how well p* from them, and what it is called."""

    detail: str
    find: Callable[[], tuple[Tensor, Tensor]]
    bound: float
    recovered: float


def _places(case: Case, settings: Settings) -> list[_Place]:
    """Numerical minimisation for every p, and the trainer's table. A user's finite mixture takes the place of both."""
    root = derive(settings.seed, "improper")
    if settings.mixture is not None:
        rows = _rows_of(settings)
        if rows is None or case.loss.name in ("mae", "crammer_singer"):
            return []
        return [_Place("each x", cache(partial(_at_rows, case, rows, root)), T1, UNKNOWN)]
    recovered = case.recovered if settings.loss is None else UNKNOWN
    places = [_Place(f"each x, K={k}", partial(minimised, case, k, root), T1, recovered) for k in (3, 5)]
    if case.steps and settings.loss is None:
        places.append(_Place("trained", partial(trained, case, root, settings.trainer), case.reached, recovered))
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
    return Outcome(-float(distance.min()), -case.separation)


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
    if control == "no_map":
        return Outcome(float((case.loss.readout(case.readout)(z) - rows).abs().max()), place.recovered)
    corrected = case.wrong.corrected if control == "wrong_constant" and case.wrong else case.loss.corrected
    return Outcome(float((corrected(case.loss.readout()(z)) - rows).abs().max()), place.recovered)


# ----------------------------------------------------------------------------------- noise, temperature, tied modes


def _row_places(settings: Settings) -> list[tuple[str, Tensor]]:
    """Rows p* and what to call them; a user's finite mixture takes the place of the random ones."""
    if settings.mixture is not None:
        rows = _rows_of(settings)
        return [] if rows is None else [("each x", rows)]
    return [(f"each x, K={k}", plain_rows(derive(settings.seed, "improper"), k)) for k in (3, 5)]


def _noise_is_smoothing(rows: Tensor, rate: float, seed: int, control: str | None) -> Outcome:
    """Largest relative difference of the two risks at random logits: labels listed with their noisy probabilities."""
    n, k = rows.shape
    clean = FiniteMixture(torch.full((n,), 1 / n, dtype=torch.float64), rows)
    if control == "other_classes":
        other = (torch.ones(k, k, dtype=torch.float64) - torch.eye(k, dtype=torch.float64)) / (k - 1)
        noisy = LabelNoise(clean, (1 - rate) * torch.eye(k, dtype=torch.float64) + rate * other)
    else:
        noisy = LabelNoise.symmetric(clean, rate)
    labels = noisy.posterior(clean.points)
    smoothed = label_smoothing(rate / 2 if control == "another_rate" else rate)
    z = 2 * torch.randn(20, n, k, generator=generator(seed, "logits"), dtype=torch.float64)
    risk = (labels * outcome_losses(LOSSES["ce"], z)).sum(-1)
    claimed = (rows * outcome_losses(smoothed, z)).sum(-1)
    return Outcome(float(((risk - claimed).abs() / (1 + risk)).max()), EXACT)


def _noise_trials(settings: Settings) -> Sequence[Trial]:
    if settings.loss is not None:
        return []
    trials = []
    for (detail, rows), rate in product(_row_places(settings), (0.1, 0.6) if settings.full else (0.3,)):
        for control in (None, "another_rate", "other_classes") if settings.mixture is None else (None,):
            run = partial(_noise_is_smoothing, rows, rate, derive(settings.seed, "label-noise"), control)
            trials.append(Trial(_world(settings), run, control, "ce", f"rate={rate:g}, {detail}"))
    return trials


def _read_out(find: Callable[[], Tensor], rows: Tensor, temperature: float, control: str | None) -> Outcome:
    power = {"is_bayes": 1.0, "inverted": temperature}.get(control or "", 1 / temperature)
    claimed = rows**power / (rows**power).sum(-1, keepdim=True)
    return Outcome(float(((find() / temperature).softmax(-1) - claimed).abs().max()), T1)


def _read_out_trials(settings: Settings) -> Sequence[Trial]:
    if settings.loss is not None:
        return []
    trials = []
    for detail, rows in _row_places(settings):
        find = cache(partial(numeric_minimiser, LOSSES["ce"], rows, derive(settings.seed, "read-out")))
        for temperature in (0.5, 2.0, 4.0) if settings.full else (2.0,):
            for control in (None, "is_bayes", "inverted"):
                if control is None or settings.mixture is None:
                    run = partial(_read_out, find, rows, temperature, control)
                    trials.append(Trial(_world(settings), run, control, "ce", f"T={temperature:g}, {detail}"))
    return trials


def _tied(seed: int, num_classes: int, name: str, count: int = 20) -> Outcome:
    """The spread of a risk over random rows on the classes that tie for the mode, and what a mixture outside gains."""
    rows = plain_rows(seed, num_classes)
    top, place = rows.topk(2, -1)
    p = rows.scatter(-1, place, top.mean(-1, keepdim=True).expand_as(top))
    share = torch.rand(count, len(p), 1, generator=generator(seed, "face"), dtype=torch.float64)
    zero = torch.zeros(count, *p.shape, dtype=torch.float64)
    face = zero.scatter(-1, place.expand(count, -1, -1), torch.cat([share, 1 - share], -1))
    outside = (1 - 0.05) * face + 0.05 / num_classes
    risks, others = (
        (p * outcome_losses(LOSSES[name], rows.clamp(min=1e-300).log())).sum(-1) for rows in (face, outside)
    )
    spread = float((risks.amax(0) - risks.amin(0)).max())
    return Outcome(max(spread, float((risks.amax(0) - others.amin(0)).max())), EXACT)


def _tie_trials(settings: Settings) -> Sequence[Trial]:
    if settings.loss is not None or settings.mixture is not None:
        return []
    seed = derive(settings.seed, "tied modes")
    return [
        Trial("finite X", partial(_tied, seed, k, name), control, name, f"two modes, K={k}")
        for k in (3, 5)
        for name, control in (("mae", None), ("ce", "proper"))
    ]


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
        "Infinite data, a class without restriction. Not at a fixed point of m (for most losses the uniform row). To "
        "1e-6, but trained to 1e-2 for mae, whose minimum lies at infinite logits, and for crammer_singer, whose "
        "minimum is a kink with ties where a class has exactly 1/2. Apart by 1e-3 in squared distance at the p* tried; "
        "1e-4 and 5e-4 for focal with gamma 0.5 and 1.",
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
        "and crammer_singer have none: different p* share one minimiser. To 1e-6, but 1e-4 for generalised_ce with "
        "exponent 0.7, whose correction is steep where the minimiser is nearly 0, and 1e-5 for a loss or mixture of "
        "one's own.",
        "Charoenphakdee et al. 2021, Theorem 11 (focal); Hui & Belkin 2021; else inverting the minimiser, derived here",
        {
            "no_map": "the minimiser is taken for p* as it is",
            "wrong_constant": "the correction is made for a constant that the loss was not trained with",
        },
        _correction_trials,
        _correction_picture,
    ),
    Claim(
        "label-noise-is-smoothing",
        "C3",
        "Symmetric label noise is label smoothing",
        "The cross-entropy expected under symmetric label noise is the smoothed cross-entropy on clean labels, at the "
        "same rate and for every q; so both end at the same row.",
        r"\mathbb{E}_{\tilde y}[-\log q_{\tilde y}] = "
        r"\mathbb{E}_y\left[-\sum_k ((1-\epsilon)\,e_{y,k} + \frac{\epsilon}{K}) \log q_k\right]",
        "A noisy label is drawn anew from all K classes with probability epsilon. In expectation: the variance of the "
        "gradients differs.",
        "derived here: the loss is linear in its target",
        {
            "another_rate": "smoothing is by half the rate of the noise",
            "other_classes": "the noisy label is drawn from the other K - 1 classes",
        },
        _noise_trials,
    ),
    Claim(
        "temperature-at-read-out",
        "C3",
        "Trained at temperature 1, read at T",
        "Logits that minimise the cross-entropy and are read at temperature T give the row proportional to the power "
        "1/T of p*, not p*.",
        r"\mathrm{softmax}(z / T) \propto (p^*)^{1/T}, \quad z = \arg\min_z\, \mathbb{E}[-\log q_y]",
        "Infinite data, a class without restriction, p* positive; p* itself at T = 1, and where p* is uniform.",
        "derived here",
        {"is_bayes": "the row is claimed to be p*", "inverted": "the row is claimed to be proportional to p* to the T"},
        _read_out_trials,
    ),
    Claim(
        "mae-ties",
        "C3",
        "Where modes tie, the mean absolute error leaves them open",
        "Where two classes tie for the mode, every distribution on the two has the least mean absolute error.",
        r"\sum_k p^*_k \|e_k - q\|_1 = 2\,(1 - \langle p^*, q\rangle) = 2\,(1 - \max_k p^*_k) "
        r"\quad \text{for all } q \text{ on } \arg\max p^*",
        "Two classes tie; compared with each other, and with their mixtures with the uniform row.",
        "Ghosh, Kumar & Sastry 2017; derived here",
        {"proper": "the loss is the cross-entropy"},
        _tie_trials,
    ),
)
