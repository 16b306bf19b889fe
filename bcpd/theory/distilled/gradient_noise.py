r"""Gradient noise at the optimum: what labels and noisy targets add to SGD, and p* does not (Morad et al. 2026).

At :math:`q_\theta = p^*` the gradient of the cross-entropy against a target t is :math:`-\sum_k t_k J_k / p^*_k` with
:math:`J_k = \partial q_k / \partial\theta`. As :math:`\sum_k J_k = 0` it vanishes for t = p*, at every x: the optimum
interpolates. For targets of mean p* and covariance C(x) its mean square is

.. math:: \sigma^* = \mathbb E_x \sum_{jk} \frac{C_{jk}}{p^*_j p^*_k} \langle J_j, J_k\rangle .

Labels have :math:`C = \mathrm{diag}(p^*) - p^* p^{*\top}`, of which the second part drops out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from bcpd import simplex
from bcpd.losses import LOSSES
from bcpd.mixtures import FiniteMixture
from bcpd.mixtures.base import distributions
from bcpd.nets.mlp import MLP
from bcpd.seeds import derive, generator
from bcpd.tensors import ArrayLike, float64, probability_rows
from bcpd.theory.claim import Claim, Outcome, Settings, Trial
from bcpd.theory.distilled.noisy_targets import (
    dirichlet_covariance,
    dirichlet_target_mse,
    mixture_target_mse,
    mixture_targets,
    one_hot_target_mse,
)
from bcpd.theory.finite_tables import default_tables, world_name

__all__ = [
    "CLAIMS",
    "covariance_gradient_noise",
    "helpful_variance",
    "label_gradient_noise",
    "noisy_gradient_noise",
    "probability_jacobian",
]

EXACT = 1e-12


def probability_jacobian(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Probabilities of a network and their derivatives in all parameters, :math:`J_k = \partial q_k / \partial\theta`.

    Args:
        net: returns :class:`bcpd.nets.Views`; x: ``(n, ...)``.
    Returns:
        ``(n, K)`` and ``(n, K, parameters)``, by one backward pass for each.
    """
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    rows, slopes = [], []
    for point in x:
        q = net(point.unsqueeze(0)).logits.softmax(-1).squeeze(0)
        rows.append(q.detach())
        slopes.append(torch.stack([_flat(torch.autograd.grad(each, parameters, retain_graph=True)) for each in q]))
    return torch.stack(rows), torch.stack(slopes)


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def _checked(weights: ArrayLike, bayes: ArrayLike, jacobian: ArrayLike) -> tuple[Tensor, Tensor, Tensor]:
    mass, rows, slopes = (
        distributions(weights, "weights"),
        probability_rows(bayes, "bayes"),
        float64(jacobian, "jacobian"),
    )
    if rows.ndim != 2 or slopes.ndim != 3 or slopes.shape[:2] != rows.shape or mass.shape != rows.shape[:1]:
        raise ValueError(
            f"weights must have shape (n,), bayes (n, K) and jacobian (n, K, parameters), "
            f"received {tuple(mass.shape)}, {tuple(rows.shape)} and {tuple(slopes.shape)}"
        )
    if bool((rows <= 0).any()):
        raise ValueError(f"bayes must be positive, for the noise has 1 / p* in it; received {float(rows.min())}")
    return mass, rows, slopes


def label_gradient_noise(weights: ArrayLike, bayes: ArrayLike, jacobian: ArrayLike) -> float:
    r"""Of labels: :math:`\sigma^*_f = \mathbb E_x \sum_k \|J_k\|^2 / p^*_k`.

    With the logits of every x as parameters it is :math:`\mathbb E[1 - \|p^*\|^2]`, the labels' MSE to p*.

    Args:
        weights: ``(n,)``; bayes: p* = q, positive, ``(n, K)``; jacobian: ``(n, K, parameters)``.
    Raises:
        ValueError: shapes that do not fit, rows that are not probabilities, a p* of 0.
    """
    mass, rows, slopes = _checked(weights, bayes, jacobian)
    return float(mass @ (slopes.square().sum(-1) / rows).sum(-1))


def noisy_gradient_noise(weights: ArrayLike, bayes: ArrayLike, jacobian: ArrayLike, variance: float) -> float:
    r"""Of targets p* + noise, uncorrelated of variance nu: :math:`\nu\,\mathbb E_x \sum_k \|J_k\|^2 / p_k^{*2}`.

    Args:
        weights, bayes, jacobian: as in :func:`label_gradient_noise`; variance: nu >= 0, of every entry.
    Raises:
        ValueError: as in :func:`label_gradient_noise`, or a negative variance.
    """
    if not variance >= 0:
        raise ValueError(f"variance must be >= 0, received {variance}")
    mass, rows, slopes = _checked(weights, bayes, jacobian)
    return variance * float(mass @ (slopes.square().sum(-1) / rows.square()).sum(-1))


def helpful_variance(weights: ArrayLike, bayes: ArrayLike, jacobian: ArrayLike) -> float:
    r"""The variance of an entry's noise below which noisy probabilities make less gradient noise than labels.

    .. math:: \nu^* = \mathbb E_x \sum_k \frac{\|J_k\|^2}{p^*_k} \Big/
              \mathbb E_x \sum_k \frac{\|J_k\|^2}{p_k^{*2}}

    Args:
        weights, bayes, jacobian: as in :func:`label_gradient_noise`, the Jacobian not 0.
    Returns:
        between the least and the largest entry of p*.
    Raises:
        ValueError: as in :func:`label_gradient_noise`.
    """
    labels = label_gradient_noise(weights, bayes, jacobian)
    return labels / noisy_gradient_noise(weights, bayes, jacobian, 1.0)


def covariance_gradient_noise(
    weights: ArrayLike, bayes: ArrayLike, jacobian: ArrayLike, covariance: ArrayLike
) -> float:
    r"""Of unbiased targets of any covariance C(x): the general form in the module's first lines (derived here).

    Args:
        weights, bayes, jacobian: as in :func:`label_gradient_noise`; covariance: ``(n, K, K)``.
    Raises:
        ValueError: as in :func:`label_gradient_noise`, or a covariance of another shape.
    """
    mass, rows, slopes = _checked(weights, bayes, jacobian)
    spread = float64(covariance, "covariance")
    if spread.shape != (*rows.shape, rows.shape[1]):
        raise ValueError(f"covariance must have shape {(*rows.shape, rows.shape[1])}, received {tuple(spread.shape)}")
    scaled = slopes / rows.unsqueeze(-1)
    return float(mass @ (spread * (scaled @ scaled.transpose(-1, -2))).sum((-1, -2)))


# ----------------------------------------------------------------------------------------------------------- the claims


def _network(table: FiniteMixture, seed: int, parameters_in: str) -> tuple[MLP, Tensor, Tensor, Tensor]:
    """A float64 network, points, weights, and its probabilities there: the p* of a world in which it is the optimum.

    ``logits``: the parameters are the logits themselves, one row a point, and p* is the table's.
    """
    n, k = table.rows.shape
    if parameters_in == "logits":
        net = MLP(num_classes=k, input_shape=(n,), hidden=(), seed=seed).double()
        with torch.no_grad():
            net.head.bias.zero_()
            net.head.weight.copy_(table.rows.log())
        net.head.bias.requires_grad_(False)
        x = torch.eye(n, dtype=torch.float64)
        return net, x, table.weights, table.rows
    x = table.points.flatten(1)
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-9)
    net = MLP(num_classes=k, input_shape=(x.shape[1],), hidden=(5,), activation="tanh", seed=seed).double()
    with torch.no_grad():
        return net, x, table.weights, net(x).logits.softmax(-1)


def _gradient_norms(net: MLP, x: Tensor, targets: Tensor) -> Tensor:
    """Squared norms of the gradients that training on targets ``(n, m, K)`` follows, one example at a time."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    norms = torch.empty(targets.shape[:2], dtype=torch.float64)
    for i, j in product(*map(range, targets.shape[:2])):
        loss = LOSSES["ce"].function(net(x[i : i + 1]).logits, targets[i, j][None]).sum()
        norms[i, j] = _flat(torch.autograd.grad(loss, parameters)).square().sum()
    return norms


def _expected_norm(net: MLP, x: Tensor, weights: Tensor, targets: Tensor, chances: Tensor) -> float:
    """Mean squared gradient over points and, with ``chances`` ``(n, m)``, over the targets of each."""
    return float(weights @ (chances * _gradient_norms(net, x, targets)).sum(-1))


def _one_hot(bayes: Tensor) -> Tensor:
    return torch.eye(bayes.shape[-1], dtype=torch.float64).expand(len(bayes), -1, -1)


def _relative(left: float, right: float) -> Outcome:
    return Outcome(abs(left - right) / (1 + abs(left)), EXACT)


def _labels(table: FiniteMixture, seed: int, parameters_in: str, control: str | None = None) -> Outcome:
    net, x, weights, bayes = _network(table, seed, parameters_in)
    brute = _expected_norm(net, x, weights, _one_hot(bayes), bayes)
    if parameters_in == "logits":
        claimed = one_hot_target_mse(weights, bayes)
        return _relative(brute, claimed / bayes.shape[1] if control == "over_k" else claimed)
    jacobian = probability_jacobian(net, x)[1]
    swapped = noisy_gradient_noise(weights, bayes, jacobian, 1.0)
    return _relative(brute, swapped if control == "swapped_weights" else label_gradient_noise(weights, bayes, jacobian))


def _isotropic_norm(net: MLP, x: Tensor, weights: Tensor, bayes: Tensor, variance: float) -> float:
    r"""Under noise of covariance nu times the identity: :math:`\pm\sqrt{\nu K}` on one entry, drawn uniformly."""
    k = bayes.shape[1]
    axes = (variance * k) ** 0.5 * torch.eye(k, dtype=torch.float64)
    targets = bayes[:, None, :] + torch.cat([axes, -axes])
    chances = torch.full(targets.shape[:2], 1 / (2 * k), dtype=torch.float64)
    return _expected_norm(net, x, weights, targets, chances)


def _noisy(table: FiniteMixture, seed: int, variance: float, control: str | None = None) -> Outcome:
    net, x, weights, bayes = _network(table, seed, "network")
    brute = _isotropic_norm(net, x, weights, bayes, variance)
    jacobian = probability_jacobian(net, x)[1]
    swapped = variance * label_gradient_noise(weights, bayes, jacobian)
    right = noisy_gradient_noise(weights, bayes, jacobian, variance)
    return _relative(brute, swapped if control == "swapped_weights" else right)


def _mixture_noise(table: FiniteMixture, seed: int, share: float, control: str | None = None) -> Outcome:
    net, x, weights, bayes = _network(table, seed, "network" if control == "network_parameters" else "logits")
    brute = _expected_norm(net, x, weights, mixture_targets(bayes, share), bayes)
    return _relative(brute, mixture_target_mse(weights, bayes, share))


def _dirichlet_noise(table: FiniteMixture, seed: int, concentration: float, control: str | None = None) -> Outcome:
    """The mean by the covariance formula, on the logits' own Jacobian, with a covariance by quadrature."""
    net, x, weights, bayes = _network(table, seed, "network" if control == "network_parameters" else "logits")
    covariance = dirichlet_covariance(bayes, concentration)
    brute = covariance_gradient_noise(weights, bayes, probability_jacobian(net, x)[1], covariance)
    return _relative(brute, 0.0 if control == "noise_free" else dirichlet_target_mse(weights, bayes, concentration))


def _dirichlet_draws(table: FiniteMixture, seed: int, concentration: float, control: str | None = None) -> Outcome:
    """Draw by draw: the squared gradient is the squared distance of the target to p*."""
    net, x, _, bayes = _network(table, seed, "network" if control == "network_parameters" else "logits")
    draw = np.random.default_rng(derive(seed, "draws"))
    targets = torch.stack([torch.tensor(draw.dirichlet(concentration * row, 8)) for row in bayes.numpy()])
    distance = simplex.squared_distance(targets, bayes[:, None, :])
    claimed = torch.zeros_like(distance) if control == "noise_free" else distance
    return Outcome(float((_gradient_norms(net, x, targets) - claimed).abs().max()), EXACT)


def _helps(table: FiniteMixture, seed: int, control: str | None = None) -> Outcome:
    """Noise a hundredth weaker and stronger than the threshold, against labels: the worse side, relative to labels."""
    net, x, weights, bayes = _network(table, seed, "network")
    jacobian = probability_jacobian(net, x)[1]
    threshold = helpful_variance(weights, bayes, jacobian)
    if control == "target_mse":
        threshold = one_hot_target_mse(weights, bayes) / bayes.shape[1]
    labels = _expected_norm(net, x, weights, _one_hot(bayes), bayes)
    weaker, stronger = (_isotropic_norm(net, x, weights, bayes, share * threshold) for share in (0.99, 1.01))
    return Outcome(max(weaker - labels, labels - stronger) / labels, -0.01 + EXACT)


def _interpolates(table: FiniteMixture, seed: int, parameters_in: str, control: str | None = None) -> Outcome:
    """The largest gradient of a single example, squared norms' root, at the optimum and with p* as its target."""
    net, x, _, bayes = _network(table, seed, parameters_in)
    targets = _one_hot(bayes) if control == "labels" else bayes[:, None, :]
    if control == "elsewhere":
        draw = generator(seed, "elsewhere")
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64), alpha=0.1)
    return Outcome(float(_gradient_norms(net, x, targets).max().sqrt()), EXACT)


Variants = Sequence[tuple[str, Callable[..., Outcome], Sequence[str]]]
"""Details, checks and the controls that apply to them."""


def _label_checks(table: FiniteMixture, seed: int) -> Variants:
    return [
        ("network", partial(_labels, table, seed, "network"), ["swapped_weights"]),
        ("logits", partial(_labels, table, seed, "logits"), ["over_k"]),
    ]


def _noisy_checks(table: FiniteMixture, seed: int) -> Variants:
    return [("network", partial(_noisy, table, seed, 0.01), ["swapped_weights"])]


def _help_checks(table: FiniteMixture, seed: int) -> Variants:
    return [("network", partial(_helps, table, seed), ["target_mse"])]


def _target_checks(table: FiniteMixture, seed: int) -> Variants:
    return [
        ("mixture", partial(_mixture_noise, table, seed, 0.4), ["network_parameters"]),
        ("Dirichlet", partial(_dirichlet_noise, table, seed, 5.0), ["noise_free", "network_parameters"]),
        ("Dirichlet draws", partial(_dirichlet_draws, table, seed, 5.0), ["noise_free", "network_parameters"]),
    ]


def _interpolation_checks(table: FiniteMixture, seed: int) -> Variants:
    return [
        (where, partial(_interpolates, table, seed, where), ["labels", "elsewhere"]) for where in ("network", "logits")
    ]


def _trials(claim: str, checks: Callable[[FiniteMixture, int], Variants], settings: Settings) -> Sequence[Trial]:
    seed = derive(settings.seed, claim)
    sizes = [(5, 3), *([(6, 4), (8, 2)] if settings.full else [])]
    trials: list[Trial] = []
    for number, table in enumerate(default_tables(settings, seed, sizes, most=12, positive=1e-4)):
        for name, check, controls in checks(table, derive(seed, "network", number)):
            detail = f"{name}, n={len(table.weights)}, K={table.num_classes}"
            trials.append(Trial(world_name(settings), check, loss="ce", detail=detail))
            trials += [
                Trial(world_name(settings), partial(check, control=control), control, "ce", detail)
                for control in controls
            ]
    return trials


CONDITIONS = "the cross-entropy at an optimum whose probabilities are p*, all positive"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="bayes-interpolates",
        number="C11",
        title="With p* as its target, every example's gradient vanishes at the optimum",
        statement="Where q = p*, the gradient of every single example trained on p* is zero, whatever the parameters",
        formula=r"\nabla_\theta\, \mathrm{CE}(p^*(x), q_\theta(x)) = -\sum_k J_k = 0 \quad \mathrm{at}\ q_\theta = p^*",
        conditions=CONDITIONS,
        source="Morad et al. 2026, Lemma 1",
        controls={"labels": "labels are the targets", "elsewhere": "the parameters are moved off the optimum"},
        trials=partial(_trials, "bayes-interpolates", _interpolation_checks),
    ),
    Claim(
        id="label-gradient-noise",
        number="C11",
        title="Gradient noise of labels",
        statement=(
            "At the optimum the mean squared gradient of labelled examples is the mean of |J_k|^2 / p*_k; in logits it "
            "is E[1 - |p*|^2], the constant of the Brier score"
        ),
        formula=r"\sigma^*_f = \mathbb{E}_x \sum_k \frac{\|J_k\|^2}{p^*_k}, \quad J_k = \partial q_k / \partial\theta",
        conditions=CONDITIONS,
        source="Morad et al. 2026, Proposition 3; the form in logits is derived here",
        controls={"swapped_weights": "1 / p* is squared", "over_k": "the mean over classes takes the place of the sum"},
        trials=partial(_trials, "label-gradient-noise", _label_checks),
    ),
    Claim(
        id="noisy-gradient-noise",
        number="C11",
        title="Gradient noise of noisy probabilities",
        statement=(
            "Targets p* plus uncorrelated noise of variance nu have, at the optimum, the mean squared gradient nu "
            "times the mean of |J_k|^2 / p*_k^2"
        ),
        formula=r"\sigma^*_{\tilde{f}} = \nu\,\mathbb{E}_x \sum_k \frac{\|J_k\|^2}{p_k^{*2}}",
        conditions=CONDITIONS + "; noise of mean 0, uncorrelated between classes (so it leaves the simplex)",
        source="Morad et al. 2026, Proposition 3",
        controls={"swapped_weights": "1 / p* is not squared"},
        trials=partial(_trials, "noisy-gradient-noise", _noisy_checks),
    ),
    Claim(
        id="noisy-probabilities-help",
        number="C11",
        title="When noisy probabilities make less gradient noise than labels",
        statement=(
            "Noisy probabilities make less gradient noise at the optimum than labels where the variance of their "
            "entries is below a threshold that the network's Jacobian sets, and more above it"
        ),
        formula=(
            r"\sigma^*_{\tilde{f}} < \sigma^*_f \Leftrightarrow \nu < "
            r"\frac{\mathbb{E}_x \sum_k \|J_k\|^2 / p^*_k}{\mathbb{E}_x \sum_k \|J_k\|^2 / p_k^{*2}}"
        ),
        conditions=CONDITIONS
        + "; noise of mean 0 and variance nu, uncorrelated between classes; tried 1 % either side",
        source="Morad et al. 2026, Proposition 3; the threshold follows",
        controls={"target_mse": "the threshold is the variance at which the targets have the MSE of labels"},
        trials=partial(_trials, "noisy-probabilities-help", _help_checks),
    ),
    Claim(
        id="gradient-noise-is-target-mse",
        number="C11",
        title="Gradient noise in logits is the target's MSE to p*",
        statement=(
            "With the logits as parameters, the mean squared gradient at the optimum is the MSE of the targets to p*, "
            "for mixtures of label and p* and for Dirichlet targets"
        ),
        formula=r"\sigma^* = \mathbb{E}\,\|\tilde{p} - p^*\|^2",
        conditions=CONDITIONS + "; the parameters are the logits of each x",
        source="derived here: the gradient of the cross-entropy in the logits is q minus the target",
        controls={
            "noise_free": "unbiased Dirichlet targets are claimed to make no noise",
            "network_parameters": "the parameters are a network's weights",
        },
        trials=partial(_trials, "gradient-noise-is-target-mse", _target_checks),
    ),
)
