"""Quickstart: on the paper's synthetic mixture, is an MSE teacher closer to p*, and does its student do better?

The mixture is that of the paper's release (``paper.md`` A4: 10 classes, 30 dimensions, means on {-1, 0, 1}, variance
6). Each loss trains teachers at its own learning rate, tuned on draws of their own by its own validation score (NLL for
CE, Brier for MSE) under one stopping rule; a student learns from each teacher alone (KD at T = 1, the release's
setting) at a rate tuned for students of the exact p*, the same for all arms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bcpd.data import InMemory
from bcpd.distill import KD, Method, Supervised
from bcpd.mixtures import Mixture, paper_toy
from bcpd.nets import Net, build
from bcpd.provenance import provenance
from bcpd.runs import Quantity, Trial, choose, summarise
from bcpd.seeds import derive
from bcpd.train import Fitted, Progress, Recipe, fit

__all__ = ["Quickstart", "run"]

PATH_METRICS = (
    "train_loss",
    "transfer_mse",
    "transfer_kl",
    "fresh_mse",
    "fresh_kl",
    "fresh_accuracy",
    "validation_accuracy",
)
ARMS = ("ce", "mse")
TEACHER_CHECKPOINTS = ("best_score", "last")
METRICS = (
    "transfer_mse",
    "transfer_kl",
    "transfer_accuracy",
    "transfer_excess_risk",
    "fresh_mse",
    "fresh_kl",
    "fresh_accuracy",
    "fresh_excess_risk",
    "validation_accuracy",
    "validation_nll",
    "validation_brier",
    "agreement",
)
QUANTITIES = (
    *(
        Quantity(metric, label, "teacher", checkpoint)
        for checkpoint in ("best_score", "last", "path_minimum_mse")
        for metric, label in (
            ("transfer_mse", "MSE to p*, transfer inputs"),
            ("fresh_mse", "MSE to p*, fresh points"),
            ("transfer_kl", "KL to p*, transfer inputs (nats)"),
            ("fresh_kl", "KL to p*, fresh points (nats)"),
            ("fresh_accuracy", "accuracy (mean p* at the prediction)"),
        )
    ),
    *(
        Quantity(metric, label, "student", "best_score", teacher_checkpoint)
        for teacher_checkpoint in TEACHER_CHECKPOINTS
        for metric, label in (
            ("fresh_accuracy", "accuracy (mean p* at the prediction)"),
            ("fresh_mse", "MSE to p*, fresh points"),
            ("fresh_kl", "KL to p*, fresh points (nats)"),
            ("agreement", "agreement with its teacher"),
        )
    ),
)


@dataclass(frozen=True)
class Quickstart:
    """The specification.

    Attributes:
        draws: data draws, each with a fresh seed for data, split, initialisation and batch order; the unit of every
            interval.
        tuning_draws: further draws that the learning rates are chosen on.
        train: labelled points a draw; ``validation`` of them are held back.
        held_out: points with known p*; half choose path minima, half are reported.
        rates: the grid of learning rates, the same for every arm.
    """

    draws: int = 12
    tuning_draws: int = 3
    train: int = 6000
    validation: float = 1 / 6
    held_out: int = 3000
    epochs: int = 20
    batch_size: int = 32
    rates: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    hidden: tuple[int, ...] = (128, 128)
    num_classes: int = 10
    dimension: int = 30
    separation: float = 1.0
    variance: float = 6.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("draws", 2), ("tuning_draws", 1), ("train", 20), ("held_out", 4), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, received {getattr(self, name)}")

    def mixture(self) -> Mixture:
        """The mixture whose p* is known."""
        return paper_toy(self.num_classes, self.dimension, self.separation, self.variance, self.seed)


def run(
    spec: Quickstart, folder: Path | None = None, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Run the experiment.

    Args:
        folder: where trainings are kept; a run that was killed goes on from there.
        progress: ``(what, epoch, epochs)`` after every epoch.
    Returns:
        results of kind ``quickstart``, JSON-able.
    """
    started = time.monotonic()
    work = _Work(spec, folder, progress)
    trials: list[Trial] = []
    rates: dict[str, float] = {}
    for arm in ARMS:
        rates[arm] = work.tune(trials, arm, "teacher", Supervised(arm))
    student_rate = work.tune(trials, "bayes", "student", Supervised("ce", target="bayes"))

    seeds = work.seeds("draw", spec.draws)
    rows: list[dict[str, Any]] = []
    paths: list[dict[str, Any]] = []
    for arm in ARMS:
        teacher = work.train(f"{arm} teachers", Supervised(arm), seeds, (rates[arm],))
        _collect(rows, paths, teacher, "teacher", arm, None)
        for checkpoint in TEACHER_CHECKPOINTS:
            name = f"students of {arm} teachers, {checkpoint}"
            student = work.train(name, KD.pure(), seeds, (student_rate,), teacher.teacher(checkpoint))
            _collect(rows, paths, student, "student", arm, checkpoint)
    exact = work.train("students of the exact p*", Supervised("ce", target="bayes"), seeds, (student_rate,))
    _collect(rows, paths, exact, "student", "bayes", None)

    bayes_error = spec.mixture().bayes_error(n=200_000, seed=derive(spec.seed, "bayes error"))
    return {
        "kind": "quickstart",
        "title": "Quickstart: the paper's synthetic mixture",
        "question": (
            "Each loss at its own tuned learning rate: is the MSE-trained teacher closer to p* than the CE-trained "
            "one, and is its student better?"
        ),
        "spec": asdict(spec),
        "provenance": provenance(),
        "seconds": round(time.monotonic() - started, 1),
        "bayes_error": asdict(bayes_error),
        "tuning": [trial.record() for trial in trials],
        "sensitivity": work.sensitivity,
        "rows": rows,
        "paths": paths,
        "summary": summarise(rows, QUANTITIES, unit="draw"),
    }


class _Work:
    """What every training of the experiment shares: data, nets, recipe, folders."""

    def __init__(self, spec: Quickstart, folder: Path | None, progress: Callable[[str, int, int], None] | None) -> None:
        self.spec, self.folder, self.progress = spec, folder, progress
        self.mixture = spec.mixture()
        self.data: dict[tuple[int, ...], tuple[InMemory, InMemory]] = {}
        self.sensitivity: list[dict[str, Any]] = []

    def seeds(self, purpose: str, count: int) -> list[int]:
        return [derive(self.spec.seed, "quickstart", purpose, number) for number in range(count)]

    def sources(self, seeds: Sequence[int]) -> tuple[InMemory, InMemory]:
        """Training and held-out points of every draw, made once."""
        key = tuple(seeds)
        if key not in self.data:
            train = [derive(seed, "train points") for seed in seeds]
            held_out = [derive(seed, "held-out points") for seed in seeds]
            self.data[key] = (
                InMemory.from_mixture(self.mixture, self.spec.train, train),
                InMemory.from_mixture(self.mixture, self.spec.held_out, held_out),
            )
        return self.data[key]

    def train(
        self, name: str, method: Method, seeds: Sequence[int], rates: tuple[float, ...], teacher: Any = None
    ) -> Fitted:
        spec = self.spec
        source, held_out = self.sources(seeds)
        net: Net = build(
            "mlp",
            num_classes=spec.num_classes,
            input_shape=(spec.dimension,),
            hidden=spec.hidden,
            seed=list(seeds),
        )
        recipe = Recipe(
            epochs=spec.epochs,
            learning_rate=rates if len(rates) > 1 else rates[0],
            batch_size=spec.batch_size,
            validation=spec.validation,
        )

        def report(state: Progress) -> None:
            if self.progress is not None:
                self.progress(name, state.epoch, state.epochs)

        folder = None if self.folder is None else self.folder / name.replace(" ", "-").replace(",", "").replace("*", "")
        return fit(
            net,
            source,
            method,
            recipe,
            seed=list(seeds),
            teacher=teacher,
            held_out=held_out,
            folder=folder,
            progress=report,
        )

    def tune(self, trials: list[Trial], arm: str, role: str, method: Method) -> float:
        """The rate with the best mean own validation score at the best-score epoch, over the tuning draws."""
        draws = self.seeds("tuning", self.spec.tuning_draws)
        grid = [(rate, seed) for rate in self.spec.rates for seed in draws]
        name = f"tuning {arm} {role}s"
        fitted = self.train(name, method, [seed for _, seed in grid], tuple(rate for rate, _ in grid))
        scores = [row[f"validation_{method.score}"] for row in fitted.at("best_score")]
        count = len(draws)
        best, marked = choose(
            [
                Trial(arm, rate, 0.0, tuple(scores[number * count : (number + 1) * count]), method.score, role)
                for number, rate in enumerate(self.spec.rates)
            ]
        )
        trials.extend(marked)
        # how much hangs on the rate: the distance of every rate tried, best-score and last epoch
        for checkpoint in ("best_score", "last"):
            distances = [_short(row["fresh_mse"]) for row in fitted.at(checkpoint)]
            for number, rate in enumerate(self.spec.rates):
                self.sensitivity.append(
                    {
                        "role": role,
                        "arm": arm,
                        "learning_rate": rate,
                        "checkpoint": checkpoint,
                        "fresh_mse": distances[number * count : (number + 1) * count],
                    }
                )
        return best.learning_rate


def _collect(
    rows: list[dict[str, Any]],
    paths: list[dict[str, Any]],
    fitted: Fitted,
    role: str,
    arm: str,
    teacher_checkpoint: str | None,
) -> None:
    """A row for every draw and kept state, and the paths."""
    for checkpoint in fitted.states:
        for draw, metrics in enumerate(fitted.at(checkpoint)):
            rows.append(
                {
                    "draw": draw,
                    "role": role,
                    "arm": arm,
                    "teacher_checkpoint": teacher_checkpoint,
                    "checkpoint": checkpoint,
                    "epoch": metrics["epoch"],
                    **{name: _short(metrics[name]) for name in METRICS if name in metrics},
                }
            )
    paths.append(
        {
            "role": role,
            "arm": arm,
            "teacher_checkpoint": teacher_checkpoint,
            "metrics": {
                name: [[_short(value) for value in row[name]] for row in fitted.history] for name in PATH_METRICS
            },
        }
    )


def _short(value: float) -> float:
    """Five significant digits: more than the error bars need, and half the file."""
    return float(f"{value:.5g}")
