"""The experiments of the paper by name: data, pairs, methods, teachers, and the sizes at which they can be run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from bcpd.data.source import Augmentation
from bcpd.train.execution import EAGER, Execution

__all__ = [
    "ARMS",
    "DATASETS",
    "EXPERIMENTS",
    "LOGIT_METHODS",
    "METHODS",
    "SCALES",
    "STAND_INS",
    "Dataset",
    "Experiment",
    "Protocol",
    "Tables",
    "specification",
]

Known = Literal["digits", "cifar10", "cifar100", "imagenet"]
Partial = Literal["none", "labels", "images"]
Pair = tuple[str, str]

ARMS: Mapping[str, tuple[str, bool]] = {
    "ce": ("ce", False),
    "mse": ("mse", False),
    "ce+T": ("ce", True),
    "mse+T": ("mse", True),
    "ls": ("ls", False),
}
"""Arm -> the loss of its teacher (``ls``: label smoothing), and whether a temperature is fitted to it on validation
labels (by their NLL)."""

METHODS: tuple[str, ...] = (
    "kd",
    "fitnet",
    "at",
    "sp",
    "cc",
    "vid",
    "rkd",
    "pkt",
    "crd",
    "dkd",
    "reviewkd",
    "hsakd",
)
"""The costliest last: students of a seed are trained in this order."""

LOGIT_METHODS: tuple[str, ...] = ("kd", "dkd", "hsakd")
"""Those that look at the teacher's logits. A temperature changes nothing that the others see: their +T students are the
students without, and are not trained again."""


STAND_INS: Mapping[Pair, Pair] = {
    ("resnet20", "resnet8"): ("resnet56", "resnet20"),
    ("resnet20", "mobilenetv2"): ("vgg13", "mobilenetv2"),
}
"""Pairs of the small sizes, for which nothing was published -> the published pair whose weights they have, and whose
accuracies are shown beside theirs by name."""


@dataclass(frozen=True)
class Dataset:
    """What networks train on.

    Attributes:
        name, title: its key, and in a few words.
        images: the files behind it.
        merged: labelled by two groups of five classes (:func:`bcpd.data.merged_classes`).
        augment: of training images.
    """

    name: str
    title: str
    images: Known
    merged: bool = False
    augment: Augmentation | None = None


DATASETS: Mapping[str, Dataset] = {
    entry.name: entry
    for entry in (
        Dataset("digits", "digits", "digits"),
        Dataset("digits-2x5", "digits as 2x5 binary", "digits", merged=True),
        Dataset("cifar100", "CIFAR-100", "cifar100", augment="crop-flip"),
        Dataset("cifar10-2x5", "CIFAR-10 as 2x5 binary", "cifar10", merged=True, augment="crop-flip"),
        Dataset("imagenet", "ImageNet", "imagenet"),
    )
}


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        title: what it compares.
        dataset, pairs: at full size.
        partial: what only a share of the training images has: ``none``, ``labels`` (semi-supervised) or ``images``
            (few-shot). shares: of them.
        chosen: what the paper leaves open, and what was chosen here.
    """

    title: str
    dataset: str
    pairs: tuple[Pair, ...]
    partial: Partial = "none"
    shares: tuple[float, ...] = (1.0,)
    chosen: str = ""


_PAIRS = "The pairs of the table could not be recovered: these are the usual ones of the CRD benchmark."

EXPERIMENTS: Mapping[str, Experiment] = {
    "table1": Experiment(
        "Table 1: CIFAR-100, teacher and student of one family",
        "cifar100",
        (
            ("wrn_40_2", "wrn_16_2"),
            ("wrn_40_2", "wrn_40_1"),
            ("resnet56", "resnet20"),
            ("resnet110", "resnet20"),
            ("resnet110", "resnet32"),
            ("resnet32x4", "resnet8x4"),
            ("vgg13", "vgg8"),
        ),
        chosen=_PAIRS,
    ),
    "table2": Experiment(
        "Table 2: CIFAR-100, teacher and student of different families",
        "cifar100",
        (
            ("vgg13", "mobilenetv2"),
            ("resnet50", "mobilenetv2"),
            ("resnet50", "vgg8"),
            ("resnet32x4", "shufflenetv1"),
            ("resnet32x4", "shufflenetv2"),
            ("wrn_40_2", "shufflenetv1"),
        ),
        chosen=_PAIRS,
    ),
    "table3": Experiment(
        "Table 3: ImageNet",
        "imagenet",
        (("imagenet_resnet34", "imagenet_resnet18"), ("imagenet_resnet50", "imagenet_mobilenetv1")),
        chosen="The pairs of the table could not be recovered: these are the field's two. The MSE teacher is trained "
        "here, and so is the CE teacher, by the same recipe.",
    ),
    "table4": Experiment(
        "Table 4: CIFAR-10 as 2x5 binary",
        "cifar10-2x5",
        (("resnet56", "resnet20"), ("resnet32x4", "resnet8x4"), ("wrn_40_2", "wrn_16_2")),
        chosen="Which five classes were merged, and the pairs, could not be recovered: the first five classes stand "
        "against the last five, and the pairs are three of Table 1.",
    ),
    "figure2": Experiment(
        "Figure 2: semi-supervised distillation",
        "cifar100",
        (("resnet56", "resnet20"),),
        partial="labels",
        shares=(0.05, 0.1, 0.25, 0.5, 1.0),
        chosen="Pair and shares of labels could not be recovered.",
    ),
    "fewshot": Experiment(
        "Few-shot distillation",
        "cifar100",
        (("resnet56", "resnet20"),),
        partial="images",
        shares=(0.25, 0.5, 0.75, 1.0),
        chosen="Pair and shares are those of HSAKD; the paper has no such table.",
    ),
}
"""By the names that ``bcpd run`` knows."""


@dataclass(frozen=True)
class Protocol:
    """What a training depends on beside its network, loss or method, setting and seed.

    Attributes:
        dataset: key of :data:`DATASETS`.
        train: training images of a seed, a stratified subset of its own, validation part included; 0 for all.
        test: stratified test images, the same for every seed; 0 for all.
        epochs: of teachers and students; milestones and warm-ups are scaled by it.
        validation: share of the training images, of labelled ones where not all are.
        smoothing: epsilon of label smoothing.
        partial: as in :class:`Experiment`.
        teacher_sees: whether the teacher is trained with ``all`` labels and images, or with the ``share`` that its
            student has.
        device, seed: where, and the root seed.
        execution: how steps are computed; a mapping of its settings is taken as well.
        table: students that see no more of their teacher than logits look them up (:class:`bcpd.train.TeacherTable`).
    """

    dataset: str
    train: int = 0
    test: int = 0
    epochs: int = 240
    validation: float = 0.1
    smoothing: float = 0.1
    partial: Partial = "none"
    teacher_sees: Literal["all", "share"] = "all"
    device: str = "cpu"
    seed: int = 0
    execution: Execution = EAGER
    table: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.execution, Mapping):
            object.__setattr__(self, "execution", Execution(**self.execution))
        if self.dataset not in DATASETS:
            raise ValueError(f"dataset must be one of {', '.join(DATASETS)}; received {self.dataset!r}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device must be cpu, cuda or cuda:N, received {self.device!r}")
        if DATASETS[self.dataset].images == "imagenet" and (self.table or self.execution.graphs):
            asked = "a table of the teacher" if self.table else "graphs"
            raise ValueError(f"{asked}: for images held in memory, not for ImageNet, which is read from its folders")
        for name, least in (("train", 0), ("test", 0), ("epochs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, received {getattr(self, name)}")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be a share in (0, 1), received {self.validation}")
        if self.partial not in ("none", "labels", "images") or self.teacher_sees not in ("all", "share"):
            raise ValueError(
                f"partial must be none, labels or images and teacher_sees all or share; received {self.partial!r} and "
                f"{self.teacher_sees!r}"
            )
        if self.partial != "none" and DATASETS[self.dataset].images == "imagenet":
            raise ValueError("a share of labels or images is for sets that are held in memory, not for ImageNet")


def _rates() -> dict[str, tuple[float, ...]]:
    return {"ce": (0.02, 0.05, 0.1, 0.2), "mse": (0.1, 0.3, 1.0, 3.0), "ls": (0.02, 0.05, 0.1, 0.2)}


def _decays() -> dict[str, tuple[float, ...]]:
    return {"ce": (1e-4, 5e-4, 2e-3), "mse": (1e-5, 5e-5, 5e-4), "ls": (1e-4, 5e-4, 2e-3)}


@dataclass(frozen=True)
class Tables:
    r"""One experiment at one size.

    Teachers are tuned, each loss by its own validation score at its last epoch, on images and a seed that are not
    reported: first the rates at the middle one of the decays, then the other decays at the best rate. The scale of a
    loss is not tuned beside them, for it is no third number: SGD on :math:`c\,\ell` at rate :math:`\eta` and decay
    :math:`\lambda` is SGD on :math:`\ell` at rate :math:`c\,\eta` and decay :math:`\lambda / c`. Students have the
    published recipe of their method, whoever teaches them.

    Attributes:
        experiment: key of :data:`EXPERIMENTS`; scale: key of :data:`SCALES`.
        protocol: what all trainings share.
        pairs: (teacher, student) nets.
        methods: some of :data:`METHODS`. teachers: arms, some of :data:`ARMS`.
        seeds: each its own training images, initialisation, batch order, teachers and students.
        shares: of labels or images.
        rates, decays: the grids of every loss of a teacher. tuning_epochs: of the trainings that choose.
        options: of a method beside the published ones.
    """

    experiment: str
    scale: str
    protocol: Protocol
    pairs: tuple[Pair, ...]
    methods: tuple[str, ...] = METHODS
    teachers: tuple[str, ...] = ("ce", "mse")
    seeds: int = 3
    shares: tuple[float, ...] = (1.0,)
    tuning_epochs: int = 0
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=_rates)
    decays: Mapping[str, tuple[float, ...]] = field(default_factory=_decays)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.experiment not in EXPERIMENTS:
            raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}; received {self.experiment!r}")
        for name, known in (("methods", METHODS), ("teachers", tuple(ARMS))):
            chosen = getattr(self, name)
            unknown = [one for one in chosen if one not in known]
            if unknown or not chosen or len(set(chosen)) < len(chosen):
                raise ValueError(f"{name} must be some of {', '.join(known)}, each once; received {', '.join(chosen)}")
        blind = [name for name in self.methods if name not in LOGIT_METHODS]
        alone = [arm for arm in self.teachers if ARMS[arm][1] and ARMS[arm][0] not in self.teachers]
        if blind and alone:
            raise ValueError(
                f"a temperature changes a teacher's logits alone, at which {', '.join(blind)} do not look: their "
                f"students of {', '.join(alone)} are those of {', '.join(ARMS[arm][0] for arm in alone)}; ask for "
                f"those too, or for {', '.join(LOGIT_METHODS)} alone"
            )
        if not self.pairs or not all(len(pair) == 2 for pair in self.pairs):
            raise ValueError(f"pairs must be one or more of a teacher and a student, received {self.pairs!r}")
        if self.seeds < 1 or self.tuning_epochs < 0:
            raise ValueError(f"seeds must be >= 1 and tuning_epochs >= 0; received {self.seeds}, {self.tuning_epochs}")
        whole = self.protocol.partial == "none"
        if not self.shares or not all(0 < share <= 1 for share in self.shares) or (whole and self.shares != (1.0,)):
            raise ValueError(
                f"shares must lie in (0, 1], and be 1 alone where nothing is partial; received {self.shares}"
            )
        for loss in self.losses:
            if not self.rates.get(loss) or not self.decays.get(loss):
                raise ValueError(f"rates and decays must have a grid for {loss}, received {self.rates}, {self.decays}")

    @property
    def losses(self) -> list[str]:
        """Those that the teachers are trained with."""
        return list(dict.fromkeys(ARMS[arm][0] for arm in self.teachers))

    @property
    def teacher_nets(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(teacher for teacher, _ in self.pairs))

    @property
    def student_nets(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(student for _, student in self.pairs))

    def arms_of(self, method: str) -> list[str]:
        """The arms that a method's students differ in: without a temperature that the method does not see."""
        return [arm for arm in self.teachers if method in LOGIT_METHODS or not ARMS[arm][1]]

    def describe(self) -> dict[str, Any]:
        """JSON-able settings."""
        return asdict(self)


SCALES: tuple[str, ...] = ("smoke", "reduced", "full")
"""``smoke``: built-in digits and the smallest net, under a minute. ``reduced``: real images, small nets and 10,000
images, for two cores. ``full``: the published size, for a GPU."""

_CRD: Mapping[str, Mapping[str, int]] = {"smoke": {"negatives": 32}, "reduced": {"negatives": 1024}}
"""The published 16,384 negatives are more than small sets have images."""


def specification(experiment: str, scale: str, **changes: Any) -> Tables:
    """An experiment at a size, with fields of :class:`Protocol` and :class:`Tables` replaced by keyword.

    Raises:
        ValueError: an unknown experiment, scale or field, or ImageNet at ``reduced``: there is no small ImageNet here.
    """
    if experiment not in EXPERIMENTS or scale not in SCALES:
        raise ValueError(
            f"experiment must be one of {', '.join(EXPERIMENTS)} and scale one of {', '.join(SCALES)}; "
            f"received {experiment!r} and {scale!r}"
        )
    chosen = EXPERIMENTS[experiment]
    own = _SIZES[scale](chosen)
    shared = {entry.name for entry in fields(Protocol)}
    unknown = changes.keys() - shared - {entry.name for entry in fields(Tables)}
    if unknown:
        raise ValueError(f"a specification has no {', '.join(sorted(unknown))}")
    protocol = {"partial": chosen.partial, **own.pop("protocol")}
    protocol |= {name: value for name, value in changes.items() if name in shared}
    own |= {name: value for name, value in changes.items() if name not in shared}
    return Tables(experiment, scale, Protocol(**protocol), **own)


def _smoke(experiment: Experiment) -> dict[str, Any]:
    merged = DATASETS[experiment.dataset].merged
    return {
        "protocol": {"dataset": "digits-2x5" if merged else "digits", "train": 240, "test": 240, "epochs": 2},
        "pairs": (("resnet8x0.5", "resnet8x0.5"),),
        "seeds": 2,
        "shares": experiment.shares if len(experiment.shares) == 1 else (0.5, 1.0),
        "rates": {"ce": (0.02, 0.05, 0.1), "mse": (0.1, 0.3, 1.0), "ls": (0.02, 0.05, 0.1)},
        "decays": dict.fromkeys(("ce", "mse", "ls"), (5e-4,)),
        "options": {"crd": dict(_CRD["smoke"])},
    }


def _reduced(experiment: Experiment) -> dict[str, Any]:
    if experiment.dataset == "imagenet":
        raise ValueError("ImageNet has the scales smoke (on digits) and full")
    student = "mobilenetv2" if experiment is EXPERIMENTS["table2"] else "resnet8"
    return {
        "protocol": {"dataset": experiment.dataset, "train": 10_000, "epochs": 15},
        "pairs": (("resnet20", student),),
        "shares": experiment.shares if len(experiment.shares) == 1 else (0.1, 0.25, 1.0),
        # short trainings want other rates and decays than the published length
        "rates": {"ce": (0.02, 0.05, 0.1, 0.2, 0.5), "mse": (0.3, 1.0, 3.0, 10.0), "ls": (0.02, 0.05, 0.1, 0.2, 0.5)},
        "decays": {**_decays(), "mse": (0.0, 1e-5, 5e-5, 5e-4, 2e-3)},
        "options": {"crd": dict(_CRD["reduced"])},
    }


def _full(experiment: Experiment) -> dict[str, Any]:
    natural = experiment.dataset == "imagenet"
    own: dict[str, Any] = {
        "protocol": {
            "dataset": experiment.dataset,
            "epochs": 100 if natural else 240,
            "validation": 0.02 if natural else 0.1,
            "device": "cuda",
        },
        "pairs": experiment.pairs,
        "seeds": 1 if natural else 5,
        "shares": experiment.shares,
        "tuning_epochs": 10 if natural else 60,
    }
    if natural:
        own |= {
            "methods": ("kd", "at", "crd", "dkd", "reviewkd", "hsakd"),  # those with a published setting there
            "rates": {"ce": (0.05, 0.1, 0.2), "mse": (0.5, 1.0, 2.0, 5.0), "ls": (0.05, 0.1, 0.2)},
            "decays": {"ce": (1e-4,), "mse": (1e-5, 1e-4), "ls": (1e-4,)},
        }
    return own


_SIZES = {"smoke": _smoke, "reduced": _reduced, "full": _full}
