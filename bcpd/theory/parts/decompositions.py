r"""A distance to p* in two parts: calibration and grouping over x, bias and variance over training draws.

Both hold for every Bregman divergence, the truth first, and both hang on the right mean: over x the arithmetic mean of
p* (the divergence is affine in its first argument), over draws the mean of q in the coordinates :math:`\nabla G(q)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bcpd.losses import LOSSES, Loss
from bcpd.measure import distance_of_probabilities
from bcpd.measure.decomposition import mean_posterior
from bcpd.mixtures import FiniteMixture
from bcpd.seeds import derive
from bcpd.tensors import ArrayLike, probability_rows
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.finite_tables import default_tables, random_rows, random_table, world_name

__all__ = [
    "CLAIMS",
    "DUAL_MEANS",
    "arithmetic_mean",
    "calibration_and_grouping",
    "geometric_mean",
    "power_mean",
    "spherical_mean",
]

EXACT = 1e-12
SIZES = ((8, 2), (12, 4))
PROPER = ("ce", "mse", "spherical", "power", "ranked_probability")
SYMMETRIC = ("mse", "ranked_probability")
TEMPERATURES = (0.25, 0.5, 2.0, 4.0)

Divergence = Callable[[ArrayLike, ArrayLike], Tensor]


def calibration_and_grouping(
    weights: Tensor, bayes: Tensor, q: Tensor, divergence: Divergence, centre: Tensor | None = None
) -> tuple[float, float]:
    r""":math:`\mathbb E\,D(c, q)` and :math:`\mathbb E\,D(p^*, c)` with :math:`c = \mathbb E[p^* | q]`, on a finite X.

    They add up to :math:`\mathbb E\,D(p^*, q)` for any Bregman divergence D: given q, :math:`\mathbb E[D(p^*, q) -
    D(c, q) | q] = \mathbb E[G(p^*) - G(c) | q] = \mathbb E[D(p^*, c) | q]`, the terms linear in p* having the mean
    that they have at c (Murphy 1973; Broecker 2009; Kull & Flach 2015).

    Args:
        weights: ``(n,)``; bayes, q: ``(n, K)``.
        divergence: ``d(p, q)``, truth first, e.g. ``LOSSES["ce"].divergence``.
        centre: another c, for wrong versions.
    """
    if centre is None:
        centre = mean_posterior(bayes.log(), q.log(), weights)
    return float(weights @ divergence(centre, q)), float(weights @ divergence(bayes, centre))


def arithmetic_mean(rows: ArrayLike, weights: Tensor) -> Tensor:
    """Mean over the first axis: ``(S, ..., K)`` and ``(S,)`` -> ``(..., K)``. For quadratic scores."""
    mean: Tensor = torch.tensordot(weights, probability_rows(rows, "rows"), dims=1)
    return mean


def geometric_mean(rows: ArrayLike, weights: Tensor) -> Tensor:
    r"""The normalised geometric mean :math:`q^\circ \propto \exp \mathbb E \log q`, for KL (Heskes 1998)."""
    mean: Tensor = torch.tensordot(weights, probability_rows(rows, "rows").log(), dims=1)
    return mean.softmax(-1)


def _raised(unit: Tensor, weights: Tensor) -> Tensor:
    """The mean u of unit vectors, raised by the number c >= 0 that makes u + c a unit vector again."""
    u = torch.tensordot(weights, unit, dims=1)
    total, missing = u.sum(-1, keepdim=True), (1 - u.square().sum(-1, keepdim=True)).clamp(min=0)
    raised: Tensor = u + missing / ((total.square() + u.shape[-1] * missing).sqrt() + total)
    return raised


def spherical_mean(rows: ArrayLike, weights: Tensor) -> Tensor:
    r"""The mean of the spherical score: :math:`q^\circ \propto u + c` with :math:`u = \mathbb E[q / \|q\|]`.

    Derived here: :math:`\nabla G(q) = q / \|q\|` counts within the simplex up to a multiple of (1, ..., 1), so
    :math:`u + c` must have norm 1 for a number c, the positive root of :math:`K c^2 + 2 c \sum_k u_k + \|u\|^2 = 1`.
    """
    q = probability_rows(rows, "rows")
    raised = _raised(q / torch.linalg.vector_norm(q, dim=-1, keepdim=True), weights)
    return raised / raised.sum(-1, keepdim=True)


def power_mean(rows: ArrayLike, weights: Tensor) -> Tensor:
    r"""The mean of the power score with b = 1.5: :math:`q^\circ_k = (u_k + c)^2`, :math:`u = \mathbb E \sqrt q`.

    Derived here, as above from :math:`\nabla G(q) = b\,q^{b - 1}`. For b > 2 the number c would be negative: entries
    may reach 0, and the decomposition becomes an inequality.
    """
    return _raised(probability_rows(rows, "rows").sqrt(), weights).square()


DUAL_MEANS: dict[str, Callable[[ArrayLike, Tensor], Tensor]] = {
    "ce": geometric_mean,
    "mse": arithmetic_mean,
    "mse_mean": arithmetic_mean,
    "ranked_probability": arithmetic_mean,
    "spherical": spherical_mean,
    "power": power_mean,
}
"""For every proper loss the mean :math:`q^\\circ` with :math:`\\nabla G(q^\\circ) = \\mathbb E\\,\\nabla G(q)`."""


def _losses(settings: Settings) -> list[Loss]:
    """The user's loss, if it is proper, or the named proper ones."""
    if settings.loss is None:
        return [LOSSES[name] for name in PROPER]
    return [settings.loss] if settings.loss.proper else []


def _divergence(loss: Loss) -> Divergence:
    if loss.divergence is None:
        raise ValueError(f"{loss.name} is improper: it has no divergence")
    return loss.divergence


def _leveled(table: FiniteMixture, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, p*, and a q of three levels: a row, the same classes in another order, and the row sharpened."""
    points, weights = table.support()
    row = random_rows(seed, 1, table.num_classes)
    levels = torch.cat([row, row.roll(1, -1), (2 * row.log()).softmax(-1)])
    return weights, table.posterior(points), levels[torch.arange(len(weights)) % 3]


Run = Callable[[FiniteMixture, Loss, int, str | None], Outcome]


def _each(settings: Settings, claim: str, run: Run, controls: Callable[[Loss], dict[str, bool]]) -> list[Trial]:
    """A claim for every loss and table, with the controls (harmless or not) that it has for a loss."""
    name, seed, trials = world_name(settings), derive(settings.seed, claim), []
    own = settings.mixture is not None or settings.loss is not None
    sizes = [*SIZES, (30, 8)] if settings.full else SIZES
    for table in default_tables(settings, seed, sizes):
        for loss in _losses(settings):
            detail, versions = f"K={table.num_classes}", {} if own else controls(loss)
            trials.append(Trial(name, partial(run, table, loss, seed, None), None, loss.name, detail))
            for control, harmless in versions.items():
                wrong = partial(run, table, loss, seed, control)
                trials.append(Trial(name, wrong, control, loss.name, detail, harmless))
    return trials


# --------------------------------------------------------------------------------------------- calibration and grouping


def _adds_up(table: FiniteMixture, loss: Loss, seed: int, control: str | None) -> Outcome:
    weights, bayes, q = _leveled(table, seed)
    divergence, centre = _divergence(loss), None
    if control == "prior":
        centre = (weights @ bayes).expand_as(bayes)
    elif control == "confidence":
        centre = mean_posterior(bayes.log(), q.amax(-1, keepdim=True), weights)
    elif control == "swapped_arguments":

        def divergence(p: ArrayLike, r: ArrayLike) -> Tensor:
            return _divergence(loss)(r, p)

    whole = float(weights @ divergence(bayes, q))
    return Outcome(abs(whole - sum(calibration_and_grouping(weights, bayes, q, divergence, centre))), EXACT)


def _sum_controls(loss: Loss) -> dict[str, bool]:
    return {"prior": False, "confidence": False, "swapped_arguments": loss.name in SYMMETRIC}


def _vanishes(table: FiniteMixture, loss: Loss, seed: int, control: str | None) -> Outcome:
    """The calibration part of c itself; the wrong version has all x in one level, and asks for the distance."""
    weights, bayes, q = _leveled(table, seed)
    centre = mean_posterior(bayes.log(), q.log(), weights)
    if control == "calibrated_is_close":
        centre = (weights @ bayes).expand_as(bayes)
        measured = distance_of_probabilities(centre, bayes.log(), weights=weights)
        return Outcome(measured["mse"].value if measured["ece"].value < EXACT else float("nan"), EXACT)
    return Outcome(abs(calibration_and_grouping(weights, bayes, centre, _divergence(loss))[0]), EXACT)


def _softened(table: FiniteMixture, loss: Loss, seed: int, control: str | None) -> Outcome:
    """The largest change of the grouping part, over temperatures."""
    weights, bayes, q = _leveled(table, seed)
    before = calibration_and_grouping(weights, bayes, q, _divergence(loss))
    part = 0 if control == "calibration" else 1
    changes = []
    for temperature in TEMPERATURES:
        after = (q.log() / temperature).softmax(-1)
        if control == "hard":
            after = torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).double()
        changes.append(abs(calibration_and_grouping(weights, bayes, after, _divergence(loss))[part] - before[part]))
        if control == "hard":
            break
    return Outcome(max(changes), EXACT)


# --------------------------------------------------------------------------------------------------- bias and variance


def _draws(table: FiniteMixture, seed: int, number: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """p*, rows q_S of several training draws ``(S, n, K)`` and the draws' weights."""
    bayes = table.posterior(table.support()[0])
    draws = torch.stack([random_rows(derive(seed, "draw", i), len(bayes), bayes.shape[1]) for i in range(number)])
    return bayes, draws, random_rows(derive(seed, "weights"), 1, number)[0]


def _bias_and_variance(table: FiniteMixture, loss: Loss, seed: int, control: str | None) -> Outcome:
    bayes, draws, chances = _draws(table, seed)
    divergence = _divergence(loss)
    mean = {"arithmetic": arithmetic_mean, "geometric": geometric_mean}.get(control or "", DUAL_MEANS[loss.name])
    middle = mean(draws, chances)
    whole = chances @ divergence(bayes, draws)
    bias, variance = divergence(bayes, middle), chances @ divergence(middle, draws)
    if control == "swapped_arguments":
        variance = chances @ divergence(draws, middle)
    return Outcome(float((whole - bias - variance).abs().max()), EXACT)


def _mean_controls(loss: Loss) -> dict[str, bool]:
    quadratic = loss.name in SYMMETRIC
    return {"arithmetic": quadratic, "geometric": loss.name == "ce", "swapped_arguments": quadratic}


def _mean_trials(settings: Settings) -> Sequence[Trial]:
    if settings.loss is not None and settings.loss.name not in DUAL_MEANS:
        return []  # its mean over draws is not known in closed form
    return _each(settings, "bias-variance", _bias_and_variance, _mean_controls)


def _picture(settings: Settings) -> Picture:
    """The two parts of an overconfident teacher's MSE along the temperature."""
    table = random_table(derive(settings.seed, "temperature-grouping", "picture"), 24, 3)
    points, weights = table.support()
    bayes = table.posterior(points)
    level = torch.arange(len(weights)) % 8
    centre = mean_posterior(bayes.log(), level[:, None].double(), weights)
    q = (3 * centre.log()).softmax(-1)
    temperatures = [2 ** (number / 4) for number in range(-4, 15)]
    parts = [
        calibration_and_grouping(weights, bayes, (q.log() / t).softmax(-1), _divergence(LOSSES["mse"]))
        for t in temperatures
    ]

    def series(name: str, values: list[float], style: str, colour: str) -> dict[str, object]:
        digits = [[float(f"{value:.5g}") for value in each] for each in (temperatures, values)]
        return {"name": name, "x": digits[0], "y": digits[1], "style": style, "colour": colour}

    return {
        "kind": "curves",
        "title": "Temperature moves the calibration part alone",
        "caption": "A teacher three times too confident. Its calibration error vanishes at T = 3; the grouping loss, "
        "what its levels cannot tell apart, stays, and so does that much distance to p*.",
        "x_label": "temperature",
        "y_label": "part of the MSE to p*",
        "x_log": True,
        "y_log": False,
        "series": [
            series("MSE", [sum(both) for both in parts], "line", "mse"),
            series("calibration", [both[0] for both in parts], "line", "a"),
            series("grouping", [both[1] for both in parts], "dashed", "b"),
        ],
        "lines": [],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="calibration-grouping",
        number="C10",
        title="Calibration error and grouping loss",
        statement=(
            "The expected divergence of q from p* is that from c = E[p* | q], the calibration error, plus that of c "
            "from p*, the grouping loss"
        ),
        formula=r"\mathbb{E}\,D(p^*, q) = \mathbb{E}\,D(c, q) + \mathbb{E}\,D(p^*, c), \quad c = \mathbb{E}[p^*|q]",
        conditions="any Bregman divergence D, the truth first; c given the whole row q",
        source="Murphy 1973; Broecker 2009; Kull & Flach 2015",
        controls={
            "prior": "c is the class frequencies",
            "confidence": "c is given the largest entry of q only",
            "swapped_arguments": "the divergences are D(q, p*), D(q, c) and D(c, p*)",
        },
        trials=lambda settings: _each(settings, "calibration-grouping", _adds_up, _sum_controls),
    ),
    Claim(
        id="calibration-vanishes",
        number="C10",
        title="Recalibration, and what it leaves",
        statement="Once q is replaced by c = E[p* | q], the calibration error is 0",
        formula=r"q := \mathbb{E}[p^*|q] \ \Rightarrow\ \mathbb{E}\,D(c, q) = 0",
        conditions="any Bregman divergence",
        source="Broecker 2009",
        controls={"calibrated_is_close": "a predictor without calibration error is claimed to be p*"},
        trials=lambda settings: _each(
            settings, "calibration-vanishes", _vanishes, lambda loss: {"calibrated_is_close": False}
        ),
    ),
    Claim(
        id="temperature-grouping",
        number="C10",
        title="A temperature leaves the grouping loss alone",
        statement="Softmax temperature is injective in q, so it changes the calibration error only",
        formula=r"\mathbb{E}\,D(p^*, \mathbb{E}[p^*|q_T]) = \mathbb{E}\,D(p^*, \mathbb{E}[p^*|q]), \quad "
        r"q_T \propto q^{1/T}",
        conditions="any T > 0, q positive",
        source="derived here",
        controls={
            "hard": "q is replaced by its most probable class, which is not injective",
            "calibration": "the calibration error is claimed not to change",
        },
        trials=lambda settings: _each(
            settings, "temperature-grouping", _softened, lambda loss: {"hard": False, "calibration": False}
        ),
        picture=_picture,
    ),
    Claim(
        id="bias-variance",
        number="C10",
        title="Bias and variance over training draws",
        statement=(
            "Over training draws the expected divergence from p* is that of the mean prediction plus the expected "
            "divergence from the mean; the mean is arithmetic for the Brier score, the normalised geometric for KL"
        ),
        formula=(
            r"\mathbb{E}_S D(p^*, q_S) = D(p^*, q^\circ) + \mathbb{E}_S D(q^\circ, q_S), \quad "
            r"\nabla G(q^\circ) = \mathbb{E}_S \nabla G(q_S)"
        ),
        conditions="at every x; the dual mean lies inside the simplex",
        source="Heskes 1998; Pfau 2013; the spherical and power means are derived here",
        controls={
            "arithmetic": "the mean is the arithmetic one",
            "geometric": "the mean is the normalised geometric one",
            "swapped_arguments": "the variance is D(q_S, mean)",
        },
        trials=_mean_trials,
    ),
)
