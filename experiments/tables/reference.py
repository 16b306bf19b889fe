"""Published accuracies, as named data with their sources: what a CE row of a table should look like at full size.

None of these numbers comes from the paper's own tables, whose cells could not be recovered. They are the field's, with
CE teachers, on the whole of CIFAR-100 (240 epochs) or ImageNet (100 epochs). A run at another size is not to be
measured by them: they stand beside it, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "CLAIMS",
    "FEW_SHOT",
    "SOURCES",
    "Claim",
    "Reference",
    "published_accuracy",
    "published_network",
]

SOURCES: Mapping[str, str] = {
    "repdistiller": "RepDistiller README: last epoch, one set of weights for all pairs",
    "mdistiller": "mdistiller README: best of 240 epochs on the test set",
    "lskd": "logit-standardization-KD README: best epoch on the test set",
    "reviewkd": "ReviewKD paper, quoted from memory: best epoch on the test set",
    "hsakd": "HSAKD README: its own teachers and recipe (Nesterov); on CIFAR-100 the mean of 3",
    "hsakd*": "HSAKD README, teacher trained jointly with its heads; on CIFAR-100 the mean of 3",
    "torchdistill": "torchdistill: best epoch",
    "reviewkd-readme": "ReviewKD README",
    "dkd-paper": "DKD paper, quoted from memory",
}
"""Whose number, and which epoch it is of: last and best differ by more than most published gains."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Reference:
    """A published test accuracy in percent, of a student with a CE teacher.

    Attributes:
        accuracy: top-1, %.
        spread: its standard deviation over runs where it was given, else None.
        source: key of :data:`SOURCES`.
    """

    accuracy: float
    source: str
    spread: float | None = None


# ----------------------------------------------------------------------------------------- CIFAR-100, the same family

_SAME: tuple[Pair, ...] = (
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
)
_SAME_NUMBERS: Mapping[str, tuple[float | None, ...]] = {
    "kd": (74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98),
    "fitnet": (73.58, 72.24, 69.21, 68.99, 71.06, 73.50, 71.02),
    "at": (74.08, 72.77, 70.55, 70.22, 72.31, 73.44, 71.43),
    "sp": (73.83, 72.43, 69.67, 70.04, 72.69, 72.94, 72.68),
    "cc": (73.56, 72.21, 69.63, 69.48, 71.48, 72.97, 70.71),
    "vid": (74.11, 73.30, 70.38, 70.16, 72.61, 73.09, 71.23),
    "rkd": (73.35, 72.22, 69.61, 69.25, 71.82, 71.90, 71.48),
    "pkt": (74.54, 73.45, 70.34, 70.25, 72.61, 73.64, 72.88),
    "crd": (75.48, 74.14, 71.16, 71.46, 73.48, 75.51, 73.94),
    "dkd": (76.23, 74.81, 71.97, None, 74.11, 76.32, 74.68),
    "reviewkd": (76.12, 75.09, 71.89, None, 73.89, 75.63, 74.84),
}

# ------------------------------------------------------------------------------------------ CIFAR-100, another family

_OTHER: tuple[Pair, ...] = (
    ("vgg13", "mobilenetv2"),
    ("resnet50", "mobilenetv2"),
    ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenetv1"),
    ("resnet32x4", "shufflenetv2"),
    ("wrn_40_2", "shufflenetv1"),
)
_OTHER_NUMBERS: Mapping[str, tuple[float | None, ...]] = {
    "kd": (67.37, 67.35, 73.81, 74.07, 74.45, 74.83),
    "fitnet": (64.14, 63.16, 70.69, 73.59, 73.54, 73.73),
    "at": (59.40, 58.58, 71.84, 71.73, 72.73, 73.32),
    "sp": (66.30, 68.08, 73.34, 73.48, 74.56, 74.52),
    "cc": (64.86, 65.43, 70.25, 71.14, 71.29, 71.38),
    "vid": (65.56, 67.57, 70.30, 73.38, 73.40, 73.61),
    "rkd": (64.52, 64.43, 71.50, 72.28, 73.21, 72.21),
    "pkt": (67.13, 66.52, 73.01, 74.10, 74.69, 73.89),
    "crd": (69.73, 69.11, 74.30, 75.11, 75.65, 76.05),
    "dkd": (69.71, 70.35, None, 76.45, 77.07, 76.70),
    "reviewkd": (70.37, 69.89, None, 77.45, 77.78, 77.14),
}
_SOURCE_OF: Mapping[str, str] = {"dkd": "mdistiller", "reviewkd": "reviewkd"}
"""The others are RepDistiller's."""

# --------------------------------------------------------------------------------------------------------------- HSAKD

_HSAKD: Mapping[Pair, tuple[float, float]] = {
    ("wrn_40_2", "wrn_16_2"): (77.20, 0.17),
    ("wrn_40_2", "wrn_40_1"): (77.00, 0.21),
    ("resnet56", "resnet20"): (72.58, 0.33),
    ("resnet32x4", "resnet8x4"): (77.26, 0.14),
    ("wrn_40_2", "shufflenetv1"): (78.51, 0.20),
    ("resnet32x4", "shufflenetv2"): (79.93, 0.11),
}
"""With teachers' heads trained on a frozen backbone, its main table. Its two pairs with MobileNetV2 are left out: that
net has another stem there (25.7 M MACs, not 6.5 M)."""

FEW_SHOT: Mapping[float, tuple[float, float]] = {
    0.25: (68.50, 0.24),
    0.5: (72.18, 0.41),
    0.75: (73.26, 0.11),
    1.0: (73.73, 0.10),
}
"""HSAKD, resnet56 to resnet20 by share of the training images: accuracy and standard deviation (source ``hsakd*``)."""

# ------------------------------------------------------------------------------------------------------------ ImageNet

_IMAGENET: Mapping[Pair, Mapping[str, Reference]] = {
    ("imagenet_resnet34", "imagenet_resnet18"): {
        "kd": Reference(71.03, "mdistiller"),
        "at": Reference(70.90, "torchdistill"),
        "crd": Reference(70.93, "torchdistill"),
        "dkd": Reference(71.70, "mdistiller"),
        "reviewkd": Reference(71.61, "reviewkd-readme"),
        "hsakd": Reference(72.16, "hsakd"),
    },
    ("imagenet_resnet50", "imagenet_mobilenetv1"): {
        "kd": Reference(70.50, "mdistiller"),
        "at": Reference(69.56, "dkd-paper"),
        "crd": Reference(71.37, "dkd-paper"),
        "dkd": Reference(72.05, "mdistiller"),
        "reviewkd": Reference(72.56, "reviewkd-readme"),
    },
}

# ------------------------------------------------------------------------------------------------------------ networks

_NETWORKS: Mapping[str, tuple[float, str]] = {
    "resnet20": (69.06, "repdistiller"),
    "resnet32": (71.14, "repdistiller"),
    "resnet56": (72.34, "repdistiller"),
    "resnet110": (74.31, "repdistiller"),
    "resnet8x4": (72.50, "repdistiller"),
    "resnet32x4": (79.42, "repdistiller"),
    "resnet50": (79.34, "repdistiller"),
    "wrn_16_2": (73.26, "repdistiller"),
    "wrn_40_1": (71.98, "repdistiller"),
    "wrn_40_2": (75.61, "repdistiller"),
    "vgg8": (70.36, "repdistiller"),
    "vgg13": (74.64, "repdistiller"),
    "mobilenetv2": (64.60, "repdistiller"),
    "shufflenetv1": (70.50, "repdistiller"),
    "shufflenetv2": (71.82, "repdistiller"),
    "imagenet_resnet18": (69.75, "mdistiller"),
    "imagenet_resnet34": (73.31, "mdistiller"),
    "imagenet_mobilenetv1": (68.87, "mdistiller"),
    "imagenet_resnet50": (76.16, "dkd-paper"),
}
"""Trained on labels alone."""

CIFAR100, IMAGENET = "cifar100", "imagenet"


def published_accuracy(dataset: str, pair: Pair, method: str) -> Reference | None:
    """The published accuracy of a student of a CE teacher, or None where there is none of that data set and pair."""
    if dataset == IMAGENET:
        return _IMAGENET.get(pair, {}).get(method)
    if dataset != CIFAR100:
        return None
    if method == "hsakd":
        return Reference(_HSAKD[pair][0], "hsakd", _HSAKD[pair][1]) if pair in _HSAKD else None
    if (method, pair) == ("dkd", ("resnet110", "resnet20")):
        return Reference(71.06, "lskd")
    for pairs, numbers in ((_SAME, _SAME_NUMBERS), (_OTHER, _OTHER_NUMBERS)):
        if pair in pairs and method in numbers:
            value = numbers[method][pairs.index(pair)]
            return None if value is None else Reference(value, _SOURCE_OF.get(method, "repdistiller"))
    return None


def published_network(dataset: str, net: str) -> Reference | None:
    """The published accuracy of a network trained on labels alone, of that data set, or None."""
    known = IMAGENET if net.startswith("imagenet_") else CIFAR100
    if dataset != known or net not in _NETWORKS:
        return None
    return Reference(*_NETWORKS[net])


# -------------------------------------------------------------------------------------------------------------- claims


@dataclass(frozen=True)
class Claim:
    """What somebody reports of MSE minus CE teachers: student accuracy, percentage points.

    Attributes:
        tables: experiments that it is about.
        difference: points.
        what: which number it is; source: whose.
    """

    tables: tuple[str, ...]
    difference: float
    what: str
    source: str


CLAIMS: tuple[Claim, ...] = (
    Claim(("table1",), 2.67, "largest gain of any pair and method", "Hamidi et al. 2024, Table 1, by a note on it"),
    Claim(("table3",), 0.55, "gain of one of the two pairs (which is not known)", "Hamidi et al. 2024, Table 3"),
    Claim(("table3",), 0.42, "gain of the other pair", "Hamidi et al. 2024, Table 3"),
    Claim(
        ("table1", "table2"),
        -3.65,
        "worst of 12 pairs, MSE on raw logits read out by softmax",
        "Morad et al. 2026, by a reading note",
    ),
)
"""The differences that could be recovered; no cell of the paper's tables could."""
