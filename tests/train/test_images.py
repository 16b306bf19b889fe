"""Convolutional networks on augmented images go through the same fit as vectors, as teacher and as student."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from small_world import same
from torch import Tensor

import bcpd
from bcpd.data import Batch, InMemory
from bcpd.data.images import Normalisation
from bcpd.distill import KD, Supervised
from bcpd.nets import Net, Views, build
from bcpd.train import Fitted, Progress, Recipe
from bcpd.train.split import split

RECIPE = Recipe(epochs=2, learning_rate=0.05, batch_size=8, validation=0.25, weight_decay=5e-4, nesterov=True)


class Stop(Exception):
    """Raised to interrupt a training."""


def images() -> InMemory:
    stream = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (32, 3, 12, 12), generator=stream, dtype=torch.uint8)
    y = torch.arange(32) % 3
    return InMemory(
        x, y, num_classes=3, augment="crop-flip", normalise=Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    )


def resnet(seed: int) -> Net:
    return build("resnet8", num_classes=3, input_shape=(3, 12, 12), seed=seed)


class Watched(KD):
    """Notes the augmented inputs it is shown, and that the teacher saw the same."""

    def __init__(self, teacher: torch.nn.Module) -> None:
        super().__init__(2.0, 0.5, 0.5)
        self._teacher = [teacher]
        self._views: list[Tensor] = []
        self._indices: list[Tensor] = []

    def loss(self, batch: Batch, s: Views, t: Views | None) -> Mapping[str, Tensor]:
        assert t is not None
        with torch.no_grad():
            assert torch.equal(self._teacher[0](batch.x).logits, t.logits)
        self._views.append(batch.extra["view"])
        self._indices.append(batch.index)
        return super().loss(batch, s, t)


@pytest.fixture(scope="module")
def taught() -> Fitted:
    return bcpd.fit(resnet(0), images(), Supervised("mse"), RECIPE, seed=0)


def test_a_convnet_is_trained_as_a_teacher_and_distilled_on_the_same_augmented_inputs(taught: Fitted) -> None:
    assert taught.history[-1]["train_loss"][0] != taught.history[0]["train_loss"][0]
    teacher = taught.teacher("last")
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    method = Watched(teacher)
    student = bcpd.fit(resnet(1), images(), method, RECIPE, seed=0, teacher=teacher)
    assert set(student.states) == {"last", "best_accuracy", "best_score"}
    assert {"train_teacher", "train_label", "agreement", "validation_accuracy"} <= set(student.history[0])
    assert same(teacher.state_dict(), before), "batch statistics of the teacher must not move"
    assert student.diverged == [None]
    shown = []
    for epoch in range(2):
        steps = slice(3 * epoch, 3 * epoch + 3)
        index, view = torch.cat(method._indices[steps]), torch.cat(method._views[steps])
        shown.append(dict(zip(index.tolist(), view.tolist(), strict=True)))
    assert shown[0].keys() == shown[1].keys()
    assert sum(shown[0][index] != shown[1][index] for index in shown[0]) > 12, "each epoch has its own views"


def test_metrics_are_of_the_clean_images_in_eval_mode(taught: Fitted) -> None:
    source = images()
    _, validation = split(source, 0.25, [0], None)
    assert validation is not None
    batch = source.batch(validation)
    with torch.no_grad():
        logits = taught.network("last")(batch.x).logits
    accuracy = (logits.argmax(-1) == batch.y).double().mean()
    assert taught.history[-1]["validation_accuracy"] == [float(accuracy)]


@pytest.mark.parametrize("distilled", [False, True])
def test_a_convnet_goes_on_to_the_same_bits(distilled: bool, taught: Fitted, tmp_path: Path) -> None:
    """Batch statistics and the choice of views included."""

    def run(folder: Path | None, stop: int | None = None) -> Fitted:
        def watch(report: Progress) -> None:
            if report.epoch == stop:
                raise Stop

        return bcpd.fit(
            resnet(1),
            images(),
            KD() if distilled else Supervised("ce"),
            RECIPE,
            seed=3,
            teacher=taught.teacher() if distilled else None,
            folder=folder,
            save_seconds=0,
            progress=watch,
        )

    whole = run(None)
    with pytest.raises(Stop):
        run(tmp_path, stop=1)
    resumed = run(tmp_path)
    assert all(same(resumed.states[name], whole.states[name]) for name in whole.states)
    assert resumed.history == whole.history


def test_a_teacher_with_probabilities_of_exactly_zero_distils_without_nan() -> None:
    """logit_mse read out by projection: most of its probabilities are 0, their logarithms -inf."""
    source = images()
    teacher = bcpd.fit(resnet(0), source, Supervised("logit_mse"), RECIPE, seed=0)
    logits = teacher.teacher()(source.batch(torch.arange(32)).x).logits
    assert bool((logits == -torch.inf).any())
    for method in (KD.pure(), KD(4.0, 0.5, 0.5)):
        student = bcpd.fit(resnet(1), source, method, RECIPE, seed=0, teacher=teacher.teacher())
        assert student.diverged == [None]
        assert all(bool(value.isfinite().all()) for value in student.states["last"].values())
