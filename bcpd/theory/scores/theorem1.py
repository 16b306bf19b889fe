r"""Theorem 1 and its consequences as claims: where each is tried, and with which wrong versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from bcpd.losses import LOSSES, Loss
from bcpd.mixtures import FiniteMixture, GaussianMixture
from bcpd.seeds import derive, generator
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.finite_tables import outcome_losses
from bcpd.theory.linear import exact_parameters, linear_design
from bcpd.theory.scores import identities
from bcpd.theory.scores.versions import CONTROLS, LOSSES_CHECKED, MATRIX, Version, claimed_proper, effects_on, version
from bcpd.theory.worlds import Kind, World, finite_world, quadrature_world, rational_world, sample_world

__all__ = ["CLAIMS", "contaminated_line", "worlds_for_identities"]


@dataclass(frozen=True)
class _Worlds:
    """The worlds of one repetition. ``missing``: linear softmax misses p*; ``containing``: it contains p*."""

    any: list[World]
    missing: list[World]
    containing: list[World]


_PLACES: tuple[tuple[str, Kind], ...] = (
    ("finite X", "exact"),
    ("quadrature 1-D", "quadrature"),
    ("quadrature 2-D", "quadrature"),
    ("Monte Carlo 30-D", "monte_carlo"),
)
_EVERYWHERE = ("ce", "mse")
"""The two losses that teachers are trained with are tried in all places, the other scores in the cheaper ones."""
_CHEAP = ("finite X", "quadrature 1-D")
_WORLDS_OF = {"minimiser-equality": "missing", "own-metric": "missing", "minimiser-is-bayes": "containing"}

# at q = p* itself, or at a minimiser found without labels, these leave the Monte Carlo statistic as it is
_NO_SUCH_CONTROL = {
    "minimiser-is-bayes": frozenset({"dropped_constant", "over_K", "swapped_arguments"}),
    "minimiser-equality": frozenset({"dropped_constant", "over_K"}),
}


def _trials(claim: str, settings: Settings) -> list[Trial]:
    """The claim for every loss and place, and after it the controls of the matrix."""
    root = derive(settings.seed, "theorem 1")
    own = _own_world(claim, settings)
    without_bearing = _without_bearing(claim, settings, own[0]) if own else frozenset()
    places = _PLACES if own is None else tuple((world.name, world.kind) for world in own)
    losses: Sequence[str | Loss] = LOSSES_CHECKED if settings.loss is None else [_own_loss(settings.loss)]
    trials = []
    for loss in losses:
        label = loss.name if isinstance(loss, Loss) else loss
        for number, (place, kind) in enumerate(places):
            if not _wanted(claim, loss, place, own is not None):
                continue
            run = partial(_evaluate, claim, loss, settings=settings, root=root, number=number)
            trials.append(Trial(place, partial(run, control=None), loss=label))
            for control, effect in effects_on(claim, label).items():
                if control not in without_bearing and _possible(claim, control, kind):
                    inside = claim == "minimiser-equality" and control == "swapped_arguments"
                    contained = bool(inside and own and _contains_bayes(settings, own[0]))
                    harmless = effect == "passes" or contained
                    trials.append(Trial(place, partial(run, control=control), control, label, harmless=harmless))
    return trials


def _own_loss(loss: Loss) -> str | Loss:
    """A user's loss, by its name if it is one of those that are checked anyway."""
    return loss.name if loss.name in LOSSES_CHECKED and LOSSES[loss.name] is loss else claimed_proper(loss)


def _wanted(claim: str, loss: str | Loss, place: str, own: bool) -> bool:
    """Whether a claim about a loss is tried in a place."""
    if isinstance(loss, Loss):
        return claim != "own-metric"
    if claim == "own-metric" and loss not in _RIVAL:
        return False
    if own or loss in _EVERYWHERE or place in _CHEAP:
        return True
    return claim == "risk-identity" and place == "Monte Carlo 30-D"


def _possible(claim: str, control: str, kind: Kind) -> bool:
    if control == "realised_labels" and kind != "exact":
        return False
    return not (kind == "monte_carlo" and control in _NO_SUCH_CONTROL.get(claim, ()))


def _own_world(claim: str, settings: Settings) -> Sequence[World] | None:
    """The user's mixture as a world, where the claim can be tried in it; ``None`` for the default worlds."""
    if settings.mixture is None:
        return None
    if claim == "own-metric":
        return []  # strictness needs a class that misses p*; the inequality itself is a claim of its own
    (world,) = settings.worlds([])
    if claim == "minimiser-is-bayes":
        # a softmax never reaches a p* on the boundary
        inside = not bool((world.bayes == 0).any()) if world.kind == "exact" else _linear(settings)
        return [world] if inside else []
    return [world]


def _without_bearing(claim: str, settings: Settings, world: World) -> frozenset[str]:
    """Controls that cannot show in a user's world: what they do has no meaning there, or changes nothing."""
    bayes = world.bayes
    minimiser = claim.startswith("minimiser")
    # no noise to get wrong, or a p* that smoothing and its like leave as it is
    if float(world.mean(1 - bayes.amax(-1))) < 1e-3:
        kept = () if minimiser else ("over_K", "label_smoothing", "focal", "mae", "logits")
        return frozenset(CONTROLS) - frozenset(kept)
    if _uniform(world):
        return frozenset(CONTROLS) if minimiser else frozenset({"label_smoothing"})
    without = {"swapped_arguments"} if bool((bayes == 0).any()) else set()
    if claim == "minimiser-equality":
        without.add("over_K")  # a minimum at infinity is approached until the risk, which it scales, is flat
    return frozenset(without)


def _uniform(world: World) -> bool:
    """Whether p* is uniform at every x, so that smoothing changes nothing."""
    return float((world.bayes - 1 / world.num_classes).abs().max()) < 1e-3


def _contains_bayes(settings: Settings, world: World) -> bool:
    """Whether linear softmax contains the p* of the user's world."""
    if world.kind != "exact":
        return _linear(settings)
    return exact_parameters(linear_design(world.x), world.log_bayes) is not None


def _linear(settings: Settings) -> bool:
    """Whether linear softmax contains the p* of the user's mixture: Gaussians that share a covariance."""
    mixture = settings.mixture[1] if settings.mixture else None
    return isinstance(mixture, GaussianMixture) and mixture.shared and mixture.means.shape[1] == 1


_RIVAL = {"ce": "mse", "mse": "ce"}


def _evaluate(
    claim: str, loss: str | Loss, *, settings: Settings, root: int, number: int, control: str | None
) -> Outcome:
    own = _own_world(claim, settings)
    worlds = _worlds(settings.level, root)
    place: World = (getattr(worlds, _WORLDS_OF.get(claim, "any")) if own is None else own)[number]
    tried = version(loss, control)
    if claim == "risk-identity":
        return identities.risk_identity(tried, place, root)
    if claim == "gradient-identity":
        return identities.gradient_identity(tried, place, root, settings.trainer.gradient)
    if claim == "minimiser-equality":
        return identities.minimiser_equality(tried, place, root)
    if claim == "minimiser-is-bayes":
        return identities.minimiser_is_bayes(tried, place, root)
    rival: Version = version(_RIVAL[str(loss)])
    divergence = version(loss).divergence
    if control == "well_specified":
        place = worlds.containing[number]
    if control == "swapped_arguments":
        divergence = tried.divergence
    return identities.own_metric(tried, rival, divergence, place, root, sign=-1.0 if control == "reversed" else 1.0)


def contaminated_line() -> GaussianMixture:
    """Two classes on a line, one with a small outlying component on the far side of the other.

    Linear softmax misses p*: the outliers pull a logarithmic loss more than a square one (theory of misspecified
    projections).
    """
    return GaussianMixture(
        means=[[[-1.0], [5.0]], [[1.0], [1.0]]], covariance=1.0, weights=[[0.9, 0.1], [0.5, 0.5]], priors=[0.5, 0.5]
    )


def worlds_for_identities(settings: Settings) -> Sequence[World]:
    """Finite X, a line, and 30 dimensions; or the user's mixture."""
    if settings.mixture is not None:
        return settings.worlds([])
    found = _worlds(settings.level, derive(settings.seed, "theorem 1")).any
    return [world for world in found if world.name != "quadrature 2-D"]


@lru_cache(maxsize=4)
def _worlds(level: str, seed: int) -> _Worlds:
    nodes, n = (128, 60_000) if level == "quick" else (160, 100_000)
    plane_nodes = 64 if level == "quick" else 80
    draw = generator(seed, "worlds")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    line = GaussianMixture(means=[[-1.2], [0.3], [1.5]], covariance=1.0, priors=[0.5, 0.2, 0.3])
    # smooth enough for the quadrature, whatever the seed
    plane = GaussianMixture(
        means=[[-0.8, 0.1], [0.7, 0.5], [0.2, -0.9]], covariance=[[1.0, 0.3], [0.3, 1.5]], priors=[0.3, 0.3, 0.4]
    )
    curved_plane = GaussianMixture(
        means=[[[-1.5, -0.5], [1.5, 0.5]], [[0.5, 1.0], [0.5, -1.0]]], covariance=0.8, priors=[0.4, 0.6]
    )
    space = GaussianMixture(means=1.5 * normal(3, 30) / 30**0.5, covariance=1.0, priors=[0.5, 0.3, 0.2])
    # the second component of class 0 lies beyond class 1: no linear rule has this p*
    direction = torch.zeros(1, 1, 30, dtype=torch.float64)
    direction[..., 0] = 1.0
    curved_space = GaussianMixture(
        means=torch.tensor([[[-2.0], [4.0]], [[1.5], [1.5]]]).double() * direction,
        covariance=1.0,
        weights=[[0.9, 0.1], [0.5, 0.5]],
        priors=[0.65, 0.35],
    )
    rational = rational_world(seed)
    table = FiniteMixture(normal(7).softmax(-1), (1.5 * normal(7, 3)).softmax(-1), points=normal(7, 2))
    logits = table.support()[0] @ normal(2, 3) + normal(3)
    inside = FiniteMixture(table.support()[1], logits.softmax(-1), points=table.support()[0])
    return _Worlds(
        any=[
            rational,
            quadrature_world(line, nodes, "quadrature 1-D"),
            quadrature_world(plane, plane_nodes, "quadrature 2-D"),
            sample_world(space, n, seed, "Monte Carlo 30-D"),
        ],
        missing=[
            finite_world(table),
            quadrature_world(contaminated_line(), nodes, "quadrature 1-D"),
            quadrature_world(curved_plane, plane_nodes // 2, "quadrature 2-D"),
            sample_world(curved_space, n, seed, "Monte Carlo 30-D"),
        ],
        containing=[
            finite_world(inside),
            quadrature_world(line, nodes, "quadrature 1-D"),
            quadrature_world(plane, plane_nodes // 2, "quadrature 2-D"),
            sample_world(space, n, seed, "Monte Carlo 30-D"),
        ],
    )


def _claim(id: str, number: str, title: str, statement: str, formula: str, conditions: str, source: str) -> Claim:
    trials: Callable[[Settings], Sequence[Trial]] = partial(_trials, id)
    controls = {control: CONTROLS[control] for control in MATRIX[id]}
    return Claim(id, number, title, statement, formula, conditions, source, controls, trials)


_IMPROPER = ("label_smoothing", "focal", "mae")


def _own_gradient_trials(settings: Settings) -> list[Trial]:
    """Improper losses, or a user's loss, where the gradient identity is tried exactly."""
    own = None if settings.mixture is None else settings.worlds([])
    places = [(name, kind) for name, kind in _PLACES if name in _CHEAP] if own is None else [(own[0].name, own[0].kind)]
    losses = [LOSSES[name] for name in _IMPROPER] if settings.loss is None else [settings.loss]
    trials = []
    for loss in losses:
        # of a user's loss it is not known that it differs from cross-entropy
        known = settings.loss is None and not (own is not None and _uniform(own[0]))
        for control in (None, "ce_divergence") if known else (None,):
            for number, (place, _) in enumerate(places):
                run = partial(_own_gradient, loss, settings, number, control)
                trials.append(Trial(place, run, control, loss.name))
    return trials


def _own_gradient(loss: Loss, settings: Settings, number: int, control: str | None) -> Outcome:
    root = derive(settings.seed, "theorem 1")
    place = (settings.worlds([]) if settings.mixture else _worlds(settings.level, root).any)[number]
    distance = version("ce", None).divergence

    def expected_loss(p: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        if control == "ce_divergence":
            return distance(p, z.softmax(-1))
        return (p * outcome_losses(loss, z)).sum(-1)

    tried = Version(loss.function, lambda p: 0 * p[..., 0], expected_loss, lambda z: z)
    return identities.gradient_identity(tried, place, root, settings.trainer.gradient)


_THEOREM = "Hamidi et al., ECCV 2024, Theorem 1; general form: Savage 1971, Gneiting & Raftery 2007"

CLAIMS: tuple[Claim, ...] = (
    _claim(
        "risk-identity",
        "C1",
        "The label risk is a constant plus the distance to p*",
        "For any network q the risk on labels is the entropy of p* plus the divergence of q from p*.",
        r"\mathbb{E}\,\ell(y, q) = \mathbb{E}\,H_\ell(p^*) + \mathbb{E}\,D_\ell(p^*, q)",
        "Strictly proper losses; every distribution, every network with a finite risk.",
        _THEOREM,
    ),
    _claim(
        "gradient-identity",
        "C2",
        "The trainer follows the gradient of the distance to p*",
        "The gradient that the trainer's own code follows, labels summed out, is the gradient of the expected "
        "divergence of the network from p*.",
        r"\nabla_\theta\,\mathbb{E}\,\ell(y, q_\theta) = \nabla_\theta\,\mathbb{E}\,D_\ell(p^*, q_\theta)",
        "Strictly proper, differentiable losses; expectation over labels, not one realised label.",
        _THEOREM,
    ),
    Claim(
        "own-loss-gradient",
        "C2",
        "Any loss: the trainer follows the gradient of the expected loss, not of a distance to p*",
        "For an improper loss the gradient that the trainer's own code follows is that of the loss expected under p*, "
        "all the same.",
        r"\nabla_\theta\,\mathbb{E}\,\ell(y, q_\theta) = "
        r"\nabla_\theta\,\mathbb{E}\sum_k p^*_k\,\ell(k, q_\theta)",
        "Differentiable losses, proper or not; expectation over labels, not one realised label.",
        "the law of total expectation",
        {"ce_divergence": "the expected loss is replaced by the divergence of cross-entropy, KL(p*, q)"},
        _own_gradient_trials,
    ),
    _claim(
        "minimiser-equality",
        "C1",
        "Both have the same minimiser, also in a class that misses p*",
        "In a restricted class, the minimiser of the label risk is the minimiser of the expected divergence from p*.",
        r"\arg\min_{q \in \mathcal{F}} \mathbb{E}\,\ell(y, q) = "
        r"\arg\min_{q \in \mathcal{F}} \mathbb{E}\,D_\ell(p^*, q)",
        "Any class; here linear softmax, which misses p*.",
        _THEOREM,
    ),
    _claim(
        "minimiser-is-bayes",
        "C1",
        "A class that contains p* has it as its minimiser",
        "The minimiser of the label risk is p* in a class that contains p*.",
        r"p^* \in \mathcal{F} \;\Rightarrow\; \arg\min_{q \in \mathcal{F}} \mathbb{E}\,\ell(y, q) = p^*",
        "Strictly proper losses; here a free row for each x, or linear softmax on classes that share a covariance.",
        _THEOREM,
    ),
    _claim(
        "own-metric",
        "C15",
        "Misspecified: each loss wins its own metric",
        "When the class misses p*, this loss's minimiser is strictly closer to p* in this loss's own metric.",
        r"\mathbb{E}\,D_\ell(p^*, q_\ell) < \mathbb{E}\,D_\ell(p^*, q_{\ell'})",
        "Classes that miss p* so that the two minimisers differ; infinite data.",
        "derived here: being the minimiser, with Theorem 1",
    ),
)
