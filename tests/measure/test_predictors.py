"""Anything that predicts can be measured, and is handed back as it came."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn

from bcpd import simplex
from bcpd.measure import LogPredictor, as_predictor, distance
from bcpd.mixtures import GaussianMixture

THREE = GaussianMixture([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]], 1.0)
X = torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(5, 2)


class Outputs(NamedTuple):
    logits: Tensor
    pooled: Tensor


class Returning(nn.Module):
    """A module with a parameter that returns what it was given to return."""

    def __init__(self, output: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=dtype))
        self.output = output
        self.received: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        self.received = x
        return self.output


def test_all_kinds_of_predictor_agree() -> None:
    linear = nn.Linear(2, 3).double()

    class Classifier:
        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return linear(torch.from_numpy(x)).softmax(-1).detach().numpy()

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear

        def forward(self, x: Tensor) -> Outputs:
            return Outputs(self.inner(x), x)

    expected = linear(X).log_softmax(-1).detach()
    kinds = [
        linear,
        Named(),
        Classifier(),
        lambda x: linear(x).softmax(-1),
        lambda x: linear(x).softmax(-1).detach().numpy(),
        LogPredictor(lambda x: linear(x).log_softmax(-1), 3),
    ]
    for predict in kinds:
        found = as_predictor(predict, 3)(X)
        assert found.dtype == torch.float64
        assert not found.requires_grad
        assert torch.allclose(found, expected, atol=1e-14)


def test_networks_are_evaluated_in_evaluation_mode_and_restored() -> None:
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    net[1].eval()  # a frozen batch norm among training parts
    before = {name: value.clone() for name, value in net.state_dict().items()}
    predictor = as_predictor(net, 3)
    assert torch.equal(predictor(X), predictor(X))  # dropout in training mode would differ
    assert [part.training for part in net] == [True, False, True, True]
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    expected = net.eval()(X.float()).double().log_softmax(-1)
    assert torch.allclose(predictor(X), expected, atol=1e-14)


def test_modes_are_restored_after_an_error() -> None:
    net = Returning(None).train()
    with pytest.raises(ValueError, match=r"an object with \.logits, received NoneType"):
        as_predictor(net, 3)(X)
    assert net.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_input_is_cast_to_the_network(dtype: torch.dtype) -> None:
    net = Returning(torch.zeros(5, 3, dtype=dtype), dtype)
    found = as_predictor(net, 3)(X)
    assert net.received is not None
    assert net.received.dtype == dtype
    assert found.dtype == torch.float64
    assert torch.allclose(found, torch.full((5, 3), -math.log(3), dtype=torch.float64), atol=1e-15)


def test_a_network_without_parameters_gets_float64() -> None:
    received = []

    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            received.append(x.dtype)
            return x

    as_predictor(Identity(), 2)(X)
    assert received == [torch.float64]


def test_saturated_networks_lose_nothing() -> None:
    net = Returning(torch.tensor([[0.0, 3000.0, -3000.0]]))
    found = as_predictor(net, 3)(X[:1])
    assert found.tolist() == [[-3000.0, 0.0, -6000.0]]
    # through probabilities the same network is infinitely wrong
    assert as_predictor(lambda x: net(x).softmax(-1), 3)(X[:1]).tolist() == [[-math.inf, 0.0, -math.inf]]


def test_read_out_of_logits() -> None:
    logits = torch.tensor([[0.9, 0.3, -1.0]])
    predictor = as_predictor(Returning(logits), 3, readout=simplex.project)
    assert torch.allclose(predictor(X[:1]).exp(), torch.tensor([[0.8, 0.2, 0.0]], dtype=torch.float64), atol=1e-7)
    assert as_predictor(predictor, 3) is predictor
    assert distance(as_predictor(nn.Linear(2, 3), 3, simplex.project), THREE, 200, 0)["mse"].value < 2


def test_classifiers_see_rows() -> None:
    x, y = THREE.sample(2_000, 0)
    for model in (LogisticRegression(), make_pipeline(StandardScaler(), LogisticRegression())):
        found = distance(model.fit(x.numpy(), y.numpy()), THREE, 5_000, 1)
        assert found["kl"].value < 0.01  # the model class holds p*
    tree = DecisionTreeClassifier(random_state=0).fit(x.numpy(), y.numpy())
    assert distance(tree, THREE, 500, 1)["kl"].value == math.inf

    class Flat:
        def predict_proba(self, rows: np.ndarray) -> np.ndarray:
            assert rows.shape == (4, 6)
            return np.full((4, 2), 0.5)

    assert as_predictor(Flat(), 2)(torch.zeros(4, 3, 2, dtype=torch.float64)).shape == (4, 2)


@pytest.mark.parametrize("classes", [[0, 2], [1, 2, 3], ["a", "b", "c"], [2, 1, 0]])
def test_classes_that_are_not_the_mixtures_are_refused(classes: list[Any]) -> None:
    class Classifier:
        classes_ = np.array(classes)

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return np.full((len(x), 3), 1 / 3)

    with pytest.raises(ValueError, match=r"classes_ must be 0\.\.2 in order"):
        as_predictor(Classifier(), 3)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (Returning(torch.zeros(5, 4)), r"\(5, 3\), received shape \(5, 4\)"),
        (Returning(torch.zeros(2, 5, 3)), r"\(5, 3\), received shape \(2, 5, 3\)"),
        (Returning(torch.full((5, 3), math.nan)), "row 0 received"),
        (Returning(torch.tensor([[0.0] * 3] * 4 + [[math.inf, 0, 0]])), "row 4 received"),
        (Returning((torch.zeros(5, 3),)), "received tuple"),
        (lambda x: torch.zeros(5, 3), "row 0 received"),
        (lambda x: None, "must be numeric"),
        (LogPredictor(lambda x: torch.zeros(5, 3), 3), "row 0 received"),
    ],
)
def test_output_that_is_not_probabilities_is_refused(predict: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_predictor(predict, 3)(X)


def test_other_errors() -> None:
    with pytest.raises(ValueError, match="received list"):
        as_predictor([0.5, 0.5], 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a readout needs a torch module's logits, received predict of type function"):
        as_predictor(lambda x: x, 2, readout=simplex.project)
    with pytest.raises(ValueError, match="must have 3 classes, received 2"):
        as_predictor(LogPredictor(lambda x: x, 2), 3)
    with pytest.raises(ValueError, match=r"readout\(logits\) must be rows of probabilities"):
        as_predictor(Returning(torch.zeros(5, 3)), 3, readout=lambda z: z)(X)
