"""The published recipes by name: what the numbers in the distillation literature were trained with.

**Milestones.** A milestone of 150 lowers the rate when 150 whole epochs are done, in all of these sources but one.
RepDistiller and mdistiller count epochs from 1 and lower the rate where epoch > 150; HSAKD bisects the milestones by
the epoch counted from 0; torchdistill steps a scheduler after every epoch. ReviewKD counts from 0 and compares after
the epoch, so that its rate falls one epoch later, which is not imitated. :class:`Step` has milestones as fractions of
the training, so that 150 of 240 is 0.625. Another number of epochs scales them, and then a milestone may fall inside an
epoch: rates are set at every step.

**Validation.** Published students train on every training image and are reported at their last epoch (RepDistiller,
HSAKD) or at their best epoch *on the test set* (mdistiller and those after it). ``validation`` carves a share out of
the training images instead; 0 is as published.

Sources: RepDistiller (Tian, Krishnan & Isola 2020), mdistiller (Zhao et al. 2022), ReviewKD (Chen et al. 2021), HSAKD
(Yang et al. 2021), torchdistill (Matsubara 2021), DOT (Zhao et al. 2023).
"""

from __future__ import annotations

from typing import Literal

from bcpd.train.recipe import Recipe, Step

__all__ = [
    "CIFAR_EPOCHS",
    "IMAGENET_EPOCHS",
    "SMALL_RATE_NETS",
    "cifar100_hsakd",
    "cifar100_published",
    "cifar100_reviewkd",
    "imagenet_hsakd",
    "imagenet_mdistiller",
    "imagenet_reviewkd",
    "imagenet_torchdistill",
    "tiny_imagenet_dot",
]

SMALL_RATE_NETS: tuple[str, ...] = ("mobilenetv2", "shufflenetv1", "shufflenetv2")
"""Nets that every CIFAR source trains at a fifth of the usual rate."""

CIFAR_EPOCHS, IMAGENET_EPOCHS = 240, 100
"""As published by all of them."""

_CIFAR = Step((150 / 240, 180 / 240, 210 / 240), 0.1)
_IMAGENET = Step((30 / 100, 60 / 100, 90 / 100), 0.1)


def cifar100_published(net: str, epochs: int = CIFAR_EPOCHS, validation: float = 0.0) -> Recipe:
    """RepDistiller's, which mdistiller and the paper's release share: 0.05 (0.01), batch 64, decay 5e-4, no Nesterov.

    Args:
        net: what is trained; :data:`SMALL_RATE_NETS` train at 0.01.
        epochs: 240 as published, with the rate divided by 10 after 150, 180 and 210.
        validation: share of the training images, 0 as published.
    """
    rate = 0.01 if net in SMALL_RATE_NETS else 0.05
    return Recipe(epochs, rate, batch_size=64, weight_decay=5e-4, schedule=_CIFAR, validation=validation)


def cifar100_reviewkd(net: str, epochs: int = CIFAR_EPOCHS, validation: float = 0.0) -> Recipe:
    """ReviewKD's own: 0.1 (0.02 for :data:`SMALL_RATE_NETS`), batch 128, decay 5e-4, Nesterov.

    Args:
        net, epochs, validation: as in :func:`cifar100_published`.
    """
    rate = 0.02 if net in SMALL_RATE_NETS else 0.1
    return Recipe(
        epochs, rate, batch_size=128, nesterov=True, weight_decay=5e-4, schedule=_CIFAR, validation=validation
    )


def cifar100_hsakd(net: str, epochs: int = CIFAR_EPOCHS, validation: float = 0.0) -> Recipe:
    """HSAKD's own: 0.05 (0.01), 64 images a batch (each in four rotations), decay 5e-4, Nesterov.

    Args:
        net, epochs, validation: as in :func:`cifar100_published`.
    """
    rate = 0.01 if net in SMALL_RATE_NETS else 0.05
    return Recipe(epochs, rate, batch_size=64, nesterov=True, weight_decay=5e-4, schedule=_CIFAR, validation=validation)


def imagenet_mdistiller(
    method: Literal["kd", "dkd", "at", "crd", "reviewkd"], epochs: int = IMAGENET_EPOCHS, validation: float = 0.0
) -> Recipe:
    """mdistiller's: 0.2 with batches of 512 for KD, DKD and AT, 0.1 with 256 for CRD and ReviewKD; decay 1e-4.

    Args:
        method: whose configuration.
        epochs: 100 as published, with the rate divided by 10 after 30, 60 and 90.
        validation: share of the training images, 0 as published.
    Raises:
        ValueError: a method without a configuration there.
    """
    if method in ("kd", "dkd", "at"):
        rate, batch = 0.2, 512
    elif method in ("crd", "reviewkd"):
        rate, batch = 0.1, 256
    else:
        raise ValueError(f"mdistiller has ImageNet recipes for kd, dkd, at, crd and reviewkd; received {method!r}")
    return Recipe(epochs, rate, batch_size=batch, weight_decay=1e-4, schedule=_IMAGENET, validation=validation)


def imagenet_torchdistill(epochs: int = IMAGENET_EPOCHS, validation: float = 0.0) -> Recipe:
    """torchdistill's, and that of torchvision's ResNets but for the length: 0.1, batch 256, decay 1e-4.

    Args:
        epochs, validation: as in :func:`imagenet_mdistiller`.
    """
    return Recipe(epochs, 0.1, batch_size=256, weight_decay=1e-4, schedule=_IMAGENET, validation=validation)


def imagenet_reviewkd(batch_size: int = 256, epochs: int = IMAGENET_EPOCHS, validation: float = 0.0) -> Recipe:
    """ReviewKD's own: 0.1 times the global batch over 256 (4 devices of 64 images there), decay 1e-4.

    Args:
        batch_size: over all devices.
        epochs, validation: as in :func:`imagenet_mdistiller`.
    """
    rate = 0.1 * batch_size / 256
    return Recipe(epochs, rate, batch_size=batch_size, weight_decay=1e-4, schedule=_IMAGENET, validation=validation)


def imagenet_hsakd(epochs: int = IMAGENET_EPOCHS, validation: float = 0.0) -> Recipe:
    """HSAKD's own: 0.1, 256 images a batch (each in four rotations), decay 1e-4.

    Args:
        epochs, validation: as in :func:`imagenet_mdistiller`.
    """
    return imagenet_torchdistill(epochs, validation)


def tiny_imagenet_dot(epochs: int = 200, validation: float = 0.0) -> Recipe:
    """DOT's for Tiny-ImageNet in mdistiller: 0.2, batch 256, decay 5e-4, divided by 10 after 60, 120 and 160 of 200."""
    schedule = Step((60 / 200, 120 / 200, 160 / 200), 0.1)
    return Recipe(epochs, 0.2, batch_size=256, weight_decay=5e-4, schedule=schedule, validation=validation)
