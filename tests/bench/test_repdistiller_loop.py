"""The baseline of real networks shows the pictures, takes the losses and counts the hits that it says."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from scipy.stats import chisquare
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor, nn

from bcpd.bench import repdistiller_loop
from bcpd.bench.repdistiller_loop import (
    Pictures,
    augmented,
    distillation,
    loader,
    released_settings,
    train_epoch,
    workers_here,
)
from bcpd.data import NORMALISATION, NUM_VIEWS, Batch, InMemory
from bcpd.distill import KD
from bcpd.nets import Views

NORMALISE = NORMALISATION["cifar100"]


def images(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(count)
    x = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=stream)
    return x, torch.randint(0, 10, (count,), generator=stream)


class Linear(nn.Module):
    """Pixels to logits."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.map = nn.Linear(3 * 8 * 8, 10, bias=False)
        self.map.weight.data.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor) -> Views:
        logits = self.map(x.flatten(1))
        return Views(logits, logits, (), ())


def test_a_picture_is_shown_as_each_of_the_162_views_of_a_batch() -> None:
    x, y = images(1)
    source = InMemory(x, y, num_classes=10, augment="crop-flip", normalise=NORMALISE)
    views = torch.arange(NUM_VIEWS)
    ours = source.batch(torch.zeros_like(views), views=views).x
    pictures = Pictures(x, y, NORMALISE)
    theirs = torch.stack([pictures.shown(0, v // 18, v // 2 % 9, v % 2 == 1) for v in views.tolist()])
    # the same bytes; scaled in another order
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-6)


def test_a_picture_is_cut_before_it_is_mirrored() -> None:
    picture = Image.new("RGB", (8, 8), (255, 255, 255))
    cut = augmented(picture, 4, 0, True)
    # four black columns came in on the left; the mirror has them on the right
    assert [cut.getpixel((column, 0)) != (0, 0, 0) for column in range(8)] == [True] * 4 + [False] * 4


@pytest.mark.statistical
def test_crops_and_flips_are_uniform_over_the_162_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chi-square test; its false-alarm rate is 1e-4. A flip of probability 0.45 is found."""
    counts = torch.zeros(NUM_VIEWS, dtype=torch.int64)

    def note(self: Pictures, index: int, row: int, column: int, mirrored: bool) -> Tensor:
        counts[(row * 9 + column) * 2 + mirrored] += 1
        return torch.zeros(1)

    monkeypatch.setattr(Pictures, "shown", note)
    pictures = Pictures(*images(1), NORMALISE)
    with torch.random.fork_rng():
        torch.manual_seed(162)
        for _ in range(100 * NUM_VIEWS):
            pictures[0]
    assert chisquare(counts.numpy()).pvalue > 1e-4
    skewed = counts.reshape(-1, 2) * torch.tensor([1.1, 0.9])
    assert chisquare(skewed.flatten().numpy()).pvalue < 1e-4


def test_the_loss_is_that_of_kd_on_the_same_batch() -> None:
    stream = torch.Generator().manual_seed(7)
    z_s, z_t = (scale * torch.randn(64, 100, dtype=torch.float64, generator=stream) for scale in (3, 6))
    y = torch.randint(0, 100, (64,), generator=stream)
    batch = Batch(torch.zeros(64, 1), y, torch.arange(64))

    def ours(student: Tensor, teacher: Tensor) -> float:
        s, t = (Views(logits, logits, (), ()) for logits in (student, teacher))
        return float(torch.stack(list(KD().loss(batch, s, t).values())).sum())

    assert float(distillation(z_s, z_t, y)) == pytest.approx(ours(z_s, z_t), rel=1e-6)
    assert float(distillation(z_t, z_s, y)) != pytest.approx(ours(z_s, z_t), rel=1e-3)


def test_an_epoch_reports_the_means_over_all_examples() -> None:
    x, y = images(11, 8)
    batches = list(loader(Pictures(x, y, NORMALISE), 4, 0))
    net, teacher = Linear(0), Linear(1)
    still = torch.optim.SGD(net.parameters(), lr=0.0)
    found = train_epoch(net, None, still, batches)
    seen, labels = (torch.cat([batch[place] for batch in batches]) for place in (0, 1))
    logits = net(seen).logits.detach()
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    for top, k in ((found.top1, 1), (found.top5, 5)):
        assert top == pytest.approx(100 * top_k_accuracy_score(labels, logits, k=k, labels=range(10)), abs=1e-4)
    taught = train_epoch(net, teacher, still, batches)
    expected = distillation(logits, teacher(seen).logits.detach(), labels)
    assert taught.loss == pytest.approx(float(expected), rel=1e-5)


def test_the_loader_gives_every_picture_once_and_keeps_the_last_batch() -> None:
    pictures = Pictures(*images(11, 8), NORMALISE)
    epochs = [list(loader(pictures, 4, 0)) for _ in range(2)]
    orders = [torch.cat([index for _, _, index in epoch]).tolist() for epoch in epochs]
    assert [len(y) for _, y, _ in epochs[0]] == [4, 4, 3]
    assert all(sorted(order) == list(range(11)) for order in orders)
    assert orders[0] != orders[1]
    assert all(y[0] == pictures.labels[int(index[0])] for _, y, index in epochs[0])


@pytest.mark.slow
def test_the_loaders_workers_stay_from_epoch_to_epoch() -> None:
    batches = loader(Pictures(*images(11, 8), NORMALISE), 4, 1)
    for _ in range(2):
        assert sorted(int(i) for _, _, index in batches for i in index) == list(range(11))
    assert batches.persistent_workers
    assert batches.num_workers == 1


def test_workers_are_no_more_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repdistiller_loop.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    assert (workers_here("cpu"), workers_here("cuda")) == (2, 4)


def test_on_cuda_convolutions_are_in_tf32_while_it_lasts() -> None:
    def settings() -> tuple[bool, str, str]:
        backends = torch.backends
        return backends.cudnn.benchmark, backends.cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision

    before = settings()
    with released_settings("cuda"):
        assert settings() == (True, "tf32", "ieee")
    assert settings() == before
    with released_settings("cpu"):
        assert settings() == before
