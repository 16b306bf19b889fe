r"""What the released code computes, in the project's own terms: regressions on fixed inputs, each with its control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bcpd import simplex
from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.losses import LOSSES
from bcpd.mixtures import FiniteMixture
from bcpd.nets import build
from bcpd.seeds import derive, generator
from bcpd.theory.claim import Claim, Outcome, Picture, Settings, Trial
from bcpd.theory.finite_tables import default_tables, random_rows, random_table, world_name
from bcpd.theory.instruments.released import (
    LOWEST_LOG,
    ce_of_grey_dots,
    ce_of_teachers,
    criterion,
    distance_of_set,
    grey_dots,
    one_hot_readout,
    training_loss,
)

__all__ = ["CLAIMS"]

EXACT = 1e-12

# softmax of one-hot logits, as printed in the audit: (K, temperature) -> largest probability
READOUTS = {
    (10, 4.0): "0.125",
    (100, 4.0): "0.0128",
    (1000, 4.0): "0.00128",
    (10, 1.0): "0.232",
    (100, 1.0): "0.0267",
    (1000, 1.0): "0.0027",
}
READOUT_MSE = {10: "0.655", 100: "0.957", 1000: "0.996"}  # to the one-hot truth, at temperature 1


def _batch(number: int = 64, num_classes: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """A fixed batch: logits, labels, and the p* that they are drawn from."""
    draw = generator(0, "released")
    logits = 1.5 * torch.randn(number, num_classes, generator=draw, dtype=torch.float64)
    bayes = random_rows(derive(0, "released"), number, num_classes)
    return logits, torch.multinomial(bayes, 1, generator=draw).squeeze(-1), bayes


def _scale(control: str | None) -> Outcome:
    logits, labels, _ = _batch()
    released, ours = float(training_loss(logits, labels)), float(LOSSES["mse"](logits, labels).mean())
    if control == "summed":
        return Outcome(abs(released - ours), EXACT)
    named = float(LOSSES["mse_mean"](logits, labels).mean())
    return Outcome(max(abs(released - named), abs(released - ours / logits.shape[-1])), EXACT)


def _same_training(settings: Settings, control: str | None) -> Outcome:
    """Largest difference of a parameter after training by ``mse`` and by the released scale. K is a power of two."""
    num_classes, rate, decay = 4, 0.2, 0.01
    draw = generator(0, "released", "training")
    x = torch.randn(96, 2, generator=draw, dtype=torch.float64)
    y = torch.randint(num_classes, (96,), generator=draw)
    trained: list[list[Tensor]] = []
    for loss, factor in (("mse", 1), ("mse_mean", num_classes)):
        net = build("mlp", num_classes=num_classes, input_shape=(2,), hidden=(8,), seed=0).double()
        recipe = settings.trainer.recipe(
            epochs=3,
            learning_rate=rate * (1 if control == "same_rate" else factor),
            weight_decay=decay / (1 if control == "same_decay" else factor),
            batch_size=16,
            optimizer="adam" if control == "adam" else "sgd",
            momentum=0.9,
            validation=0.0,
        )
        source = InMemory(x, y, num_classes=num_classes, dtype=torch.float64)
        settings.trainer.fit(net, source, Supervised(loss), recipe, seed=0)
        trained.append([parameter.detach() for parameter in net.parameters()])
    return Outcome(max(float((a - b).abs().max()) for a, b in zip(*trained, strict=True)), EXACT)


def _set_distance(control: str | None) -> Outcome:
    logits, _, bayes = _batch()
    q = logits.softmax(-1)
    mse = simplex.squared_distance(q, bayes).mean()
    factor = {"per_point": 1.0, "over_K": len(q) / q.shape[-1]}.get(control or "", float(len(q)))
    return Outcome(abs(distance_of_set(q, bayes) - float((factor * mse).sqrt())), EXACT)


def _clamp(control: str | None) -> Outcome:
    """Saturated rows: what the cut-off hides of the cross-entropy, and the one number it gives for an exact 0."""
    logits, _, bayes = _batch()
    log_q = (8 * logits).log_softmax(-1)
    ours = simplex.cross_entropy_from_log(bayes, log_q)
    hidden = (bayes * (LOWEST_LOG - log_q).clamp(min=0)).sum(-1)
    if control == "no_clamp":
        hidden = torch.zeros_like(hidden)
    elif control == "clamped_probability":  # log 1e-10 = -23
        ours = simplex.cross_entropy(bayes, log_q.exp().clamp(min=1e-10))
        hidden = torch.zeros_like(hidden)
    error = (ce_of_grey_dots(log_q.exp(), bayes) - (ours - hidden)).abs().max()
    zero = ce_of_grey_dots([1.0, 0.0], [0.25, 0.75]) + 0.75 * LOWEST_LOG
    return Outcome(max(float(error), abs(float(zero))), EXACT)


def _orientation(control: str | None) -> Outcome:
    logits, _, bayes = _batch()
    q = 0.9 * logits.softmax(-1) + 0.1 / logits.shape[-1]  # nothing to cut off
    forward, reverse = simplex.cross_entropy(bayes, q), simplex.cross_entropy(q, bayes)
    if control == "swapped_arguments":
        forward, reverse = reverse, forward
    errors = torch.stack([ce_of_grey_dots(q, bayes) - forward, ce_of_teachers(q, bayes) - reverse])
    return Outcome(float(errors.abs().max()), EXACT)


def _measured_dots(weights: Tensor, bayes: Tensor, share: float) -> dict[str, float]:
    """Expectations over x and the label for grey dots of a share u."""
    n, num_classes = bayes.shape
    labels = torch.arange(num_classes).repeat(n)
    p = bayes.repeat_interleave(num_classes, 0)
    q, mass = grey_dots(p, labels, share), (weights[:, None] * bayes).flatten()
    return {
        "reverse": float(mass @ ce_of_teachers(q, p)),
        "forward": float(mass @ ce_of_grey_dots(q, p)),
        "mse": float(mass @ simplex.squared_distance(q, p)),
    }


def _flat(table: FiniteMixture, control: str | None) -> Outcome:
    """The largest change over u of the reverse cross-entropy (or of another distance, claimed to be as flat)."""
    points, weights = table.support()
    bayes = table.posterior(points)
    name = "reverse" if control is None else control
    values = [_measured_dots(weights, bayes, share)[name] for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return Outcome(max(abs(value - values[0]) for value in values), EXACT)


def _printed(text: str, value: float) -> float:
    """Distance from a printed number in halves of its last digit: at most 1 for the number it was rounded from."""
    digits = len(text.split(".")[1])
    return abs(value - float(text)) / (0.5 * 10.0**-digits)


def _readout(control: str | None) -> Outcome:
    def top(num_classes: int, temperature: float) -> float:
        if control == "projection":
            return float(simplex.project(functional.one_hot(torch.tensor(0), num_classes).double()).max())
        return float(one_hot_readout(num_classes, 1.0 if control == "temperature_one" else temperature).max())

    errors = [_printed(text, top(*case)) for case, text in READOUTS.items()]
    for num_classes, text in READOUT_MSE.items():
        truth = functional.one_hot(torch.tensor(0), num_classes)
        errors.append(_printed(text, float(simplex.squared_distance(truth, one_hot_readout(num_classes, 1.0)))))
    return Outcome(max(errors), 1.0)


def _criterion(control: str | None) -> Outcome:
    logits, labels, _ = _batch()
    one_hot = functional.one_hot(labels, logits.shape[-1]).double()
    chosen = criterion("MSE", repaired=control == "repaired")
    return Outcome(float((chosen(logits, one_hot) - LOSSES["ce"](logits, labels).mean()).abs()), EXACT)


def _trials(run: Callable[[str | None], Outcome], *controls: str) -> Callable[[Settings], Sequence[Trial]]:
    """A regression on the fixed batch with its swapped conventions; none in a user's mixture."""

    def trials(settings: Settings) -> Sequence[Trial]:
        versions = () if settings.mixture is not None else (None, *controls)
        return [Trial("fixed batch", partial(run, control), control) for control in versions]

    return trials


def _training_trials(settings: Settings) -> Sequence[Trial]:
    versions = () if settings.mixture is not None else (None, "same_rate", "same_decay", "adam")
    return [Trial("fixed training", partial(_same_training, settings, control), control) for control in versions]


def _flat_trials(settings: Settings) -> Sequence[Trial]:
    name, tables = world_name(settings), default_tables(settings, derive(0, "released"), [(6, 3), (10, 10)])
    versions = (None, "forward", "mse") if settings.mixture is None else (None,)
    return [Trial(name, partial(_flat, t, c), c, detail=f"K={t.num_classes}") for t in tables for c in versions]


def _picture(settings: Settings) -> Picture:
    """Three distances of the grey dots along u."""
    table = random_table(derive(0, "released", "picture"), 30, 10)
    points, weights = table.support()
    shares = [number / 20 for number in range(20)]
    measured = [_measured_dots(weights, table.posterior(points), share) for share in shares]

    def series(name: str, key: str, colour: str) -> dict[str, Any]:
        values = [float(f"{each[key]:.5g}") for each in measured]
        return {"name": name, "x": shares, "y": values, "style": "line+points", "colour": colour}

    return {
        "kind": "curves",
        "title": "The grey dots of Figure 1, in three distances",
        "caption": "Targets u e_y + (1 - u) p*: the MSE and the forward cross-entropy rise with u and rank them alike; "
        "the reverse one, by which the release places its teachers, does not see u at all.",
        "x_label": "share u of the label",
        "y_label": "expected distance to p*",
        "x_log": False,
        "y_log": False,
        "series": [
            series("MSE", "mse", "mse"),
            series("forward CE (grey dots)", "forward", "ce"),
            series("reverse CE (teachers)", "reverse", "control"),
        ],
        "lines": [],
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="released-scale",
        number="C22",
        title="The released MSE is averaged over classes",
        statement="The toy's training loss is the Brier score divided by the number of classes, the loss mse_mean",
        formula=r"\frac{1}{NK}\sum_n \|\mathrm{softmax}(z_n) - e_{y_n}\|^2 = \frac{1}{K}\,\mathrm{mse}",
        conditions="a fixed batch",
        source="released code, ToyGuassian-MSEKD",
        controls={"summed": "the loss is claimed to be the sum over classes"},
        trials=_trials(_scale, "summed"),
        repeat=False,
    ),
    Claim(
        id="released-scale-training",
        number="C22",
        title="Loss scale is learning rate",
        statement=(
            "Under SGD, training by mse_mean at K times the learning rate and a K-th of the weight decay is training "
            "by mse, weight by weight"
        ),
        formula=r"\eta(\nabla \ell + \lambda\theta) = K\eta(\nabla\frac{\ell}{K} + \frac{\lambda}{K}\theta)",
        conditions="SGD with momentum, no clipping; four classes, so that the scaling is exact in binary",
        source="derived here",
        controls={
            "same_rate": "the learning rate is not scaled",
            "same_decay": "the weight decay is not scaled",
            "adam": "the optimizer is Adam, which ignores the scale",
        },
        trials=_training_trials,
        repeat=False,
    ),
    Claim(
        id="released-distance",
        number="C22",
        title="The released distance is a norm of the whole set",
        statement="The plotted distance is the root of the number of points times the MSE",
        formula=r"\mathrm{dist}(q, p^*) = \sqrt{N \cdot \mathrm{MSE}}",
        conditions="a fixed batch of N points; MSE summed over classes",
        source="released code, ToyGuassian-MSEKD",
        controls={
            "per_point": "it is claimed to be the root of the MSE",
            "over_K": "it is claimed to use the MSE averaged over classes",
        },
        trials=_trials(_set_distance, "per_point", "over_K"),
        repeat=False,
    ),
    Claim(
        id="released-clamp",
        number="C22",
        title="Logarithms cut off at -10",
        statement=(
            "The plotted cross-entropy is the true one less what lies below a logarithm of -10, so an exact 0 costs 10"
        ),
        formula=r"-\sum_k p_k \max(\log q_k, -10) = H(p, q) - \sum_k p_k (-10 - \log q_k)_+",
        conditions="a fixed batch of saturated rows",
        source="released code, ToyGuassian-MSEKD",
        controls={
            "no_clamp": "nothing is claimed to be cut off",
            "clamped_probability": "probabilities are cut off at 1e-10, logarithms at -23",
        },
        trials=_trials(_clamp, "no_clamp", "clamped_probability"),
        repeat=False,
    ),
    Claim(
        id="released-orientation",
        number="C22",
        title="Two orientations of CE on one axis",
        statement="The release places noisy targets by CE(p*, q), and teachers by CE(q, p*)",
        formula=r"\mathrm{grey}: -\sum_k p^*_k \log q_k, \quad \mathrm{teachers}: -\sum_k q_k \log p^*_k",
        conditions="rows with no logarithm below -10",
        source="released code, ToyGuassian-MSEKD",
        controls={"swapped_arguments": "the two orientations are exchanged"},
        trials=_trials(_orientation, "swapped_arguments"),
        repeat=False,
    ),
    Claim(
        id="released-grey-dots",
        number="C22",
        title="The reverse CE does not see the noise",
        statement=(
            "Over labels, the reverse cross-entropy of the noisy targets u e_y + (1 - u) p* is that of p* itself for "
            "every u"
        ),
        formula=r"\mathbb{E}\,\mathrm{CE}(u\,e_y + (1-u)p^*, p^*) = \mathbb{E}\,\mathrm{CE}(p^*, p^*)",
        conditions="labels drawn from p*; with or without the cut-off",
        source="derived here: the reverse cross-entropy is linear in the target, whose mean is p*",
        controls={
            "forward": "the forward cross-entropy is claimed to be as flat",
            "mse": "the MSE is claimed to be as flat",
        },
        trials=_flat_trials,
        picture=_picture,
        repeat=False,
    ),
    Claim(
        id="released-readout",
        number="C22",
        title="One-hot logits read out by softmax",
        statement=(
            "A square loss on raw logits leads to logits p*; softmax turns one-hot logits into .125 (K = 10), .0128 "
            "(K = 100) and .00128 (K = 1000) at temperature 4"
        ),
        formula=r"\max_k \mathrm{softmax}(e_1/T)_k = \frac{e^{1/T}}{e^{1/T} + K - 1}",
        conditions="the printed digits; errors in halves of the last digit",
        source="released code, CIFAR scripts",
        controls={
            "projection": "the logits are read out by projection onto the simplex",
            "temperature_one": "the temperature is 1 everywhere",
        },
        trials=_trials(_readout, "projection", "temperature_one"),
        repeat=False,
    ),
    Claim(
        id="released-criterion",
        number="C22",
        title="The released CIFAR criterion is cross-entropy",
        statement="Asked for MSE, the CIFAR script trains by cross-entropy, with one-hot rows in place of labels",
        formula=r"\mathrm{criterion}(z, e_y) = -\log \mathrm{softmax}(z)_y",
        conditions="a fixed batch",
        source="released code, CIFAR scripts: a bound method is compared with a string",
        controls={"repaired": "the comparison is repaired, which trains by MSE on raw logits"},
        trials=_trials(_criterion, "repaired"),
        repeat=False,
    ),
)
