"""The settings that the methods were published with, by data set and pair of networks, with their sources.

One set of weights was tuned on one pair and used for all; DKD and ReviewKD have weights that differ by pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bcpd.distill.attention import AT
from bcpd.distill.cc import CC
from bcpd.distill.crd import CRD
from bcpd.distill.dkd import DKD
from bcpd.distill.fitnet import FitNet
from bcpd.distill.hsakd import HSAKD
from bcpd.distill.kd import KD
from bcpd.distill.method import Method
from bcpd.distill.pkt import PKT
from bcpd.distill.review_kd import ReviewKD
from bcpd.distill.rkd import RKD
from bcpd.distill.sp import SP
from bcpd.distill.vid import VID

__all__ = ["DATASETS", "METHODS", "Entry", "Setting", "published", "refuse_temperature"]

DATASETS: Mapping[str, str] = {"cifar100": "cifar100", "cifar10": "cifar100", "imagenet": "imagenet"}
"""Data set -> the one whose settings it takes. None were published for CIFAR-10, which takes CIFAR-100's."""

Options = Mapping[str, Any]
Pairs = Mapping[tuple[str, str], Options]


@dataclass(frozen=True)
class Setting:
    """What a method was published with on one data set.

    Attributes:
        options: of the method's class, for every pair that is not listed; None: there are only the listed ones.
        source: where they are from.
        batch_size: at which they were found (of 64 images, HSAKD shows 4 rotations each).
        pairs: (teacher, student) -> options that replace some of those, by names in :data:`bcpd.nets.NETS`.
    """

    options: Options | None
    source: str
    batch_size: int
    pairs: Pairs = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A method and its settings.

    Attributes:
        method: its class.
        settings: data set -> :class:`Setting`; a data set that is not listed has none.
        of_networks: whether the class is built from the networks themselves, (student, teacher).
    """

    method: Callable[..., Method]
    settings: Mapping[str, Setting]
    of_networks: bool = False


_BENCHMARK = "RepDistiller, scripts/run_cifar_distill.sh (Tian, Krishnan & Isola 2020): one weight for all pairs"

_HEADS = {"temperature": 3.0, "head_epochs": 100}

METHODS: Mapping[str, Entry] = {
    "kd": Entry(
        KD,
        {
            "cifar100": Setting({"temperature": 4.0, "label_weight": 0.1, "teacher_weight": 0.9}, _BENCHMARK, 64),
            "imagenet": Setting(
                {"temperature": 1.0, "label_weight": 0.5, "teacher_weight": 0.5},
                "mdistiller, configs/imagenet/*/kd.yaml; torchdistill has the same",
                512,
            ),
        },
    ),
    "fitnet": Entry(
        FitNet,
        {"cifar100": Setting({"weight": 100.0, "layer": 2, "regressor": "normalised"}, _BENCHMARK, 64)},
    ),
    "at": Entry(
        AT,
        {
            "cifar100": Setting({"weight": 1000.0, "exponent": 2.0}, _BENCHMARK, 64),
            "imagenet": Setting(
                {"weight": 1000.0, "exponent": 2.0},
                "mdistiller, configs/imagenet/*/at.yaml; torchdistill has the same weight on its last two stages",
                512,
            ),
        },
    ),
    "sp": Entry(SP, {"cifar100": Setting({"weight": 3000.0}, _BENCHMARK, 64)}),
    "cc": Entry(CC, {"cifar100": Setting({"weight": 0.02, "dimension": 128}, _BENCHMARK, 64)}),
    "vid": Entry(VID, {"cifar100": Setting({"weight": 1.0}, _BENCHMARK, 64)}),
    "rkd": Entry(
        RKD, {"cifar100": Setting({"weight": 1.0, "distance_weight": 25.0, "angle_weight": 50.0}, _BENCHMARK, 64)}
    ),
    "pkt": Entry(PKT, {"cifar100": Setting({"weight": 30000.0}, _BENCHMARK, 64)}),
    "crd": Entry(
        CRD,
        {
            "cifar100": Setting(
                {"weight": 0.8, "negatives": 16384, "critic_temperature": 0.07, "momentum": 0.5, "dimension": 128},
                _BENCHMARK,
                64,
            ),
            "imagenet": Setting(
                {"weight": 0.8, "negatives": 16384, "critic_temperature": 0.07, "momentum": 0.5, "dimension": 128},
                "mdistiller, configs/imagenet/*/crd.yaml; torchdistill has the same",
                256,
            ),
        },
    ),
    "dkd": Entry(
        DKD,
        {
            "cifar100": Setting(
                {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warm_up": 20},
                "mdistiller, configs/cifar100/dkd/*.yaml (Zhao et al. 2022); beta 8 is its default",
                64,
                {
                    ("wrn_40_2", "wrn_16_2"): {"beta": 6.0},
                    ("wrn_40_2", "wrn_40_1"): {"beta": 6.0},
                    ("vgg13", "vgg8"): {"beta": 6.0},
                    ("vgg13", "mobilenetv2"): {"beta": 6.0},
                    ("resnet56", "resnet20"): {"beta": 2.0},
                    ("resnet110", "resnet32"): {"beta": 2.0},
                    ("resnet32x4", "resnet8x4"): {"beta": 8.0},
                    ("resnet32x4", "shufflenetv1"): {"beta": 8.0},
                    ("resnet32x4", "shufflenetv2"): {"beta": 8.0},
                    ("wrn_40_2", "shufflenetv1"): {"beta": 8.0},
                    ("resnet50", "mobilenetv2"): {"beta": 8.0},
                },
            ),
            "imagenet": Setting(
                None,
                "mdistiller, configs/imagenet/*/dkd.yaml (Zhao et al. 2022)",
                512,
                {
                    ("imagenet_resnet34", "imagenet_resnet18"): {
                        "alpha": 1.0,
                        "beta": 0.5,
                        "temperature": 1.0,
                        "warm_up": 1,
                    },
                    ("imagenet_resnet50", "imagenet_mobilenetv1"): {
                        "alpha": 1.0,
                        "beta": 2.0,
                        "temperature": 1.0,
                        "warm_up": 1,
                    },
                },
            ),
        },
    ),
    "reviewkd": Entry(
        ReviewKD,
        {
            "cifar100": Setting(
                {"weight": 5.0, "warm_up": 20},
                "ReviewKD, CIFAR-100/script/reviewKD.sh (Chen et al. 2021); resnet50 to mobilenetv2: mdistiller, "
                "issue 39, with RepDistiller's recipe (rate 0.01, batch 64); 5 is its most frequent weight. Its wide "
                "ResNets show, as students, the sums before a norm and ReLU that belong to the stage here",
                128,
                {
                    ("wrn_40_2", "wrn_16_2"): {"weight": 5.0},
                    ("wrn_40_2", "wrn_40_1"): {"weight": 5.0},
                    ("wrn_40_2", "shufflenetv1"): {"weight": 5.0},
                    ("resnet32x4", "resnet8x4"): {"weight": 5.0},
                    ("resnet32x4", "shufflenetv1"): {"weight": 5.0},
                    ("resnet32x4", "shufflenetv2"): {"weight": 8.0},
                    ("resnet56", "resnet20"): {"weight": 0.6},
                    ("resnet110", "resnet32"): {"weight": 1.0},
                    ("resnet50", "mobilenetv2"): {"weight": 30.0},
                },
            ),
            "imagenet": Setting(
                None,
                "mdistiller, configs/imagenet/*/reviewkd.yaml, where the student's maps are taken before their ReLU",
                256,
                {
                    ("imagenet_resnet34", "imagenet_resnet18"): {
                        "weight": 1.0,
                        "warm_up": 1,
                        "student_maps": "preacts",
                    },
                    ("imagenet_resnet50", "imagenet_mobilenetv1"): {
                        "weight": 8.0,
                        "warm_up": 1,
                        "student_maps": "preacts",
                        "width": 256,
                    },
                },
            ),
        },
    ),
    "hsakd": Entry(
        HSAKD,
        {
            "cifar100": Setting({**_HEADS, "head_rate": 0.05}, "HSAKD (Yang et al. 2021): no weights", 64),
            "imagenet": Setting({**_HEADS, "head_rate": 0.1}, "HSAKD (Yang et al. 2021): no weights", 256),
        },
        of_networks=True,
    ),
}
"""The twelve methods. A weight of 1 for the labels and 0 for KD goes with all but ``kd`` and ``hsakd``."""


def published(
    name: str,
    teacher: str | nn.Module | None = None,
    student: str | nn.Module | None = None,
    dataset: str = "cifar100",
    **options: Any,
) -> Method:
    """A method as it was published for a pair of networks and a data set.

    A pair that its source does not list gets the options of the others (``METHODS[name].settings[dataset].pairs`` has
    those that it does list).

    Args:
        name: a key of :data:`METHODS`.
        teacher, student: names in :data:`bcpd.nets.NETS`, or the networks; HSAKD needs the networks.
        dataset: a key of :data:`DATASETS`.
        options: of the method's class, in place of the published ones; CRD's ``labels`` must be given.
    Raises:
        ValueError: an unknown name or data set; a data set (or a pair on it) for which nothing was published; HSAKD
            without networks; options that the class refuses.
    """
    if name not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, received {name!r}")
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {sorted(DATASETS)}, received {dataset!r}")
    entry = METHODS[name]
    setting = entry.settings.get(DATASETS[dataset])
    if setting is None:
        raise ValueError(
            f"no setting of {name} was published for {dataset}, only for {', '.join(entry.settings)}; "
            f"build it with a weight of your own, bcpd.distill.{getattr(entry.method, '__name__', name)}(weight=...)"
        )
    pair = (_name(teacher), _name(student))
    own = next((found for listed, found in setting.pairs.items() if listed == pair), None)
    if setting.options is None and own is None:
        listed = ", ".join(f"{t} to {s}" for t, s in setting.pairs)
        raise ValueError(f"{name} was published for {listed} on {dataset}, received {pair[0]} to {pair[1]}")
    chosen = {**(setting.options or {}), **(own or {}), **options}
    if not entry.of_networks:
        return entry.method(**chosen)
    if not isinstance(teacher, nn.Module) or not isinstance(student, nn.Module):
        raise ValueError(f"{name} is built from the networks themselves, received {teacher!r} and {student!r}")
    return entry.method(student, teacher, **chosen)


def refuse_temperature(method: Method) -> None:
    """Refuse a teacher whose logits were given a fitted temperature where the method never looks at its logits.

    Raises:
        ValueError: ``method.needs`` has no ``teacher.logits``.
    """
    views = sorted(need for need in method.needs if need.startswith("teacher."))
    if "teacher.logits" not in views:
        raise ValueError(
            f"a temperature fitted to the teacher's logits changes nothing for {type(method).__name__}, which learns "
            f"from {' and '.join(views) or 'no teacher'} and never sees those logits; "
            "use the teacher without a temperature, or a kd_weight > 0"
        )


def _name(network: str | nn.Module | None) -> str | None:
    """A network's name in ``NETS``, also through a read-out around it."""
    if network is None or isinstance(network, str):
        return network
    name, inner = getattr(network, "name", None), getattr(network, "net", None)
    if name is None and isinstance(inner, nn.Module):
        return _name(inner)
    return None if name is None else str(name)
