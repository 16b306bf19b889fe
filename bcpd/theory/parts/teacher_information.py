r"""Claims about conditional mutual information (CMI), and about teachers that maximise it (MCMI, Ye et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.mixtures import FiniteMixture
from bcpd.seeds import derive
from bcpd.theory.bounds.excess_risk import EXACT, teachers
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.finite_tables import default_tables, random_rows, random_table, world_name
from bcpd.theory.parts.information import (
    centroids,
    cmi,
    cmi_by_definition,
    cmi_by_entropies,
    cmi_temperature_bound,
    mcmi_minimiser,
    mutual_information,
)

__all__ = ["CLAIMS"]

SIZES = ((6, 2), (6, 3), (5, 5))
STRENGTHS = (0.5, 0.25)
SEPARATION, APART = 1e-3, 1e-5
"""Least MSE to p* of a minimiser of CE - lambda CMI: with three or more classes in a random table and lambda = 0.5; and
elsewhere, where a weaker term or two classes can leave it as close as 1e-4."""

Table = Callable[[], tuple[Tensor, Tensor]]
"""Weights ``(n,)`` and p* ``(n, K)``, made when asked for."""


def _of(table: FiniteMixture) -> tuple[Tensor, Tensor]:
    points, weights = table.support()
    return weights, table.posterior(points)


def _tables(settings: Settings, seed: int) -> list[tuple[str, Table]]:
    return [(f"K={t.num_classes}", partial(_of, t)) for t in default_tables(settings, seed, SIZES)]


def _each(
    settings: Settings, claim: str, run: Callable[[Table, int, str | None], Outcome], controls: Sequence[str]
) -> list[Trial]:
    """The claim and its controls in every table (a user's: the claim alone)."""
    name, seed = world_name(settings), derive(settings.seed, claim)
    versions: tuple[str | None, ...] = (None, *controls) if settings.mixture is None else (None,)
    return [
        Trial(name, partial(run, table, seed, control), control, detail=detail)
        for detail, table in _tables(settings, seed)
        for control in versions
    ]


# ------------------------------------------------------------------------------------------------------ what CMI is


def _three_ways(make: Table, seed: int, control: str | None) -> Outcome:
    """The largest difference of three formulas for p* itself and for teachers around it."""
    weights, bayes = make()
    worst = 0.0
    for q in (bayes, *(log_q.exp() for _, log_q in teachers(bayes.log(), seed))):
        three = [cmi_by_definition(weights, bayes, q), cmi(weights, bayes, q), cmi_by_entropies(weights, bayes, q)]
        if control == "dropped_y":
            three[2] = mutual_information(weights, bayes, q)
        elif control == "sign":
            three[2] = -three[2]
        elif control == "swapped_arguments" and bool((q > 0).all()):
            share = weights[:, None] * bayes
            three[1] = float((share * simplex.kl(centroids(weights, bayes, q), q[:, None, :])).sum())
        worst = max(worst, (max(three) - min(three)) / (1 + abs(three[0])))
    return Outcome(worst, EXACT)


def _three_way_trials(settings: Settings) -> Sequence[Trial]:
    return _each(settings, "cmi-three-ways", _three_ways, ("dropped_y", "sign", "swapped_arguments"))


def _above_spread(make: Table, seed: int, control: str | None) -> Outcome:
    """How far CMI lies below the spread of q about its centroids, at worst, and the largest share of it."""
    weights, bayes = make()
    gaps, share = [], 0.0
    for _, log_q in teachers(bayes.log(), seed):
        q = log_q.exp()
        spread = float((weights[:, None] * bayes * _squared_spread(weights, bayes, q)).sum())
        information = cmi(weights, bayes, q)
        gaps.append(information - spread if control == "reversed" else spread - information)
        share = max(share, spread / information if information > 1e-9 else 0.0)
    return Outcome(max(gaps), EXACT, tightness=None if control else min(share, 1.0))


def _squared_spread(weights: Tensor, bayes: Tensor, q: Tensor) -> Tensor:
    return simplex.squared_distance(q[:, None, :], centroids(weights, bayes, q))


def _zero(seed: int, control: str | None) -> Outcome:
    """Two groups of x that share no class, q constant on each; or constant only where the modes of p* agree."""
    weights = random_rows(derive(seed, "weights"), 1, 8, spread=0.7)[0]
    bayes = torch.zeros(8, 5, dtype=torch.float64)
    bayes[:4, :2], bayes[4:, 2:] = random_rows(derive(seed, "first"), 4, 2), random_rows(derive(seed, "second"), 4, 3)
    levels = random_rows(derive(seed, "levels"), 2, 5)
    q = levels.repeat_interleave(4, 0)
    if control == "dropped_y":
        return Outcome(abs(mutual_information(weights, bayes, q)), EXACT)
    if control == "same_mode":
        bayes = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]]).double()
        weights = torch.full((4,), 0.25, dtype=torch.float64)
        q = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]).double()[bayes.argmax(-1)]
    return Outcome(abs(cmi(weights, bayes, q)), EXACT)


def _zero_trials(settings: Settings) -> Sequence[Trial]:
    trials = _each(settings, "cmi-zero", _above_spread, ("reversed",))
    if settings.mixture is None:
        seed = derive(settings.seed, "cmi-zero")
        for control in (None, "same_mode", "dropped_y"):
            trials.append(Trial("finite X", partial(_zero, seed, control), control, detail="constant q"))
    return trials


def _cooled(make: Table, seed: int, control: str | None) -> Outcome:
    """CMI at temperatures 0.5 to 1000 against its bound: the largest excess, and the largest share."""
    weights, bayes = make()
    logits = 3 * random_rows(seed, len(bayes), bayes.shape[1], spread=2.0).log()
    excess, share = [], 0.0
    for temperature in (0.5, 1.0, 2.0, 4.0, 20.0, 100.0, 1000.0):
        bound = cmi_temperature_bound(weights, bayes, logits, temperature)
        if control == "half":
            bound = bound / 2
        value = cmi(weights, bayes, (logits / temperature).softmax(-1))
        excess.append(value - bound)
        share = max(share, value / bound)
    return Outcome(max(excess), EXACT, tightness=None if control else min(share, 1.0))


def _monotone() -> Outcome:
    """Two x whose certain outputs agree at low temperature: CMI rises before it falls."""
    weights, bayes = torch.tensor([0.5, 0.5]).double(), torch.full((2, 2), 0.5, dtype=torch.float64)
    logits = torch.tensor([[2.0, 0.0], [8.0, 0.0]], dtype=torch.float64)
    values = [cmi(weights, bayes, (logits / temperature).softmax(-1)) for temperature in (0.2, 2.0)]
    return Outcome(values[1] - values[0], EXACT)


def _temperature_trials(settings: Settings) -> Sequence[Trial]:
    trials = _each(settings, "cmi-temperature", _cooled, ())
    if settings.mixture is None:
        seed = derive(settings.seed, "cmi-temperature")
        two = partial(_of, random_table(derive(seed, "two"), 8, 2))
        trials.append(Trial("finite X", partial(_cooled, two, seed, "half"), "half", detail="two classes"))
        trials.append(Trial("finite X", _monotone, "monotone", detail="certain outputs"))
    return trials


# ------------------------------------------------------------------------------------------------------ maximising it


def _misses(make: Table, strength: float, control: str | None, *, random_table: bool) -> Outcome:
    r"""Minus the MSE to p* of the minimiser; ``nan`` if it is not lower than p* in the objective."""
    weights, bayes = make()
    clear = random_table and bayes.shape[1] > 2 and strength >= STRENGTHS[0]
    separation = SEPARATION if clear else APART
    uniform = torch.full_like(bayes, 1 / bayes.shape[1])
    if control == "no_information":
        return Outcome(
            -float(weights @ simplex.squared_distance(mcmi_minimiser(weights, bayes, 0, uniform), bayes)), -separation
        )
    q = mcmi_minimiser(weights, bayes, strength)
    gain = strength * (cmi(weights, bayes, q) - cmi(weights, bayes, bayes)) - float(weights @ simplex.kl(bayes, q))
    distance = float(weights @ simplex.squared_distance(q, bayes))
    return Outcome(-distance if gain > 0 else math.nan, -separation)


def _raises(make: Table, strength: float, control: str | None) -> Outcome:
    """What CMI falls short of: that of p*, plus the price in KL over lambda."""
    weights, bayes = make()
    q = mcmi_minimiser(weights, bayes, -strength if control == "sign" else strength)
    price = float(weights @ simplex.kl(bayes, q)) / strength
    return Outcome(cmi(weights, bayes, bayes) + price - cmi(weights, bayes, q), EXACT)


def _strength_trials(
    settings: Settings, claim: str, run: Callable[[Table, float, str | None], Outcome], control: str
) -> Sequence[Trial]:
    name, trials = world_name(settings), []
    tables = _tables(settings, derive(settings.seed, claim))
    for detail, table in tables if settings.full or settings.mixture is not None else tables[1:2]:
        if settings.mixture is not None and bool((table()[1] <= 0).any()):
            continue  # impossible classes have no logits to move
        for strength in STRENGTHS if settings.full else STRENGTHS[:1]:
            shown = f"{detail}, lambda={strength:g}"
            trials.append(Trial(name, partial(run, table, strength, None), detail=shown))
        if settings.mixture is None:
            trials.append(Trial(name, partial(run, table, STRENGTHS[0], control), control, detail=detail))
    return trials


def _improper_trials(settings: Settings) -> Sequence[Trial]:
    run = partial(_misses, random_table=settings.mixture is None)
    return _strength_trials(settings, "mcmi-improper", run, "no_information")


def _raise_trials(settings: Settings) -> Sequence[Trial]:
    return _strength_trials(settings, "mcmi-raises-cmi", _raises, "sign")


def _picture(settings: Settings) -> Picture:
    """The minimiser along lambda: its CMI relative to that of p*, and its distance to p*."""
    weights, bayes = _of(random_table(derive(settings.seed, "mcmi", "picture"), 4, 3))
    strengths = [-0.5, -0.25, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    rows = [mcmi_minimiser(weights, bayes, strength) for strength in strengths]
    own = cmi(weights, bayes, bayes)
    ratio = [float(f"{cmi(weights, bayes, q) / own:.5g}") for q in rows]
    distance = [float(f"{float(weights @ simplex.squared_distance(q, bayes)):.5g}") for q in rows]

    def panel(title: str, y: list[float], y_label: str, colour: str, line: float, name: str) -> Picture:
        return {
            "kind": "curves",
            "title": title,
            "caption": "Four x, three classes; lambda = 0 is the cross-entropy.",
            "x_label": "lambda",
            "y_label": y_label,
            "x_log": False,
            "y_log": False,
            "series": [{"name": "minimiser", "x": strengths, "y": y, "style": "line+points", "colour": colour}],
            "lines": [{"y": line, "name": name}],
        }

    return {
        "kind": "panels",
        "title": "What CE - lambda CMI leads to",
        "caption": "The minimiser over all q. Raising lambda raises the CMI above that of p* and moves the teacher "
        "away from p*; a negative lambda lowers it and moves it away as well.",
        "panels": [
            panel("CMI", ratio, "CMI of q / CMI of p*", "a", 1.0, "p*"),
            panel("Distance", distance, "MSE to p*", "mse", 0.0, "p*"),
        ],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="cmi-three-ways",
        number="C13",
        title="Conditional mutual information, three ways",
        statement=(
            "The information that outputs carry about x beyond the class is the mean KL to the class centroids, and "
            "the entropy given the class minus the entropy given x"
        ),
        formula=(
            r"I(X;\hat{Y}|Y) = \mathbb{E}\,\mathrm{KL}(q(X)\|Q_Y) = H(\hat{Y}|Y) - H(\hat{Y}|X), \quad "
            r"Q_y = \mathbb{E}[q(X)|y]"
        ),
        conditions="the label Y^ is drawn from q(x) given x alone (Y - X - Y^ is a Markov chain); nats",
        source="Ye et al. 2024; Cover & Thomas 2006, chapter 2",
        controls={
            "dropped_y": "the entropy is not conditional on Y: I(X; Y^) is taken",
            "sign": "the difference of the entropies has the other sign",
            "swapped_arguments": "the divergence is KL(Q_y, q(x))",
        },
        trials=_three_way_trials,
    ),
    Claim(
        id="cmi-zero",
        number="C13",
        title="When CMI vanishes",
        statement=(
            "CMI is at least the squared spread of q about its class centroids, and 0 exactly where q is constant over "
            "the x that can carry a class, for every class"
        ),
        formula=r"I(X;\hat{Y}|Y) \geq \mathbb{E}\|q(X) - Q_Y\|^2 \geq 0",
        conditions="nats",
        source="Pinsker's inequality; derived here",
        controls={
            "reversed": "CMI is claimed to be at most the spread",
            "same_mode": "q is constant only over x with the same mode of p*",
            "dropped_y": "I(X; Y^) is claimed to vanish too",
        },
        trials=_zero_trials,
    ),
    Claim(
        id="cmi-temperature",
        number="C13",
        title="CMI at high temperature",
        statement="The CMI of softened outputs vanishes as 1 / T^2, below a bound that two classes attain",
        formula=(
            r"I(X;\hat{Y}_T|Y) \leq \frac{1}{8T^2}\mathbb{E}[\mathrm{range}(z(X) - \bar{z}_Y)^2], \quad "
            r"\bar{z}_y = \mathbb{E}[z(X)|y]"
        ),
        conditions="finite logits z; q is the softmax of z / T",
        source="derived here",
        controls={
            "half": "the constant is 1/16",
            "monotone": "CMI is claimed to fall as the temperature rises",
        },
        trials=_temperature_trials,
    ),
    Claim(
        id="mcmi-improper",
        number="C13",
        title="Maximising CMI misses p*",
        statement="For lambda > 0 the population minimiser of CE - lambda CMI over all q is not p*",
        formula=r"\mathrm{argmin}_q\ \mathbb{E}\,H(p^*, q) - \lambda\, I(X;\hat{Y}|Y) \neq p^*",
        conditions=(
            "p* positive, and not the same at all x that share classes; apart by 1e-3 in MSE for lambda = 0.5 and "
            "three or more classes, by 1e-5 elsewhere"
        ),
        source="derived here",
        controls={"no_information": "lambda is 0: the cross-entropy, minimised from the uniform row"},
        trials=_improper_trials,
        picture=_picture,
    ),
    Claim(
        id="mcmi-raises-cmi",
        number="C13",
        title="The sign of the CMI term",
        statement=(
            "Minimising CE - lambda CMI gives a CMI above that of p*, by at least the price paid in KL over lambda; "
            "the released code adds CMI times a negative number"
        ),
        formula=(
            r"I_q \geq I_{p^*} + \frac{1}{\lambda}\mathbb{E}\,\mathrm{KL}(p^*\|q), \quad "
            r"q = \mathrm{argmin}\ CE - \lambda\, CMI"
        ),
        conditions="lambda > 0, any q that p* does not beat in the objective",
        source="derived here; the convention is that of Ye et al. 2024",
        controls={"sign": "CMI is added with a positive number"},
        trials=_raise_trials,
    ),
)
