r"""The first-order law of an M-estimator: what a loss costs in distance to p* at sample size N.

For :math:`\hat\theta = \arg\min \frac1N \sum_i \ell(y_i, z_\theta(x_i))` and :math:`\theta^\circ` the minimiser of the
population risk, with the score :math:`\psi = \nabla_\theta \ell`, :math:`B = E\,\psi\psi^\top` and the full Hessian
:math:`A = \nabla^2 E\,\ell` at :math:`\theta^\circ` (van der Vaart 1998, theorem 5.21; Huber 1967; White 1982):

.. math:: \sqrt N (\hat\theta - \theta^\circ) \to N(0, V), \qquad V = A^+ B A^+ .

A distance to p*, :math:`D(\theta) = E\,d(p^*, q_\theta)`, then has (derived here, by two terms of Taylor's formula)

.. math:: E\,D(\hat\theta) = D(\theta^\circ) + \frac1N \Bigl( \nabla D^\top b + \tfrac12
          \mathrm{tr}(\nabla^2 D\, V) \Bigr) + O(N^{-2}),

where :math:`b = \lim N\,E(\hat\theta - \theta^\circ)` is the first-order bias (Cox & Snell 1968 for likelihoods; for
any M-estimator by solving :math:`0 = \bar\psi + \bar H \delta + \tfrac12 T[\delta, \delta]` for :math:`\delta` to
second order):

.. math:: b = A^+ \Bigl( E[\nabla\psi\, A^+ \psi] - \tfrac12\, T[V] \Bigr), \qquad
          T[V]_j = \sum_{kl} \partial_j \partial_k \partial_l E\,\ell\; V_{kl} .

Where the class contains p*, :math:`\nabla D = 0` and the coefficients are :math:`\mathrm{tr}(E[J^\top J] V)` for the
squared distance, J the derivative of the probabilities, and :math:`\tfrac12 \mathrm{tr}(I V)` for KL, I Fisher's
information: rank / 2 for the cross-entropy, whose A and B are both I.

:math:`A^+` inverts on the identifiable directions, the row space of J. A class is regular at :math:`\theta^\circ` if
the rank of J is constant around it; then a slice through :math:`\theta^\circ` along those directions is a smooth
parametrisation of the same functions, in which all of the above holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bcpd import simplex
from bcpd.losses import LOSSES, Loss
from bcpd.mixtures import Mixture
from bcpd.nets import Net
from bcpd.seeds import generator
from bcpd.theory.asymptotic.estimators import Law, law_of, minimiser_of
from bcpd.theory.asymptotic.models import Design, LinearModel, Model, NetModel
from bcpd.theory.linear import exact_parameters, linear_design

__all__ = ["Asymptotics", "asymptotics", "efficiency_ratio", "fisher_rank", "model_of", "proper_loss"]

_NULL = 1e-10  # an eigenvalue of Fisher's information below this share of the largest is zero
_GAP = 1e3  # and the smallest of the others must be so many times as large as the largest of these
_INSIDE = 1e-14  # an optimum whose squared distance to p* is smaller belongs to a class that contains p*
_STATIONARY = 1e-6  # the largest gradient at which parameters pass for a minimum
_ENTRIES = 2 * 10**7


@dataclass(frozen=True)
class Asymptotics:
    r"""Limits of an M-estimator; P parameters.

    Attributes:
        loss: its name.
        theta: the population optimum, ``(P,)``.
        rank: identifiable dimension; (K - 1)(d + 1) for the linear softmax.
        covariance: V, limit of :math:`N\,\mathrm{Cov}(\hat\theta)`, ``(P, P)``.
        bias: b, limit of :math:`N\,E(\hat\theta - \theta^\circ)` in the identifiable directions, ``(P,)``; zero is
            returned where the class contains p*, since no distance then depends on it to first order.
        fisher: :math:`I = E[J_z^\top (\mathrm{diag}\,q - qq^\top) J_z]`, ``(P, P)``.
        gram: :math:`E[J^\top J]`, ``(P, P)``.
        hessian: A; score_covariance: B.
        mse, kl: distances of the optimum, nats for KL; 0 up to rounding where the class contains p*.
        n_mse, n_kl: the coefficients of 1/N in the expected distances.
        well_specified: whether the class contains p*: then N MSE -> ``n_mse`` and N KL -> ``n_kl``.
    """

    loss: str
    theta: Tensor
    rank: int
    covariance: Tensor
    bias: Tensor
    fisher: Tensor
    gram: Tensor
    hessian: Tensor
    score_covariance: Tensor
    mse: float
    kl: float
    n_mse: float
    n_kl: float
    well_specified: bool

    def expected(self, metric: str, n: float) -> float:
        """``D + c / n`` for the metric ``mse`` or ``kl``.

        Raises:
            ValueError: another metric, or an n that is not positive.
        """
        if metric not in ("mse", "kl"):
            raise ValueError(f"metric must be 'mse' or 'kl', received {metric!r}")
        if not n > 0:
            raise ValueError(f"n must be a positive number of samples, received {n!r}")
        limit: float = getattr(self, metric)
        coefficient: float = getattr(self, f"n_{metric}")
        return limit + coefficient / n


def asymptotics(
    mixture: Mixture | Law,
    model: Model | Net | Design = linear_design,
    loss: Loss | str = "ce",
    *,
    theta: Tensor | None = None,
    seed: int = 0,
) -> Asymptotics:
    """The limits for a loss, a class and a mixture.

    Args:
        mixture: finite X (exact), Gaussians in 1 or 2 dimensions (quadrature), else a fixed large sample of its x.
        model: a design (x to rows), by default ``[x, 1]``: the linear softmax; a network, around its own parameters or
            ``theta``; or a :class:`bcpd.theory.asymptotic.models.Model`.
        loss: a smooth strictly proper loss, or its name in ``LOSSES``.
        theta: the population optimum ``(P,)``, float64; where it is not given, searched from many starts (linear
            classes only).
        seed: of the starts, and of a sample of x.
    Raises:
        ValueError: a loss that is not strictly proper; a class whose Fisher information has no constant rank around
            the optimum; a ``theta`` of another shape or type, or that is no minimum; no finite minimum, or a lower risk
            at infinity.
    """
    loss = proper_loss(loss)
    law = mixture if isinstance(mixture, Law) else law_of(mixture, seed=seed)
    chosen = model_of(model, law)
    if theta is None:
        if isinstance(chosen, NetModel):
            raise ValueError("theta must be given for a network, whose risk has many minima, e.g. NetModel(net).theta")
        theta = _optimum(law, chosen, loss, seed)
    theta = _checked(theta, chosen)
    _size_limit(law, chosen)
    rank = fisher_rank(law, chosen, theta)
    features = chosen.features(law.x)

    def risk(z: Tensor) -> Tensor:
        return law.mean(loss.function(z, law.bayes.expand(len(z), -1, -1)))

    def squared(z: Tensor) -> Tensor:
        return law.mean(simplex.squared_distance(law.bayes, z.softmax(-1)))

    def divergence(z: Tensor) -> Tensor:
        return law.mean(simplex.kl_from_log(law.log_bayes, z.log_softmax(-1)))

    jacobian, log_q = _jacobian(law, chosen, theta)
    probabilities = _softmax_jacobian(jacobian, log_q.exp())
    fisher = _information(law, jacobian, log_q.exp())
    basis = torch.linalg.eigh(fisher).eigenvectors[:, -rank:]
    at = chosen.derivatives(theta[None], features, risk)
    hessian = at.hessian[0]
    inner = basis.T @ hessian @ basis
    slope = float((basis @ (basis.T @ at.gradient[0])).abs().max())
    least = float(torch.linalg.eigvalsh(inner).min())
    if least <= 0 or slope > _STATIONARY:
        raise ValueError(
            f"theta must be a minimum of the {loss.name} risk, where its gradient is 0 and its Hessian positive on the "
            f"identifiable directions, received a gradient whose largest entry is {slope:.2g} and a least curvature "
            f"of {least:.2g} along those directions"
        )
    inverse = basis @ torch.linalg.inv(inner) @ basis.T
    scores = _scores(law, chosen, loss, theta)
    score_covariance = torch.einsum("n,nk,nki,nkj->ij", law.weights, law.bayes, scores, scores)
    covariance = inverse @ score_covariance @ inverse
    mse, kl = (float(value) for value in law.distances(chosen, theta[None]))
    inside = mse < _INSIDE
    bias = torch.zeros_like(theta)
    if not inside:
        change = _change_of_score(law, chosen, loss, theta, inverse)
        third = _third_derivative(lambda at: risk(chosen.logits(at[None], features)).sum(), theta, covariance)
        bias = inverse @ (change - third / 2)
    coefficients = []
    for distance in (squared, divergence):
        of = chosen.derivatives(theta[None], features, distance)
        coefficients.append(float((of.hessian[0] * covariance).sum()) / 2 + float(of.gradient[0] @ bias))
    return Asymptotics(
        loss=loss.name,
        theta=theta,
        rank=rank,
        covariance=covariance,
        bias=bias,
        fisher=fisher,
        gram=torch.einsum("n,nki,nkj->ij", law.weights, probabilities, probabilities),
        hessian=hessian,
        score_covariance=score_covariance,
        mse=mse,
        kl=kl,
        n_mse=coefficients[0],
        n_kl=coefficients[1],
        well_specified=inside,
    )


def efficiency_ratio(
    mixture: Mixture | Law,
    model: Model | Net | Design = linear_design,
    loss: Loss | str = "mse",
    *,
    theta: Tensor | None = None,
    seed: int = 0,
) -> float:
    r"""How many times as many samples a loss needs as the cross-entropy for the same expected squared distance to p*.

    The ratio of the two limits of N MSE, at least 1 for a class that contains p* (the inverse of Fisher's information
    is the least covariance, Hajek 1970).

    Raises:
        ValueError: a class that does not contain p*, where the limits of the distances differ and no ratio of
            coefficients compares the losses: see :func:`bcpd.theory.asymptotic.samples.samples_until`; and as
            :func:`asymptotics`.
    """
    law = mixture if isinstance(mixture, Law) else law_of(mixture, seed=seed)
    own, best = (asymptotics(law, model, each, theta=theta, seed=seed) for each in (loss, "ce"))
    if not best.well_specified:
        raise ValueError(
            f"the class must contain p* for an efficiency ratio, received one whose best member under the "
            f"cross-entropy is {best.mse:.3g} from it in MSE"
        )
    return own.n_mse / best.n_mse


def model_of(model: Model | Net | Design, law: Law) -> Model:
    """A design (images flattened) as the class linear in it, a network as the class around it, a model as it is."""
    if isinstance(model, Model):
        return model
    if isinstance(model, Net):
        return NetModel(model)
    return LinearModel(model(law.x.flatten(1)).shape[1], law.num_classes, model)


def fisher_rank(
    law: Law,
    model: Model,
    theta: Tensor,
    *,
    radii: Sequence[float] = (0.01, 0.1, 1.0),
    draws: int = 3,
    seed: int = 0,
) -> int:
    """The rank of Fisher's information at ``theta``, having checked that it is no larger around it.

    A class linear in its parameters has the rank of its design everywhere. For a network the information is computed
    at ``draws`` points at each of several distances too: a hidden unit that is dead, blind or the copy of another has
    directions whose information vanishes at theta and nowhere else, and no normal limit. An analytic class has its
    largest rank almost everywhere, so that a point far off tells as well as one nearby, where what is new may be too
    small to be seen. Far off units saturate: a smaller rank there says nothing.

    Raises:
        ValueError: a larger rank around it, or eigenvalues that leave the rank at theta open.
    """
    rank = _rank(_fisher(law, model, theta))
    if isinstance(model, LinearModel):
        return rank
    draw = generator(seed, "neighbourhood")
    for radius in (radius for radius in radii for _ in range(draws)):
        direction = torch.randn(len(theta), generator=draw, dtype=torch.float64)
        near = int((~_is_null(_eigenvalues(_fisher(law, model, theta + radius * direction / direction.norm())))).sum())
        if near > rank:
            raise ValueError(
                f"the class is not regular here: Fisher's information has rank {rank} of {model.size} at these "
                f"parameters, and {near} at a distance of {radius}, so that the estimates have no normal limit"
            )
    return rank


def proper_loss(loss: Loss | str) -> Loss:
    """The loss, or the one of that name.

    Raises:
        ValueError: one that is not strictly proper, whose estimates do not tend to p*, or an unknown name.
    """
    found = LOSSES.get(loss) if isinstance(loss, str) else loss
    if found is None or not found.proper:
        proper = sorted(name for name, entry in LOSSES.items() if entry.proper)
        raise ValueError(f"loss must be strictly proper, one of {proper} or your own, received {loss!r}")
    return found


def _checked(theta: object, model: Model) -> Tensor:
    if not isinstance(theta, Tensor) or theta.dtype != torch.float64 or theta.shape != (model.size,):
        received = f"{theta.dtype} {tuple(theta.shape)}" if isinstance(theta, Tensor) else type(theta).__name__
        raise ValueError(
            f"theta must be a float64 tensor ({model.size},) of this class's parameters, received {received}"
        )
    if not bool(theta.isfinite().all()):
        raise ValueError(f"theta must be finite, received {theta.tolist()}")
    return theta.detach()


def _size_limit(law: Law, model: Model) -> None:
    entries = len(law.x) * model.num_classes * model.size
    if entries > _ENTRIES:
        raise ValueError(
            f"{len(law.x)} points x {model.num_classes} classes x {model.size} parameters exceed the {_ENTRIES:.0e} "
            "derivatives this holds in memory: take fewer points (law_of(mixture, points=...)) or columns"
        )


def _optimum(law: Law, model: Model, loss: Loss, seed: int) -> Tensor:
    """Of a class linear in its parameters: those of p* where it contains p*, else the best of many starts."""
    nowhere = torch.zeros(model.size, dtype=torch.float64)
    if isinstance(model, LinearModel):
        exact = exact_parameters(model.features(law.x), law.log_bayes)
        if exact is not None:
            theta = nowhere.reshape(model.columns, model.free).clone()
            theta[:, : law.num_classes - 1] = exact
            return theta.reshape(-1)
    # the rank of a linear class is the same everywhere: taken at 0, where nothing saturates
    return minimiser_of(law, model, loss, seed, rank=_rank(_fisher(law, model, nowhere)))


def _fisher(law: Law, model: Model, theta: Tensor) -> Tensor:
    jacobian, log_q = _jacobian(law, model, theta)
    return _information(law, jacobian, log_q.exp())


def _jacobian(law: Law, model: Model, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of the logits ``(n, K, P)`` and log-probabilities ``(n, K)``."""
    features = model.features(law.x)
    return model.jacobian(theta, features), model.logits(theta[None], features)[0].detach().log_softmax(-1)


def _softmax_jacobian(jacobian: Tensor, q: Tensor) -> Tensor:
    r"""Derivatives of the probabilities: :math:`(\mathrm{diag}\,q - qq^\top) J_z`."""
    return q[..., None] * (jacobian - torch.einsum("nk,nkp->np", q, jacobian)[:, None])


def _information(law: Law, jacobian: Tensor, q: Tensor) -> Tensor:
    return torch.einsum("n,nki,nkj->ij", law.weights, _softmax_jacobian(jacobian, q), jacobian)


def _eigenvalues(information: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh((information + information.mT) / 2).clamp(min=0)
    return values


def _is_null(values: Tensor) -> Tensor:
    return torch.le(values, _NULL * values[-1])


def _rank(information: Tensor) -> int:
    values = _eigenvalues(information)
    null = _is_null(values)
    rank = int((~null).sum())
    if not float(values[-1]) > 0 or float(values[~null].min()) < _GAP * float(values[null].amax() if null.any() else 0):
        raise ValueError(
            f"the rank of Fisher's information is not clear: its eigenvalues {[f'{v:.1e}' for v in values.tolist()]} "
            "have no gap"
        )
    return rank


def _outcome_gradients(model: Model, loss: Loss, theta: Tensor, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """One theta for each x, and the gradient ``(n, P)`` of the loss of the outcome k in it, differentiable."""
    each = theta.expand(len(features), -1).clone().requires_grad_()
    z = model.logits(each, features[:, None])[:, 0]
    value = loss.function(z, torch.full((len(z),), k))
    (gradient,) = torch.autograd.grad(value.sum(), each, create_graph=True)
    return each, gradient


def _scores(law: Law, model: Model, loss: Loss, theta: Tensor) -> Tensor:
    """The score of every outcome at every x: ``(n, K, P)``."""
    features = model.features(law.x)
    scores = [_outcome_gradients(model, loss, theta, features, k)[1].detach() for k in range(law.num_classes)]
    return torch.stack(scores, 1)


def _change_of_score(law: Law, model: Model, loss: Loss, theta: Tensor, inverse: Tensor) -> Tensor:
    r""":math:`E[\nabla\psi\, A^+ \psi]`, ``(P,)``: one Hessian-vector product for each x and outcome."""
    features, total = model.features(law.x), torch.zeros_like(theta)
    for k in range(law.num_classes):
        each, gradient = _outcome_gradients(model, loss, theta, features, k)
        along = gradient.detach() @ inverse
        (product,) = torch.autograd.grad((gradient * along).sum(), each)
        total += (law.weights * law.bayes[:, k]) @ product
    return total


def _third_derivative(risk: Callable[[Tensor], Tensor], theta: Tensor, covariance: Tensor) -> Tensor:
    r""":math:`T[V] = \nabla_\theta\, \mathrm{tr}(V\, \nabla^2 R)`, ``(P,)``, by the axes of V."""
    values, axes = torch.linalg.eigh(covariance)
    theta = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(risk(theta), theta, create_graph=True)
    total = theta.new_zeros(())
    for value, axis in zip(values, axes.T, strict=True):
        if value > _NULL * values[-1]:
            (along,) = torch.autograd.grad(gradient @ axis, theta, create_graph=True)
            total = total + value * (along @ axis)
    (third,) = torch.autograd.grad(total, theta)
    return third
