"""Fresh samples every epoch: what a mixture with known p* offers instead of augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from bcpd.data.augment import Augmentation
from bcpd.data.batch import Batch
from bcpd.data.source import InMemory, draw
from bcpd.seeds import derive
from bcpd.tensors import ArrayLike

if TYPE_CHECKING:
    from bcpd.mixtures import Mixture

__all__ = ["FreshSamples"]


class FreshSamples(InMemory):
    """N examples of a mixture that are drawn anew in every epoch, with exact p*.

    It stands wherever :class:`InMemory` does. The batch at an epoch comes from that epoch's draw of N examples, a pure
    function of (seed, epoch): a training that is resumed in epoch e sees what it would have seen. Without an epoch the
    source is a draw of its own, the **base** draw of ``InMemory.from_mixture(mixture, n, seeds)``: everything that is
    measured is measured on it, and nothing is ever trained on it. (So the ``transfer_*`` columns of a training are of
    points it has not seen, like those of its validation part.) The draw of an epoch is made at its first batch, and one
    is held at a time: twice the memory of :class:`InMemory`. p* of a draw is computed only where batches hold it.

    Args:
        mixture: what is drawn from.
        n: examples of an epoch, >= 1; those at the positions held out for validation go unused.
        seeds: root seed of all draws; R of them give R replicas, each a function of its own seed.
        augment, recompute: as :meth:`InMemory.from_mixture` has them.
        dtype: of the x a batch holds; p* is evaluated in float64 before x is rounded.
    Raises:
        ValueError: no seeds, or what :class:`InMemory` refuses.
    """

    def __init__(
        self,
        mixture: Mixture,
        n: int,
        seeds: int | Sequence[int],
        *,
        augment: Augmentation | None = None,
        recompute: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        x, y, log_bayes = draw(mixture, n, seeds, dtype)
        super().__init__(
            x,
            y,
            num_classes=mixture.num_classes,
            log_bayes=log_bayes,
            augment=augment,
            symmetries=mixture.symmetries,
            recompute=mixture.log_posterior if recompute else None,
            dtype=dtype,
        )
        self._mixture = mixture
        self._seeds: int | tuple[int, ...] = tuple(seeds) if isinstance(seeds, Sequence) else seeds
        self._drawn = n
        self._chosen: tuple[Tensor, ...] = ()
        self._held: tuple[int, InMemory] | None = None

    @classmethod
    def from_mixture(
        cls,
        mixture: Mixture,
        n: int,
        seeds: int | Sequence[int],
        *,
        augment: Augmentation | None = None,
        recompute: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """The constructor, by the name that :class:`InMemory` has for it."""
        return cls(mixture, n, seeds, augment=augment, recompute=recompute, dtype=dtype)

    def of_epoch(self, epoch: int) -> InMemory:
        """The examples of an epoch, as a source of their own; kept until another epoch is asked for.

        Raises:
            ValueError: a negative epoch.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be >= 0, received {epoch}")
        if self._held is None or self._held[0] != epoch:
            self._held = None
            self._held = (epoch, self._draw(epoch))
        return self._held[1]

    def batch(
        self,
        index: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        epoch: int | None = None,
        views: Tensor | None = None,
    ) -> Batch:
        """The examples at ``index`` of the epoch's draw, or of the base draw without an epoch.

        See :meth:`InMemory.batch`; ``seed`` is that of the augmentation, the draws have their own.
        """
        if epoch is None:
            return super().batch(index, seed=seed, views=views)
        return self.of_epoch(epoch).batch(index, seed=seed, epoch=epoch, views=views)

    def without_bayes(self) -> Self:
        """The same examples, p* forgotten: it is not computed for the draws to come."""
        bare = super().without_bayes()
        bare._held = None
        return bare

    def subset(self, index: Tensor) -> Self:
        """The source of the examples at ``index`` of every draw, which are numbered from 0 again.

        See :meth:`InMemory.subset`.
        """
        part = super().subset(index)
        part._chosen = (*self._chosen, index.cpu())
        return part

    def with_targets(self, targets: ArrayLike | None) -> Self:
        """Refused: rows belong to the x that they were made for, and every epoch has other x.

        Raises:
            ValueError: targets were given.
        """
        if targets is not None:
            raise ValueError("targets belong to the x they were made for, but fresh samples are others in every epoch")
        return super().with_targets(None)

    def fingerprint(self) -> str:
        """As :meth:`InMemory.fingerprint`, of the base draw, the seeds and the choices that all draws follow from."""
        settings = (super().fingerprint(), self._seeds, self._drawn)
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16, person=b"bcpd.fresh")
        for index in self._chosen:
            digest.update(f"\x1f{tuple(index.shape)}\x1f".encode())
            digest.update(index.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _draw(self, epoch: int) -> InMemory:
        roots = self._seeds
        seeds = (
            [derive(s, "fresh", epoch) for s in roots] if isinstance(roots, tuple) else derive(roots, "fresh", epoch)
        )
        x, y, log_bayes = draw(self._mixture, self._drawn, seeds, self.dtype, bayes=self.log_bayes is not None)
        drawn = InMemory(
            x,
            y,
            num_classes=self.num_classes,
            log_bayes=log_bayes,
            augment=self.augment,
            symmetries=self.symmetries,
            recompute=self.recompute,
            dtype=self.dtype,
        )
        for index in self._chosen:
            drawn = drawn.subset(index)
        return drawn.to(self.device)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        mapped = super()._mapped(change)
        mapped._held = None
        return mapped
