"""The published settings: that they can be built, what differs by pair and data set, and what was never published."""

from typing import Any

import pytest
import torch

from bcpd.distill import AT, CC, CRD, DKD, HSAKD, KD, PKT, RKD, SP, VID, FitNet, Method, ReviewKD, Supervised
from bcpd.distill.published import DATASETS, METHODS, published, refuse_temperature
from bcpd.nets import NETS, build
from bcpd.train import ReadOut

CLASSES = {
    "kd": KD,
    "fitnet": FitNet,
    "at": AT,
    "sp": SP,
    "cc": CC,
    "vid": VID,
    "rkd": RKD,
    "pkt": PKT,
    "crd": CRD,
    "dkd": DKD,
    "reviewkd": ReviewKD,
    "hsakd": HSAKD,
}


def made(name: str, teacher: str = "resnet56", student: str = "resnet20", dataset: str = "cifar100") -> Method:
    if name == "hsakd":
        nets = [build("resnet8x0.5", num_classes=3, input_shape=(3, 8, 8), seed=seed) for seed in (0, 1)]
        return published(name, nets[0], nets[1], dataset)
    extra = {"labels": torch.arange(6) % 3} if name == "crd" else {}
    return published(name, teacher, student, dataset, **extra)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_built_as_published(name: str) -> None:
    assert set(METHODS) == set(CLASSES)
    method = made(name)
    assert type(method) is CLASSES[name]
    setting = METHODS[name].settings["cifar100"]
    assert setting.options is not None
    assert setting.batch_size in (64, 128)
    assert len(setting.source) > 20
    own = setting.pairs.get(("resnet56", "resnet20"), {})
    for key, value in {**setting.options, **own}.items():
        assert getattr(method, key) == value
    # the class's own defaults are the CIFAR settings of most pairs
    if name not in ("crd", "hsakd", "reviewkd"):
        assert METHODS[name].method(**setting.options).describe() == METHODS[name].method().describe()


def test_the_weights_of_the_cifar_benchmark() -> None:
    weights = {name: made(name).describe() for name in ("fitnet", "at", "sp", "cc", "vid", "rkd", "pkt")}
    assert {name: row["weight"] for name, row in weights.items()} == {
        "fitnet": 100.0,
        "at": 1000.0,
        "sp": 3000.0,
        "cc": 0.02,
        "vid": 1.0,
        "rkd": 1.0,
        "pkt": 30000.0,
    }
    assert all((row["label_weight"], row["kd_weight"]) == (1.0, 0.0) for row in weights.values())
    kd = made("kd")
    assert isinstance(kd, KD)
    assert (kd.label_weight, kd.teacher_weight, kd.temperature) == (0.1, 0.9, 4.0)
    assert made("kd", dataset="imagenet").describe()["temperature"] == 1.0


@pytest.mark.parametrize(
    ("name", "teacher", "student", "dataset", "wanted"),
    [
        ("dkd", "resnet56", "resnet20", "cifar100", {"beta": 2.0, "temperature": 4.0, "warm_up": 20}),
        ("dkd", "wrn_40_2", "wrn_16_2", "cifar100", {"beta": 6.0}),
        ("dkd", "vgg13", "mobilenetv2", "cifar100", {"beta": 6.0}),
        ("dkd", "wrn_40_2", "shufflenetv1", "cifar100", {"beta": 8.0}),
        ("dkd", "resnet20", "resnet8", "cifar100", {"beta": 8.0}),
        ("dkd", "resnet110", "resnet32", "cifar10", {"beta": 2.0}),
        ("dkd", "imagenet_resnet34", "imagenet_resnet18", "imagenet", {"beta": 0.5, "temperature": 1.0, "warm_up": 1}),
        ("dkd", "imagenet_resnet50", "imagenet_mobilenetv1", "imagenet", {"beta": 2.0, "alpha": 1.0}),
        ("reviewkd", "resnet56", "resnet20", "cifar100", {"weight": 0.6, "warm_up": 20}),
        ("reviewkd", "resnet110", "resnet32", "cifar100", {"weight": 1.0}),
        ("reviewkd", "resnet32x4", "shufflenetv2", "cifar100", {"weight": 8.0}),
        ("reviewkd", "resnet50", "mobilenetv2", "cifar100", {"weight": 30.0}),
        ("reviewkd", "imagenet_resnet50", "imagenet_mobilenetv1", "imagenet", {"weight": 8.0, "width": 256}),
        (
            "reviewkd",
            "imagenet_resnet34",
            "imagenet_resnet18",
            "imagenet",
            {"weight": 1.0, "warm_up": 1, "student_maps": "preacts"},
        ),
        ("at", "imagenet_resnet34", "imagenet_resnet18", "imagenet", {"weight": 1000.0}),
    ],
)
def test_what_differs_by_pair_and_data_set(
    name: str, teacher: str, student: str, dataset: str, wanted: dict[str, Any]
) -> None:
    found = published(name, teacher, student, dataset).describe()
    assert {key: found[key] for key in wanted} == wanted


def test_every_pair_is_of_registered_networks_and_every_data_set_is_known() -> None:
    settings = [setting for entry in METHODS.values() for setting in entry.settings.values()]
    names = {name for setting in settings for pair in setting.pairs for name in pair}
    assert {"resnet56", "wrn_40_2", "imagenet_resnet34"} <= names <= set(NETS)
    assert {dataset for entry in METHODS.values() for dataset in entry.settings} == set(DATASETS.values())


def test_options_replace_the_published_ones_and_networks_may_stand_for_their_names() -> None:
    assert published("dkd", "resnet56", "resnet20", beta=3.0).describe()["beta"] == 3.0
    assert published("pkt", batch_normalised=True).describe()["batch_normalised"] is True
    nets = [build(name, num_classes=3, input_shape=(3, 8, 8)) for name in ("resnet56", "resnet20")]
    teacher = ReadOut(nets[0], Supervised("ce"))
    assert published("dkd", teacher, nets[1]).describe()["beta"] == 2.0
    assert isinstance(published("hsakd", teacher, nets[1]), HSAKD)


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method must be one of \['at', .*received 'PKD'"):
        published("PKD")
    with pytest.raises(
        ValueError, match=r"dataset must be one of \['cifar10', 'cifar100', 'imagenet'\], received 'svhn'"
    ):
        published("kd", dataset="svhn")
    with pytest.raises(
        ValueError, match=r"no setting of pkt was published for imagenet, only for cifar100; .*PKT\(weig"
    ):
        published("pkt", dataset="imagenet")
    with pytest.raises(ValueError, match=r"dkd was published for imagenet_resnet34 to .*received resnet56 to resnet20"):
        published("dkd", "resnet56", "resnet20", "imagenet")
    with pytest.raises(
        ValueError, match="hsakd is built from the networks themselves, received 'resnet56' and 'resnet20'"
    ):
        published("hsakd", "resnet56", "resnet20")


@pytest.mark.parametrize("name", METHODS)
def test_a_fitted_temperature_is_refused_where_the_teacher_s_logits_are_not_seen(name: str) -> None:
    method = made(name)
    if name in ("kd", "dkd", "hsakd"):
        refuse_temperature(method)
        return
    sees = {"pkt": "pooled", "rkd": "pooled", "cc": "pooled", "crd": "pooled", "reviewkd": "p"}.get(name, "stages")
    with pytest.raises(ValueError, match=rf"changes nothing for {type(method).__name__}, .*from teacher\.{sees}.*kd_w"):
        refuse_temperature(method)
    if name != "crd":
        refuse_temperature(published(name, kd_weight=1.0))


def test_a_fitted_temperature_is_refused_by_what_has_no_teacher() -> None:
    with pytest.raises(ValueError, match="Supervised, which learns from no teacher"):
        refuse_temperature(Supervised("ce"))
