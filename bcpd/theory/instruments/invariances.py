r"""What leaves p* as it is, or changes it by a known formula: maps of x, names of classes, priors, noise, merging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bcpd.mixtures import (
    FAMILIES,
    Affine,
    Bend,
    GaussianMixture,
    LabelNoise,
    Mixture,
    PriorShift,
    SinhArcsinh,
    StudentMixture,
    Superclasses,
    Warp,
    Warped,
    from_spec,
)
from bcpd.seeds import derive, generator
from bcpd.theory.claim import Claim, Outcome, Settings, Trial

__all__ = ["CLAIMS"]

BOUND = 1e-9
POINTS = 2000

# the parameters with a row for each class, and the number of axes from which on the scale has one too
_ROWS: Mapping[str, tuple[str, str | None, int]] = {
    "gaussian": ("means", "covariance", 3),
    "student": ("means", "scale", 3),
    "laplace": ("means", "scales", 2),
    "bernoulli": ("theta", None, 0),
    "categorical": ("probabilities", None, 0),
}
QUICK = ("gaussian-2d-shared", "gaussian-classwise", "student", "laplace", "bernoulli", "categorical", "finite")


def _draw(seed: int, purpose: str) -> Callable[..., Tensor]:
    stream = generator(seed, purpose)
    return lambda *shape: torch.randn(*shape, generator=stream, dtype=torch.float64)


def _largest_gap(found: Tensor, expected: Tensor) -> Outcome:
    return Outcome(float((found - expected).abs().max()), BOUND)


def _points(mixture: Mixture, seed: int) -> Tensor:
    return mixture.sample(POINTS, derive(seed, "points"))[0]


# --------------------------------------------------------------------------------------------------------- maps of x


def _affine(mixture: Mixture, seed: int, control: str | None) -> Outcome:
    """Elliptical families with means and scales moved as ``A x + b`` moves them; A has condition number 9."""
    if not isinstance(mixture, GaussianMixture | StudentMixture):
        raise ValueError(f"affine images in closed form are for elliptical families, received {mixture.kind}")
    normal, (dimension,) = _draw(seed, "affine"), mixture.shape
    left, right = (torch.linalg.qr(normal(dimension, dimension))[0] for _ in range(2))
    matrix = left * torch.linspace(0.5, 4.5, dimension, dtype=torch.float64) @ right
    offset = 5 * normal(dimension)
    name = "covariance" if isinstance(mixture, GaussianMixture) else "scale"
    scale = mixture.covariance if isinstance(mixture, GaussianMixture) else mixture.scale
    if scale.ndim <= 1:
        scale = torch.diag(scale.expand(dimension))
    moved = scale if control == "scale_not_moved" else matrix @ scale @ matrix.T
    means = (mixture.means @ matrix.T + offset).tolist()
    spec = {**mixture.spec(), "means": means, "weights": mixture.weights.tolist(), name: moved.tolist()}
    image, x = from_spec(spec), _points(mixture, seed)
    there = x @ matrix.T + offset
    if control == "missing_log_determinant" and isinstance(image, GaussianMixture):
        quadratic = image.log_density(there) + image.covariance.logdet() / 2
        return _largest_gap((quadratic + image.priors.log()).softmax(-1), mixture.posterior(x))
    return _largest_gap(image.posterior(there), mixture.posterior(x))


def _warp(mixture: Mixture, seed: int, control: str | None, make: Callable[[int, int], Warp]) -> Outcome:
    """The posterior at the image of x is that at x."""
    dimension = torch.Size(mixture.shape).numel()
    warp, z = make(seed, dimension), _points(mixture, seed)
    image = Warped(mixture, warp)
    support = mixture.support()
    if support is not None:
        z = support[0]
        x = image.support()[0]  # type: ignore[index]
    else:
        x = warp.forward(z.flatten(1)).reshape(z.shape)
    expected = mixture.posterior(z)
    if control == "inverse_forgotten":
        return _largest_gap(mixture.posterior(x), expected)
    if control == "jacobian_in_one_class":
        logs = image.log_posterior(x)
        logs[:, 0] += _log_jacobian(warp, x.flatten(1))
        return _largest_gap(logs.softmax(-1), expected)
    return _largest_gap(image.posterior(x), expected)


def _log_jacobian(warp: Warp, x: Tensor) -> Tensor:
    """log |det| of the derivative of the warp's inverse, ``(n,)``."""
    rows = x.clone().requires_grad_()
    z = warp.inverse(rows)
    columns = [torch.autograd.grad(z[:, j].sum(), rows, retain_graph=True)[0] for j in range(x.shape[1])]
    return torch.stack(columns, 1).det().abs().log()


def _turn(seed: int, dimension: int) -> Affine:
    normal = _draw(seed, "turn")
    matrix = torch.linalg.qr(normal(dimension, dimension))[0] * torch.linspace(0.5, 2, dimension, dtype=torch.float64)
    return Affine(matrix, 3 + normal(dimension))


def _skew(seed: int, dimension: int) -> SinhArcsinh:
    return SinhArcsinh(0.5 + 0.1 * _draw(seed, "skew")(dimension).tanh(), 0.7)


def _bend(seed: int, dimension: int) -> Bend:
    return Bend(0.8 + 0.1 * float(_draw(seed, "bend")(1).tanh()))


# --------------------------------------------------------------------------------------------- names, priors and labels


def _relabelled(mixture: Mixture, seed: int, control: str | None) -> Outcome:
    """Parameters in another order give the columns of p* in that order; here every class is called its successor."""
    spec, classes = mixture.spec(), mixture.num_classes
    order = [(k + 1) % classes for k in range(classes)]
    rows, scale, axes = _ROWS[mixture.kind]
    changed: dict[str, Any] = {key: _picked(spec[key], order) for key in (rows, "weights", "priors")}
    if scale is not None and torch.tensor(spec[scale]).ndim >= axes:
        changed[scale] = _picked(spec[scale], order)
    x = _points(mixture, seed)
    columns = {"wrong_permutation": list(range(classes))}.get(control or "", order)
    return _largest_gap(from_spec({**spec, **changed}).posterior(x), mixture.posterior(x)[:, columns])


def _picked(rows: Any, order: Sequence[int]) -> Any:
    return None if rows is None else [rows[k] for k in order]


def _prior_shift(mixture: Mixture, seed: int, control: str | None) -> Outcome:
    """The formula against the same densities with the new priors written in."""
    priors = _tilted(mixture.priors)
    direct = from_spec({**mixture.spec(), "priors": priors.tolist()})
    if control == "ratio_upside_down":
        priors = mixture.priors.square() / priors
        priors = priors / priors.sum()
    x = _points(mixture, seed)
    return _largest_gap(PriorShift(mixture, priors).posterior(x), direct.posterior(x))


def _tilted(priors: Tensor) -> Tensor:
    tilted = priors * torch.linspace(1, 3, len(priors), dtype=torch.float64)
    return tilted / tilted.sum()


def _merged(mixture: Mixture, seed: int, control: str | None) -> Outcome:
    """Odd and even classes merged: columns of p* are added."""
    classes, x = mixture.num_classes, _points(mixture, seed)
    groups = [list(range(0, classes, 2)), list(range(1, classes, 2))]
    p = mixture.posterior(x)
    if control == "averaged":
        expected = torch.stack([p[:, group].mean(1) for group in groups], 1)
        expected = expected / expected.sum(1, keepdim=True)
    else:
        expected = torch.stack([p[:, group].sum(1) for group in groups], 1)
    return _largest_gap(Superclasses(mixture, groups).posterior(x), expected)


def _two_channels(mixture: Mixture, seed: int, control: str | None) -> Outcome:
    """Two noise channels in a row are one, with the product of their matrices in the order of the data."""
    normal, classes = _draw(seed, "channels"), mixture.num_classes
    identity = torch.eye(classes, dtype=torch.float64)
    first = 0.7 * identity + 0.3 * normal(classes, classes).softmax(-1)
    # everything to class 0: far from commuting with the first, whatever that is
    second = 0.5 * identity + 0.5 * (torch.arange(classes) == 0)
    once = second @ first if control == "wrong_order" else first @ second
    x = _points(mixture, seed)
    nested = LabelNoise(LabelNoise(mixture, first), second)
    return _largest_gap(nested.posterior(x), LabelNoise(mixture, once).posterior(x))


def _argmax_kept(mixture: Mixture, seed: int, control: str | None) -> Outcome:
    """What is lost in p* by deciding for the largest class under symmetric noise of rate 0.9: nothing."""
    noise = LabelNoise.rotating if control == "not_symmetric" else LabelNoise.symmetric
    x = _points(mixture, seed)
    p, chosen = mixture.posterior(x), noise(mixture, 0.9).posterior(x).argmax(-1, keepdim=True)
    return _largest_gap(p.gather(-1, chosen)[:, 0], p.amax(-1))


# --------------------------------------------------------------------------------------------------------------- trials

_Check = Callable[[Mixture, int, str | None], Outcome]


def _checks(mixture: Mixture) -> dict[str, tuple[_Check, tuple[str, ...], tuple[str, ...]]]:
    """By name: the check, the controls that must fail, and those without bearing."""
    dimension = torch.Size(mixture.shape).numel()
    found: dict[str, tuple[_Check, tuple[str, ...], tuple[str, ...]]] = {}
    if isinstance(mixture, GaussianMixture | StudentMixture) and dimension > 1:
        own = isinstance(mixture, GaussianMixture) and mixture.means.shape[1] == 1 and not mixture.shared
        found["affine"] = (_affine, ("scale_not_moved", *(["missing_log_determinant"] if own else [])), ())
    inverse = ("inverse_forgotten",) if _continuous(mixture) else ()
    found["turned"] = (partial(_warp, make=_turn), inverse, ())
    found["skewed"] = (partial(_warp, make=_skew), (*inverse, "jacobian_in_one_class"), ())
    if dimension > 1:
        # a bend keeps volumes: its Jacobian is 1
        found["bent"] = (partial(_warp, make=_bend), inverse, ("jacobian_in_one_class",))
    if mixture.kind in _ROWS:
        found["relabelled"] = (_relabelled, ("wrong_permutation",), ())
        found["prior shift"] = (_prior_shift, ("ratio_upside_down",), ())
    if mixture.num_classes > 2:
        found["merged"] = (_merged, ("averaged",) if mixture.num_classes % 2 else (), ())
    found["two channels"] = (_two_channels, ("wrong_order",), ())
    found["argmax"] = (_argmax_kept, ("not_symmetric",), ())
    return found


def _continuous(mixture: Mixture) -> bool:
    """Whether p* is there between the points of a sample too."""
    try:
        mixture.posterior(mixture.sample(2, 0)[0] + 0.37)
    except ValueError:
        return False
    return True


def _trials(settings: Settings) -> list[Trial]:
    if settings.mixture is not None:
        mixtures = dict([settings.mixture])
    else:
        mixtures = {name: FAMILIES[name]() for name in (FAMILIES if settings.full else QUICK)}
    trials = []
    for name, mixture in mixtures.items():
        if mixture.num_classes < 2:
            continue
        seed = derive(settings.seed, "posterior-invariance", name)
        for detail, (check, failing, harmless) in _checks(mixture).items():
            run = partial(check, mixture, seed)
            trials.append(Trial(name, partial(run, None), detail=detail))
            trials += [Trial(name, partial(run, key), key, detail=detail) for key in failing]
            trials += [Trial(name, partial(run, key), key, detail=detail, harmless=True) for key in harmless]
    return trials


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "posterior-invariance",
        "C19",
        "What moves p*, and what does not",
        "Invertible maps of x leave p* as it is; new names, new priors, label noise and merging change it by their "
        "formulas, whatever the family.",
        r"p^*(g(x)) = p^*(x), \quad p'_k \propto p^*_k\,\frac{\pi'_k}{\pi_k}, \quad "
        r"\tilde{p} = p^* T, \quad p^* T_1 T_2 = (p^* T_1)\,T_2",
        "Every mixture; closed forms of parameters where the family has them. Symmetric noise keeps the largest class "
        "for every rate below 1.",
        "the Jacobian is the same under every class: Theisen et al. 2021, section 3; the rest from Bayes' rule",
        {
            "scale_not_moved": "the means move and the covariances do not",
            "missing_log_determinant": "the log-determinants of the classes' covariances are dropped",
            "inverse_forgotten": "the warped x is read as if it were the original",
            "jacobian_in_one_class": "one class alone gets the Jacobian of the warp",
            "wrong_permutation": "the columns of p* keep their order",
            "ratio_upside_down": "the ratio of priors stands upside down",
            "averaged": "the classes of a group are averaged, not added",
            "wrong_order": "the two matrices are multiplied the wrong way round",
            "not_symmetric": "the noise moves labels to the next class alone",
        },
        _trials,
    ),
)
