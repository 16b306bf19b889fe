"""A data set held whole on its device, from which batches are gathered."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from bcpd.data.augment import AUGMENTATIONS, Augmentation, num_views, view_numbers
from bcpd.data.batch import Batch
from bcpd.data.images import Normalisation
from bcpd.tensors import ArrayLike, float64, labels, probability_rows

if TYPE_CHECKING:
    from bcpd.mixtures import Mixture

__all__ = ["Augmentation", "InMemory", "draw"]

_PROBED = 64  # examples whose recomputed rows identify a function


def _tensor(value: ArrayLike) -> Tensor:
    """A tensor as it is; anything else copied, so that no later change of a caller's array reaches the source."""
    return value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def draw(
    mixture: Mixture, n: int, seeds: int | Sequence[int], dtype: torch.dtype = torch.float32, bayes: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """``n`` points of a mixture: x in ``dtype``, y, and exact log p* (None without ``bayes``).

    A sequence of R seeds gives each a leading axis of R replicas, drawn apart: the points of a replica depend on its
    seed only. p* is evaluated in float64 before x is rounded to ``dtype``.

    Raises:
        ValueError: no seeds.
    """
    roots = list(seeds) if isinstance(seeds, Sequence) else [seeds]
    if not roots:
        raise ValueError("seeds must be an int or a non-empty sequence of ints, received an empty one")
    x = torch.empty((len(roots), n, *mixture.shape), dtype=dtype)
    y = torch.empty((len(roots), n), dtype=torch.int64)
    log_bayes = torch.empty((len(roots), n, mixture.num_classes), dtype=torch.float64) if bayes else None
    for replica, seed in enumerate(roots):
        start = 0
        for points, drawn in mixture.stream(n, seed):
            block = (replica, slice(start, start + len(drawn)))
            x[block], y[block] = points, drawn
            if log_bayes is not None:
                log_bayes[block] = mixture.log_posterior(points)
            start += len(drawn)
    if isinstance(seeds, Sequence):
        return x, y, log_bayes
    return x[0], y[0], None if log_bayes is None else log_bayes[0]


class InMemory:
    """N examples on one device, or N for each of R replicas that train side by side on data of their own.

    A batch is gathered by index, in one operation a tensor. uint8 images stay uint8 here (150 MB for CIFAR) and are
    augmented, scaled to [0, 1] and normalised as they are gathered. Tensors are shared with the caller where no
    conversion is needed; arrays and lists are copied.

    Args:
        x: ``(N, *shape)``, or ``(R, N, *shape)`` with replicas; uint8, or finite floating point, held in ``dtype``.
        y: ``(N,)`` or ``(R, N)`` integer labels in ``0 .. num_classes - 1``; its axes say whether there are replicas.
        num_classes: K >= 2.
        log_bayes: exact log p*(x), ``(N, K)`` or ``(R, N, K)``; kept in float64.
        labelled: bool of ``y``'s shape, False where a semi-supervised method must not look at ``y``.
        targets: probability rows to learn from instead of labels, ``(N, K)`` or ``(R, N, K)``: a teacher's, a noisy
            p*; held in ``dtype``. Refused with ``augment``: they belong to the x that they were made for.
        augment: a name in :data:`bcpd.data.AUGMENTATIONS`, see :mod:`bcpd.data.augment`; ``shape`` must be (C, H, W).
        normalise: moments by channel (the first axis of ``shape``), applied last; uint8 is scaled to [0, 1] first.
        symmetries: augmentations that leave p* unchanged, as the mixture declares them: the rows of ``log_bayes`` stay.
        recompute: instead, the law's log p*, ``(n, *shape)`` float64 -> ``(n, K)``: where a view is shown, a batch's
            ``log_bayes`` is that of the shown x (before normalisation, uint8 scaled to [0, 1]). **Labels do not follow
            it**: they were drawn from p* of the original, and where the augmentation is no symmetry the shown x does
            not have the law whose p* this is. Then the recomputed rows are what the law says at the shown x, and *not*
            P(y | shown x): they are not calibrated for the labels beside them. They can be taught; nothing can be
            measured by them.
        dtype: of the x a batch holds.

    Attributes:
        x, y, log_bayes, labelled, targets: as above, on ``device``.
        shape: of one x.
        replicas: R, or None.

    Raises:
        ValueError: shapes that do not belong together, labels out of range, values that are not finite, rows of
            ``log_bayes`` or ``targets`` that do not sum to one; or ``augment`` where targets are given, or p* is known
            and the augmentation is none of its symmetries and nothing recomputes it, for then the rows would be those
            of another x; or ``recompute`` without an augmentation or a known p*.
    """

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        num_classes: int,
        log_bayes: ArrayLike | None = None,
        labelled: ArrayLike | None = None,
        targets: ArrayLike | None = None,
        augment: Augmentation | None = None,
        normalise: Normalisation | None = None,
        symmetries: Collection[str] = frozenset(),
        recompute: Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be an int >= 2, received {num_classes!r}")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, received {dtype}")
        values = _tensor(x)
        device = values.device
        self.num_classes = num_classes
        self.dtype = dtype
        self.augment = augment
        self.normalise = normalise
        self.symmetries = frozenset(symmetries)
        self.recompute = recompute
        self.y = labels(_tensor(y), num_classes, "y").to(device)
        if self.y.ndim not in (1, 2) or self.y.numel() == 0:
            raise ValueError(f"y must have shape (N,) or (R, N) and not be empty, received {tuple(self.y.shape)}")
        if values.shape[: self.y.ndim] != self.y.shape:
            raise ValueError(
                f"x and y must share their leading axes (N,) or (R, N), "
                f"received {tuple(values.shape)} and {tuple(self.y.shape)}"
            )
        if values.dtype != torch.uint8 and not values.is_floating_point():
            raise ValueError(f"x must be uint8 or floating point, received dtype {values.dtype}")
        if values.is_floating_point() and not all(bool(extreme.isfinite()) for extreme in values.aminmax()):
            raise ValueError("x must be finite, received nan or inf")
        self.x = values if values.dtype == torch.uint8 else values.to(dtype)
        self.shape: tuple[int, ...] = tuple(values.shape[self.y.ndim :])
        self.log_bayes = None if log_bayes is None else self._checked_log_bayes(log_bayes).to(device)
        self.labelled = None if labelled is None else self._checked_mask(labelled).to(device)
        self.targets = None if targets is None else self._checked_targets(targets).to(device)
        self._check_augmentation()
        self._affine = None if normalise is None else self._normalising_map(normalise)

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
        """``n`` points of a mixture with their exact log p*; a sequence of R seeds gives R replicas, drawn apart.

        The points of a replica depend on its seed only. p* is evaluated in float64 before x is rounded to ``dtype``.

        Args:
            recompute: whether the mixture recomputes p* at every shown view; what that is not, the class says. Not
                needed, and slower, for an augmentation that the mixture declares a symmetry.
        """
        x, y, log_bayes = draw(mixture, n, seeds, dtype)
        return cls(
            x,
            y,
            num_classes=mixture.num_classes,
            log_bayes=log_bayes,
            augment=augment,
            symmetries=mixture.symmetries,
            recompute=mixture.log_posterior if recompute else None,
            dtype=dtype,
        )

    def __len__(self) -> int:
        """N, the examples of one replica."""
        return self.y.shape[-1]

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def replicas(self) -> int | None:
        return self.y.shape[0] if self.y.ndim == 2 else None

    @property
    def num_views(self) -> int:
        """Views that an example has under the augmentation; 1 without one."""
        return 1 if self.augment is None else num_views(self.augment, self.shape)

    def batch(
        self,
        index: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        epoch: int | None = None,
        views: Tensor | None = None,
    ) -> Batch:
        """The examples at ``index``, augmented as they are in an epoch.

        Args:
            index: int64 in ``0 .. N - 1``: ``(B,)``, or ``(R, B)`` for a choice of its own in each replica. With
                ``(B,)`` every replica of the source gives the same positions; a source without replicas accepts both,
                so that R models can share one set and walk it in R orders.
            seed: of the augmentation; R of them give each row of ``index`` its own.
            epoch: the epoch whose augmentation to show; None for the examples as they are.
            views: instead of an epoch, the views to show, int64 of ``index``'s shape in ``0 .. num_views - 1``: to
                tabulate a teacher by view.
        Returns:
            a :class:`Batch`; where an augmentation was applied, ``extra["view"]`` holds the view numbers.
        Raises:
            ValueError: an index of another type, shape or range (a range error on an accelerator is the device's own);
                both ``epoch`` and ``views``, or ``views`` for a source that is not augmented.
        """
        positions = self._checked_index(index)
        if views is not None and (epoch is not None or self.augment is None):
            raise ValueError(
                f"views need a source with an augmentation and no epoch, received epoch={epoch!r}, "
                f"augment={self.augment!r}"
            )
        take = self._rows(positions)
        x = take(self.x)
        log_bayes = None
        extra = {}
        if self.augment is not None and epoch is not None:
            views = view_numbers(seed, epoch, positions, self.num_views)
        if self.augment is not None and views is not None:
            extra["view"] = views.to(self.device)
            x = AUGMENTATIONS[self.augment](x, extra["view"])
        if self.log_bayes is not None:
            log_bayes = self._recomputed(x) if self.recompute is not None and extra else take(self.log_bayes)
        return Batch(
            x=self._finish(x),
            y=take(self.y),
            index=positions,
            log_bayes=log_bayes,
            labelled=None if self.labelled is None else take(self.labelled),
            targets=None if self.targets is None else take(self.targets),
            extra=extra,
        )

    def batches(
        self, indices: Sequence[Tensor], *, seed: int | Sequence[int] = 0, epoch: int | None = None
    ) -> Iterator[Batch]:
        """The batches at each of ``indices``, in their order: what a training walks through in an epoch.

        A source that takes its time over a batch (files to read) overrides this to prepare the next ones meanwhile. The
        batches are those of :meth:`batch`, whatever was asked for before: a training that goes on within an epoch asks
        for the rest of it, and one of several processes for its rows of every batch.
        """
        for index in indices:
            yield self.batch(index, seed=seed, epoch=epoch)

    def with_targets(self, targets: ArrayLike | None) -> Self:
        """The same examples with other probability rows to learn from, ``(N, K)`` or ``(R, N, K)``; None: none.

        Rows ``(R, N, K)`` on a source without replicas make R replicas of its examples.
        """
        given = copy.copy(self)
        if targets is not None and self.replicas is None and _tensor(targets).ndim == 3:
            replicas = len(_tensor(targets))
            given = self._mapped(lambda tensor: tensor.expand(replicas, *tensor.shape).contiguous())
        given.targets = None if targets is None else given._checked_targets(targets).to(self.device)
        given._check_augmentation()
        return given

    def without_bayes(self) -> Self:
        """The same examples, p* forgotten: batches are gathered without it."""
        bare = copy.copy(self)
        bare.log_bayes = bare.recompute = None
        return bare

    def inputs(self, index: Tensor) -> Tensor:
        """The x of :meth:`batch` alone, unaugmented."""
        return self._finish(self._rows(self._checked_index(index))(self.x))

    def subset(self, index: Tensor) -> Self:
        """The source of the examples at ``index``, which are numbered from 0 again.

        ``(n,)`` keeps the replicas; ``(R, n)`` gives each replica its own choice, or makes R replicas of a source that
        has none.
        """
        positions = self._checked_index(index)
        if positions.numel() == 0:
            raise ValueError("a subset must not be empty, received an empty index")
        return self._mapped(self._rows(positions))

    def to(self, device: torch.device | str) -> Self:
        """The same source on another device; tensors already there are shared, not copied."""
        moved = self._mapped(lambda tensor: tensor.to(device))
        if self._affine is not None:
            moved._affine = (self._affine[0].to(device), self._affine[1].to(device))
        return moved

    def fingerprint(self) -> str:
        """A 128-bit hexadecimal hash of everything a batch depends on, the same on every device."""
        settings = (self.num_classes, str(self.dtype), self.augment, self.normalise)
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16, person=b"bcpd.source")
        # a source without targets keeps the hash it had before there were any
        last = () if self.targets is None else ("targets",)
        for name in ("x", "y", "log_bayes", "labelled", *last):
            tensor = getattr(self, name)
            digest.update(f"\x1f{name}".encode())
            if tensor is not None:
                digest.update(f":{tensor.dtype}:{tuple(tensor.shape)}\x1f".encode())
                digest.update(_bytes(tensor))
        if self.recompute is not None:
            # a function is known by what it gives
            some = self._checked_index(torch.arange(min(_PROBED, len(self))))
            rows = self.batch(some, views=torch.full_like(some, self.num_views - 1)).log_bayes
            assert rows is not None
            digest.update(b"\x1frecompute\x1f")
            digest.update(_bytes(rows))
        return digest.hexdigest()

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """A copy whose tensors went through ``change``."""
        mapped = copy.copy(self)
        mapped.x, mapped.y = change(self.x), change(self.y)
        mapped.log_bayes = None if self.log_bayes is None else change(self.log_bayes)
        mapped.labelled = None if self.labelled is None else change(self.labelled)
        mapped.targets = None if self.targets is None else change(self.targets)
        return mapped

    def _rows(self, positions: Tensor) -> Callable[[Tensor], Tensor]:
        """The gather of the rows at positions that were checked, one operation a tensor, also over replicas."""
        if self.replicas is None:
            flat = positions.flatten()
        else:
            flat = (positions + torch.arange(0, self.y.numel(), len(self), device=self.device)[:, None]).flatten()
        examples = self.y.ndim

        def take(tensor: Tensor) -> Tensor:
            rows = tensor if examples == 1 else tensor.flatten(0, 1)
            return rows.index_select(0, flat).view(positions.shape + rows.shape[1:])

        return take

    def _finish(self, x: Tensor) -> Tensor:
        """Stored values as the networks see them: in ``dtype``, uint8 scaled to [0, 1], normalised."""
        scaled = x.dtype == torch.uint8
        x = x.to(self.dtype)
        if self._affine is None:
            return x / 255 if scaled else x
        factor, shift = self._affine
        return torch.addcmul(shift, x, factor)

    def _recomputed(self, x: Tensor) -> Tensor:
        """log p* of the law at shown, not yet normalised x."""
        assert self.recompute is not None
        leading = x.shape[: x.ndim - len(self.shape)]
        scaled = x.dtype == torch.uint8
        flat = x.reshape(-1, *self.shape).to(torch.float64)
        rows = self.recompute(flat / 255 if scaled else flat)
        if rows.shape != (len(flat), self.num_classes):
            raise ValueError(
                f"recompute must return rows of shape {(len(flat), self.num_classes)}, received {tuple(rows.shape)}"
            )
        return rows.to(self.device, torch.float64).reshape(*leading, self.num_classes)

    def _normalising_map(self, normalise: Normalisation) -> tuple[Tensor, Tensor]:
        """The stored value's factor and shift by channel; on the device once, for a step must not wait for a copy."""
        if not self.shape or len(normalise.mean) != self.shape[0]:
            raise ValueError(
                f"normalise has {len(normalise.mean)} channels, but x has the shape {self.shape}; "
                f"its first axis is the channels"
            )
        mean, std = (
            torch.tensor(moment, dtype=torch.float64).reshape(-1, *(1,) * (len(self.shape) - 1))
            for moment in (normalise.mean, normalise.std)
        )
        factor = 1 / (std * 255 if self.x.dtype == torch.uint8 else std)
        return factor.to(self.device, self.dtype), (-mean / std).to(self.device, self.dtype)

    def _checked_index(self, index: Tensor) -> Tensor:
        if index.dtype != torch.int64 or index.ndim not in (1, 2):
            raise ValueError(
                f"index must be int64 of shape (B,) or (R, B), received {index.dtype} of shape {tuple(index.shape)}"
            )
        if index.device.type == "cpu" and index.numel():
            lowest, highest = (int(i) for i in index.aminmax())
            if lowest < 0 or highest >= len(self):
                raise ValueError(f"index must lie in 0..{len(self) - 1}, received values in {lowest}..{highest}")
        if self.replicas is not None:
            if index.ndim == 1:
                index = index.expand(self.replicas, -1)
            elif index.shape[0] != self.replicas:
                raise ValueError(f"index must have {self.replicas} rows, one a replica, received {tuple(index.shape)}")
        return index.to(self.device)

    def _checked_log_bayes(self, log_bayes: ArrayLike) -> Tensor:
        rows = float64(log_bayes, "log_bayes")
        if rows.shape != (*self.y.shape, self.num_classes):
            raise ValueError(
                f"log_bayes must have shape {(*self.y.shape, self.num_classes)}, received {tuple(rows.shape)}"
            )
        error = float(rows.logsumexp(-1).abs().max())
        if not error <= 1e-6:
            raise ValueError(
                f"log_bayes must be log probabilities, each row's log-sum-exp 0; received a row with {error:g}"
            )
        return rows

    def _checked_targets(self, targets: ArrayLike) -> Tensor:
        rows = probability_rows(targets, "targets", num_classes=self.num_classes, tolerance=1e-4)
        if rows.shape != (*self.y.shape, self.num_classes):
            raise ValueError(
                f"targets must have shape {(*self.y.shape, self.num_classes)}, received {tuple(rows.shape)}"
            )
        return rows.to(self.dtype)

    def _checked_mask(self, labelled: ArrayLike) -> Tensor:
        mask = _tensor(labelled)
        if mask.dtype != torch.bool or mask.shape != self.y.shape:
            raise ValueError(
                f"labelled must be bool of shape {tuple(self.y.shape)}, "
                f"received {mask.dtype} of shape {tuple(mask.shape)}"
            )
        return mask

    def _check_augmentation(self) -> None:
        if self.recompute is not None and (self.augment is None or self.log_bayes is None):
            known = "unknown" if self.log_bayes is None else "known"
            raise ValueError(
                f"recompute needs an augmentation and a known p*, received augment={self.augment!r} and p* {known}"
            )
        if self.augment is None:
            return
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be None or one of {tuple(AUGMENTATIONS)}, received {self.augment!r}")
        if len(self.shape) != 3:
            raise ValueError(f"{self.augment} needs images of shape (C, H, W), received x of shape {self.shape}")
        if self.targets is not None:
            raise ValueError(f"augment={self.augment!r} changes x, but targets belong to the x they were made for")
        if self.log_bayes is not None and self.recompute is None and self.augment not in self.symmetries:
            raise ValueError(
                f"augment={self.augment!r} would change p*(x), which is known here; declared symmetries: "
                f"{sorted(self.symmetries) or 'none'}; use one of them, fresh samples every epoch "
                f"(bcpd.data.FreshSamples), or recompute"
            )
