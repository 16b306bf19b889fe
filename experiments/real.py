"""Real images, p* unknown: CE and MSE teachers and a student from each, by the trainer that runs the toys.

Every loss has its own learning rate and weight decay: near the uniform output the gradient of the Brier score on
softmax probabilities is about 1/K of cross-entropy's, so one recipe for both under-trains the MSE teacher. Rate and
decay are chosen from a grid by the loss's own validation score, on a seed that is not reported. The test set is looked
at once, after all training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from bcpd.data import NORMALISATION, Images, InMemory, digits, read_cifar, stratified_subset
from bcpd.distill import KD, Method, Supervised
from bcpd.losses import LOSSES
from bcpd.measure import label_scores
from bcpd.nets import build
from bcpd.provenance import provenance
from bcpd.runs import Quantity, Trial, choose, summarise
from bcpd.seeds import derive
from bcpd.train import Cosine, Fitted, Progress, Recipe, fit, log_probabilities

__all__ = ["DATASETS", "Real", "caveats", "run"]

DATASETS = ("cifar100", "cifar10", "digits")
VALIDATION = ("validation_accuracy", "validation_nll", "validation_brier")
TEST = (
    ("test_accuracy", "test accuracy"),
    ("test_brier", "test Brier score (summed over classes)"),
    ("test_nll", "test log score (nats)"),
    ("test_ece", "test ECE (15 bins)"),
)


def _default_rates() -> dict[str, tuple[float, ...]]:
    return {"ce": (0.02, 0.05, 0.1, 0.2), "mse": (0.2, 0.5, 1.0, 2.0)}


def _default_decays() -> dict[str, tuple[float, ...]]:
    return {"ce": (5e-4,), "mse": (5e-5,)}


@dataclass(frozen=True)
class Real:
    """The specification.

    Attributes:
        dataset: ``cifar100``, ``cifar10`` (official binary layouts below ``--data``) or ``digits`` (built in).
        train: images a seed, a stratified subset of its own; 0 takes all.
        test: stratified test images, the same for every seed; 0 takes all.
        rates, decays: the grid of learning rates and weight decays of every loss; students train at the CE setting.
        augment: random crop (pad 4) and flip; not for digits.
        teacher_checkpoint: the state of the teacher that students learn from; ``last`` is the field's habit.
    """

    dataset: Literal["cifar100", "cifar10", "digits"] = "cifar100"
    train: int = 5000
    test: int = 0
    teacher: str = "resnet20"
    student: str = "resnet8"
    epochs: int = 15
    batch_size: int = 64
    seeds: int = 3
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=_default_rates)
    decays: Mapping[str, tuple[float, ...]] = field(default_factory=_default_decays)
    temperature: float = 4.0
    label_weight: float = 0.1
    teacher_weight: float = 0.9
    validation: float = 0.1
    augment: bool = True
    teacher_checkpoint: str = "last"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset must be one of {DATASETS}, received {self.dataset!r}")
        for name, least in (("train", 0), ("test", 0), ("epochs", 1), ("seeds", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, received {getattr(self, name)}")
        if set(self.rates) != set(self.decays) or not {"ce", "mse"} <= set(self.rates):
            raise ValueError(
                f"rates and decays must name the same losses, ce and mse among them, "
                f"received {sorted(self.rates)} and {sorted(self.decays)}"
            )


def run(
    spec: Real,
    data: Path | None = None,
    folder: Path | None = None,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run the experiment.

    Args:
        data: the folder that holds the official binary layout; not needed for digits.
        folder: where trainings are kept; a run that was killed goes on from there.
        device: ``cpu`` or ``cuda``.
        progress: ``(what, epoch, epochs)`` after every epoch.
    Returns:
        results of kind ``real``, JSON-able.
    Raises:
        FileNotFoundError, ValueError: data that are missing or damaged; sizes that the data do not have.
    """
    started = time.monotonic()
    work = _Work(spec, data, folder, device, progress)
    trials: list[Trial] = []
    settings = {arm: work.tune(trials, arm) for arm in spec.rates}
    student_setting = settings["ce"]

    rows: list[dict[str, Any]] = []
    fits: dict[tuple[str, str, str | None], list[Fitted]] = {}
    for number in range(spec.seeds):
        seed = derive(spec.seed, "real", "seed", number)
        for arm, setting in settings.items():
            teacher = work.train(f"seed-{number}-{arm}-teacher", spec.teacher, Supervised(arm), seed, setting)
            fits.setdefault(("teacher", arm, None), []).append(teacher)
            method = KD(spec.temperature, spec.label_weight, spec.teacher_weight)
            frozen = teacher.teacher(spec.teacher_checkpoint)
            student = work.train(f"seed-{number}-{arm}-student", spec.student, method, seed, student_setting, frozen)
            fits.setdefault(("student", arm, spec.teacher_checkpoint), []).append(student)
    for (role, arm, teacher_checkpoint), runs in fits.items():
        for number, fitted in enumerate(runs):
            for row in work.test_rows(fitted):
                rows.append({"seed": number, "role": role, "arm": arm, "teacher_checkpoint": teacher_checkpoint, **row})
    quantities = [
        Quantity(metric, label, role, "last", None if role == "teacher" else spec.teacher_checkpoint)
        for role in ("teacher", "student")
        for metric, label in TEST
    ]
    quantities.append(
        Quantity("agreement", "agreement with its teacher (validation)", "student", "last", spec.teacher_checkpoint)
    )
    paths = [_paths(role, arm, runs) for (role, arm, _), runs in fits.items()]
    tuning = [trial.record() for trial in trials]
    return {
        "kind": "real",
        "title": f"{spec.teacher} to {spec.student} on {spec.dataset}",
        "question": (
            "With p* unknown: is the MSE-trained teacher's Brier score (an unbiased stand-in for its MSE to p*, by "
            "Theorem 1) better than the CE-trained one's, and is its student better?"
        ),
        "dataset": spec.dataset,
        "spec": {**asdict(spec), "train_images": work.train_count, "test_images": len(work.test)},
        "provenance": provenance(device),
        "seconds": round(time.monotonic() - started, 1),
        "tuning": tuning,
        "rows": rows,
        "paths": paths,
        "summary": summarise(rows, quantities, unit="seed"),
        "notes": caveats(spec, work.test.num_classes, paths, tuning),
    }


Setting = tuple[float, float]


class _Work:
    """What every training of the experiment shares: images, recipe, folders."""

    def __init__(
        self,
        spec: Real,
        data: Path | None,
        folder: Path | None,
        device: str,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self.spec, self.folder, self.device, self.progress = spec, folder, device, progress
        self.images, test = _read(spec, data)
        if spec.test:
            chosen = stratified_subset(test.y, spec.test, derive(spec.seed, "real", "test images"))
            test = Images(test.x[chosen], test.y[chosen], test.num_classes)
        self.test = self._source(test, augment=False).to(device)
        self.train_count = spec.train or len(self.images)

    def _source(self, images: Images, augment: bool) -> InMemory:
        return InMemory(
            images.x,
            images.y,
            num_classes=images.num_classes,
            augment="crop-flip" if augment else None,
            normalise=NORMALISATION[self.spec.dataset],
        )

    def train(
        self, name: str, net_name: str, method: Method, seed: int, setting: Setting, teacher: Any = None
    ) -> Fitted:
        spec, images = self.spec, self.images
        if spec.train:
            chosen = stratified_subset(images.y, spec.train, derive(seed, "train images"))
            images = Images(images.x[chosen], images.y[chosen], images.num_classes)
        source = self._source(images, spec.augment and spec.dataset != "digits")
        net = build(net_name, num_classes=source.num_classes, input_shape=source.shape, seed=seed)
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        recipe = Recipe(
            epochs=spec.epochs,
            learning_rate=setting[0],
            weight_decay=setting[1],
            batch_size=spec.batch_size,
            schedule=Cosine(),
            validation=spec.validation,
        )

        def report(state: Progress) -> None:
            if self.progress is not None:
                self.progress(name, state.epoch, state.epochs)

        folder = None if self.folder is None else self.folder / name
        return fit(
            net,
            source,
            method,
            recipe,
            seed=seed,
            teacher=teacher,
            folder=folder,
            device=self.device,
            progress=report,
        )

    def tune(self, trials: list[Trial], arm: str) -> Setting:
        """The arm's rate and decay with the best own validation score at the best-score epoch, on the tuning seed."""
        grid = [(rate, decay) for rate in self.spec.rates[arm] for decay in self.spec.decays[arm]]
        if len(grid) == 1:
            return grid[0]
        seed = derive(self.spec.seed, "real", "tuning")
        method = Supervised(arm)
        tried = []
        for rate, decay in grid:
            name = f"tuning-{arm}-{rate:g}-{decay:g}"
            (row,) = self.train(name, self.spec.teacher, Supervised(arm), seed, (rate, decay)).at("best_score")
            tried.append(Trial(arm, rate, decay, (row[f"validation_{method.score}"],), method.score))
        best, marked = choose(tried)
        trials.extend(marked)
        return best.learning_rate, best.weight_decay

    def test_rows(self, fitted: Fitted) -> list[dict[str, Any]]:
        """Test scores of every kept state; the only look at the test set."""
        rows = []
        for checkpoint in fitted.states:
            (path,) = fitted.at(checkpoint)
            log_q = log_probabilities(fitted.teacher(checkpoint), self.test).cpu()
            scores = label_scores(log_q.exp(), self.test.y.cpu(), log_q=log_q)
            rows.append(
                {
                    "checkpoint": checkpoint,
                    "epoch": path["epoch"],
                    **{f"test_{name}": _short(estimate.value) for name, estimate in scores.items()},
                    **{name: _short(path[name]) for name in (*VALIDATION, "agreement", "train_loss") if name in path},
                }
            )
        return rows


def _read(spec: Real, data: Path | None) -> tuple[Images, Images]:
    if spec.dataset == "digits":
        return digits("train"), digits("test")
    if data is None:
        raise ValueError(f"dataset {spec.dataset} needs the folder of its official binary files (--data DIR)")
    return read_cifar(data, spec.dataset, "train"), read_cifar(data, spec.dataset, "test")


def _paths(role: str, arm: str, runs: list[Fitted]) -> dict[str, Any]:
    epochs = range(len(runs[0].history))
    names = [name for name in ("train_loss", *VALIDATION, "agreement") if name in runs[0].history[0]]
    return {
        "role": role,
        "arm": arm,
        "metrics": {
            name: [[_short(fitted.history[epoch][name][0]) for fitted in runs] for epoch in epochs] for name in names
        },
    }


def caveats(spec: Real, num_classes: int, paths: list[dict[str, Any]], trials: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before leaning on a number, from the numbers: under-training, and edges of grids."""
    notes = [
        f"The unit of every interval is the seed ({spec.seeds} of them): its own training images, split, "
        f"initialisation and batch order. Students train at the CE setting in every arm."
    ]
    for path in paths:
        arm, losses = path["arm"], path["metrics"]["train_loss"]
        if path["role"] != "teacher" or arm not in LOSSES:
            continue
        uniform = float(LOSSES[arm](torch.zeros(1, num_classes), torch.zeros(1, dtype=torch.int64)))
        left = sum(losses[-1]) / len(losses[-1]) / uniform
        if left > 0.5:
            notes.append(
                f"The {arm} teacher is under-trained: its training loss ended at {left:.0%} of what the uniform "
                f"prediction costs."
            )
        window = max(1, spec.epochs // 5)
        if len(losses) > window:
            gained = sum(losses[-1 - window]) - sum(losses[-1])
            drop = gained / (uniform * len(losses[-1]) - sum(losses[-1]))
            if drop > 0.02:
                notes.append(
                    f"The {arm} teacher's training loss had not levelled off: {drop:.0%} of what it gained on the "
                    f"uniform prediction came in the last {window} epochs."
                )
    notes.extend(
        f"The chosen setting of {trial['arm']} (rate {trial['learning_rate']:g}, decay {trial['weight_decay']:g}) lies "
        f"on the edge of its grid."
        for trial in trials
        if trial["edge"]
    )
    return notes


def _short(value: float) -> float:
    return float(f"{value:.7g}")
