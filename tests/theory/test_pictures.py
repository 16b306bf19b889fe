"""The data of the pictures: small, the same every time, and true to what they are said to show."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from bcpd.mixtures import FAMILIES
from bcpd.report import illustrations
from bcpd.theory.pictures import PLANE, pictures


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return pictures(0)


def test_the_data_are_json_of_a_few_hundred_kilobytes(data: dict[str, Any]) -> None:
    text = json.dumps(data, allow_nan=False)
    assert json.loads(text) == data
    assert len(text) < 300_000


@pytest.mark.slow
def test_the_data_follow_from_the_seed(data: dict[str, Any]) -> None:
    again, other = pictures(0), pictures(1)
    assert again == data
    assert other["posterior"]["points"] != data["posterior"]["points"]
    assert other["identity"]["losses"] != data["identity"]["losses"]
    with pytest.raises(ValueError, match=r"a root seed must be an int, received 0\.5"):
        pictures(0.5)  # type: ignore[arg-type]


def test_the_map_is_the_posterior_at_the_nodes_first_axis_along_the_columns(data: dict[str, Any]) -> None:
    part = data["posterior"]
    bayes = torch.tensor(part["bayes"], dtype=torch.float64)
    nodes = bayes.shape[0]
    first, second = (torch.linspace(*part[axis], nodes, dtype=torch.float64) for axis in ("first", "second"))
    row, column = 5, 60
    expected = FAMILIES[PLANE]().posterior(torch.stack([first[column], second[row]])[None])[0]
    # the stored limits are rounded to 3 decimals, p* to 3
    assert torch.allclose(bayes[row, column], expected, atol=2e-3)
    assert not torch.allclose(bayes[column, row], expected, atol=2e-2)
    assert torch.allclose(bayes.sum(-1), torch.ones(nodes, nodes, dtype=torch.float64), atol=2e-3)


def test_the_points_carry_labels_from_the_map(data: dict[str, Any]) -> None:
    part = data["posterior"]
    points, labels = torch.tensor(part["points"], dtype=torch.float64), torch.tensor(part["labels"])
    p = FAMILIES[PLANE]().posterior(points)
    right = (p.argmax(-1) == labels).double()
    # 240 labels: 5 standard errors (false alarms 3e-7 one-sided)
    assert abs(float(right.mean()) - float(p.amax(-1).mean())) < 5 * math.sqrt(0.25 / len(labels))
    assert float(right.mean()) > 0.5


def test_theorem_1_holds_on_every_network_and_its_wrong_versions_do_not(data: dict[str, Any]) -> None:
    for loss, sides in data["identity"]["losses"].items():
        risk, claimed, dropped, swapped = (
            torch.tensor(sides[key], dtype=torch.float64)
            for key in ("risk", "claimed", "dropped_constant", "swapped_arguments")
        )
        assert len(risk) == data["identity"]["networks"]
        assert float(risk.std()) > 0.01
        assert float((risk - claimed).abs().max()) <= 2e-6
        assert torch.allclose(risk - dropped, torch.full_like(risk, sides["constant"]), atol=3e-6)
        assert sides["constant"] > 0.1
        off = float((risk - swapped).abs().median())
        assert off > 5e-3 if loss == "ce" else off <= 2e-6


def test_each_loss_wins_its_own_metric_with_a_curve_that_is_linear_in_the_logits(data: dict[str, Any]) -> None:
    part = data["projection"]
    distances = part["distances"]
    assert distances["mse"]["mse"] < distances["ce"]["mse"] - 0.01
    assert distances["ce"]["kl"] < distances["mse"]["kl"] - 0.01
    x = torch.tensor(part["x"], dtype=torch.float64)
    for loss in ("ce", "mse"):
        q = torch.tensor(part["fitted"][loss], dtype=torch.float64)
        inside = (q > 0.05) & (q < 0.95)
        slopes = torch.diff(torch.logit(q[inside])) / torch.diff(x[inside])
        assert float(slopes.std()) < 0.05 * float(slopes.mean())
    bayes = torch.tensor(part["bayes"], dtype=torch.float64)
    assert float(bayes.max()) > 0.9 > 0.1 > float(bayes[-1])


def test_the_densities_are_those_that_p_star_comes_from(data: dict[str, Any]) -> None:
    part = data["projection"]
    joint = torch.tensor(part["densities"], dtype=torch.float64)
    bayes = torch.tensor(part["bayes"], dtype=torch.float64)
    thick = joint.sum(0) > 0.02
    assert torch.allclose((joint[1] / joint.sum(0))[thick], bayes[thick], atol=1e-3)


def test_proper_losses_end_at_p_star_and_improper_ones_elsewhere(data: dict[str, Any]) -> None:
    part = data["minimisers"]
    p = torch.tensor(part["bayes"], dtype=torch.float64)
    gaps = {
        (entry["loss"], entry["readout"]): float((torch.tensor(entry["minimiser"]).double() - p).abs().max())
        for entry in part["reached"]
    }
    at_bayes = {key for key, gap in gaps.items() if gap < 1e-6}
    assert at_bayes == {("ce", "softmax"), ("mse", "softmax"), ("spherical", "softmax"), ("logit_mse", "projection")}
    assert min(gap for key, gap in gaps.items() if key not in at_bayes) > 0.01


def test_paths_leave_p_star_monotonely(data: dict[str, Any]) -> None:
    part = data["minimisers"]
    p = torch.tensor(part["bayes"], dtype=torch.float64)
    for path in part["paths"].values():
        reached = torch.tensor(path["minimisers"], dtype=torch.float64)
        assert path["values"][0] == 0
        assert torch.allclose(reached[0], p, atol=1e-6)
        assert bool((torch.diff((reached - p).norm(dim=-1)) > 1e-3).all())
    smoothing = part["paths"]["label_smoothing"]
    epsilon = torch.tensor(smoothing["values"], dtype=torch.float64)[:, None]
    assert torch.allclose(torch.tensor(smoothing["minimisers"]).double(), (1 - epsilon) * p + epsilon / 3, atol=1e-6)


def test_every_picture_can_be_drawn(data: dict[str, Any]) -> None:
    assert [item.missing for item in illustrations({"kind": "verify", "pictures": data})] == [""] * 4
