"""A folder of labelled images as a source: labels in memory, pixels on disk, decoded ahead of the training."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar

import torch
from PIL import ImageFile
from torch import Tensor

from bcpd.data.batch import Batch
from bcpd.data.decoding import BadImage, Pixels, Window, centre, decode, show
from bcpd.data.images import Normalisation
from bcpd.data.random_resized_crop import RandomResizedCrop, crop_uniforms
from bcpd.data.source import InMemory
from bcpd.tensors import ArrayLike

__all__ = ["IMAGENET", "BadImage", "ImageFolder"]

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Moments of ImageNet's training pixels, as in nearly every published network."""

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_CHUNK = 8  # images that a worker takes at once: what it costs to hand them over is spread
_MIRRORED = 0.5

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Listing(NamedTuple):
    """Class names, and of every file its name (CLASS/FILE), label and length in bytes; names that were left out."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: list[int]
    lengths: list[int]
    ignored: tuple[str, ...]


@dataclass
class _Job:
    """A batch on its way: where its n pictures and rectangles are put, and what could not be decoded."""

    index: Tensor
    files: list[int]
    uniforms: Tensor | None
    canvas: Tensor
    rectangles: Tensor
    bad: list[tuple[int, BadImage]] = field(default_factory=list)


class ImageFolder(InMemory):
    """The images below ``root/split/CLASS/``, as ImageNet is laid out; it stands wherever :class:`InMemory` does.

    ImageNet's recipe is ``ImageFolder(root, "train", crop=RandomResizedCrop(), normalise=IMAGENET)``.

    Labels number the classes in the order of their sorted names: those of the folders in ``root/train``, whatever the
    split, so that a validation folder without some class has the same labels. Only the labels are in memory. A batch is
    decoded, cropped and resized by threads (Pillow lets go of the interpreter while it does), which work ahead of the
    training in :meth:`batches`; it goes to the device as uint8, where it is mirrored, scaled to [0, 1] and normalised.
    The last resize is Pillow's, for images differ in size, and its antialiased bilinear filter is the one that
    published networks were trained with.

    With ``crop``, the batch of an epoch shows each image through a rectangle that is drawn as
    :mod:`bcpd.data.random_resized_crop` says, a function of (seed, epoch, index) alone: it does not depend on the
    batch, its order or the number of workers. ``extra["crop"]`` holds the rectangles, ``(..., 4)`` int64 left, top,
    width and height in the file's pixels, and ``extra["mirrored"]`` bool ``(...)``. Without an epoch, and without
    ``crop``, the shorter side is resized to ``shorter`` and the central square is shown. See :mod:`bcpd.data.decoding`
    for what becomes of unusual pictures, and how exact it is.

    Folders whose files agree in name and length have the same :meth:`fingerprint`: contents are not read for it. ``x``
    is empty, ``(N, 0)``.

    Args:
        root: the folder that holds the splits; sub-folders of a class are not searched.
        split: ``"train"``, ``"val"`` or any other folder in ``root``.
        size: S; every image is shown as ``(3, S, S)``.
        shorter: side before the central square is cut, >= S; by default S 8/7, rounded (256 for 224).
        crop: of the training images; None: an epoch shows what evaluation sees.
        normalise: applied last, for example :data:`IMAGENET`.
        labelled: bool ``(N,)``, as :class:`InMemory` has it.
        on_error: of a file that is no image, or a damaged one: ``"raise"`` names it; ``"count"`` warns of it once,
            counts it in ``errors`` and puts a black picture there, in a batch that marks it as not ``labelled``, so
            that no loss on labels is taken of it (what is measured counts it as it counts the others). Files that
            cannot be read at all are always raised.
        workers: threads, >= 1; by default one a processor.
        prefetch: batches that :meth:`batches` decodes ahead, >= 1.
        dtype: of the x a batch holds.

    Attributes:
        root: of the split, ``root/split``.
        class_names: K names.
        names: of all files of the split, ``CLASS/FILE``; see :meth:`name`.
        ignored: names in the class folders that have no image's suffix, and are no images here.
        errors: name -> how often it was met, of the files that could not be decoded; shared with every source that was
            derived from this one.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no classes or images in it, a class that ``root/train`` does not have, or arguments out of range.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        size: int = 224,
        shorter: int | None = None,
        crop: RandomResizedCrop | None = None,
        normalise: Normalisation | None = None,
        labelled: ArrayLike | None = None,
        on_error: Literal["raise", "count"] = "raise",
        workers: int | None = None,
        prefetch: int = 2,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be an int >= 1, received {size!r}")
        self.shorter = round(size * 8 / 7) if shorter is None else shorter
        if self.shorter < size:
            raise ValueError(f"shorter must be at least size = {size}, received {shorter!r}")
        if on_error not in ("raise", "count"):
            raise ValueError(f"on_error must be 'raise' or 'count', received {on_error!r}")
        self.workers = (os.cpu_count() or 1) if workers is None else workers
        if self.workers < 1 or prefetch < 1:
            raise ValueError(f"workers and prefetch must be >= 1, received {workers!r} and {prefetch!r}")
        self.prefetch = prefetch
        self.on_error = on_error
        self.crop = crop
        listing = _listed(Path(root), split)
        self.root = Path(root) / split
        self.class_names, self.names, self.ignored = listing.classes, listing.names, listing.ignored
        self.errors: dict[str, int] = {}
        self._lengths = listing.lengths
        self._files = torch.arange(len(listing.names))
        super().__init__(
            torch.empty((len(listing.names), 0), dtype=torch.uint8),
            torch.tensor(listing.labels),
            num_classes=len(listing.classes),
            labelled=labelled,
            dtype=dtype,
        )
        self.shape = (3, size, size)
        self.normalise = normalise
        self._affine = None if normalise is None else self._normalising_map(normalise)

    @property
    def num_views(self) -> int:
        """1 without ``crop``.

        Raises:
            ValueError: with it, for there is no end of crops.
        """
        if self.crop is not None:
            raise ValueError("random resized crops are not numbered: the views of an image cannot be tabulated")
        return 1

    def name(self, position: int) -> str:
        """``CLASS/FILE`` of the example at a position of this source (which may be a subset); not with replicas."""
        return self.names[int(self._files[position])]

    def batch(
        self,
        index: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        epoch: int | None = None,
        views: Tensor | None = None,
    ) -> Batch:
        """The examples at ``index``, decoded now: see :meth:`InMemory.batch`; ``views`` are refused."""
        if views is not None:
            raise ValueError("random resized crops are not numbered: an image folder has no views, received some")
        [batch] = self.batches([index], seed=seed, epoch=epoch)
        return batch

    def batches(
        self, indices: Sequence[Tensor], *, seed: int | Sequence[int] = 0, epoch: int | None = None
    ) -> Iterator[Batch]:
        """The batches at each of ``indices``, in their order, the next ``prefetch`` decoded meanwhile.

        An iterator that is left early (closed, or forgotten) stops its threads; none outlives it.

        Raises:
            BadImage: with ``on_error="raise"``, where the batch that holds it comes up.
            OSError: a file that cannot be read.
            ValueError: an index as in :meth:`InMemory.batch`, or Pillow was told to accept truncated files.
        """
        _refuse_truncated()
        positions = [self._checked_index(index) for index in indices]
        if not positions:
            return
        # once: each would wait for the device
        everywhere = torch.cat([index.flatten() for index in positions]).cpu()
        parts = torch.split(everywhere, [index.numel() for index in positions])
        here = [part.reshape(index.shape) for part, index in zip(parts, positions, strict=True)]

        def chunks() -> Iterator[tuple[_Job, slice]]:
            for index, known in zip(positions, here, strict=True):
                job = self._job(index, known, seed, epoch)
                for start in range(0, max(1, len(job.files)), _CHUNK):
                    yield job, slice(start, start + _CHUNK)

        ahead = self.prefetch * -(-positions[0].numel() // _CHUNK)
        with closing(_in_threads(self._read, chunks(), self.workers, ahead)) as done:
            for job, part in done:
                if part.stop >= len(job.files):
                    yield self._batch_of(job)

    def inputs(self, index: Tensor) -> Tensor:
        """The x of :meth:`batch` alone, without an epoch."""
        return self.batch(index).x

    def check(self, progress: Callable[[int, int], None] | None = None) -> list[BadImage]:
        """Decode every file of this source whole, and say which could not be.

        What a decoder repairs in silence is not noticed, as libjpeg does with damage in the middle of its data. To go
        on without the bad files::

            bad = {error.name for error in source.check()}
            source = source.subset(torch.tensor([i for i in range(len(source)) if source.name(i) not in bad]))

        Args:
            progress: told (files decoded, files in all).
        Raises:
            OSError, ValueError: as :meth:`batches`.
        """
        _refuse_truncated()
        files = torch.unique(self._files).tolist()
        chunks = (files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK))
        found: list[BadImage] = []
        done = 0
        with closing(_in_threads(self._examined, chunks, self.workers, 4 * self.workers)) as examined:
            for count, bad in examined:
                found += bad
                done += count
                if progress is not None:
                    progress(done, len(files))
        return found

    def fingerprint(self) -> str:
        """As :meth:`InMemory.fingerprint`: of labels, settings, and the name and length of every file."""
        settings = (super().fingerprint(), self.shape, self.shorter, self.crop)
        digest = hashlib.blake2b(repr(settings).encode(), digest_size=16, person=b"bcpd.folder")
        for file in self._files.flatten().tolist():
            digest.update(f"\x1f{self.names[file]}\x1f{self._lengths[file]}".encode())
        return digest.hexdigest()

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        mapped = super()._mapped(change)
        mapped._files = change(self._files.to(self.device)).cpu()
        return mapped

    def _check_augmentation(self) -> None:
        super()._check_augmentation()
        if self.crop is not None and self.targets is not None:
            raise ValueError("crop changes x, but targets belong to the x they were made for")

    def _job(self, index: Tensor, known: Tensor, seed: int | Sequence[int], epoch: int | None) -> _Job:
        """A batch to be decoded: ``index`` on the device, ``known`` the same here."""
        files = self._files[known] if self._files.ndim == 1 else self._files.gather(-1, known)
        uniforms = None
        if self.crop is not None and epoch is not None:
            uniforms = crop_uniforms(seed, epoch, known).flatten(0, -2)
        size = self.shape[-1]
        pinned = self.device.type == "cuda"
        return _Job(
            index=index,
            files=files.flatten().tolist(),
            uniforms=uniforms,
            canvas=torch.empty((known.numel(), size, size, 3), dtype=torch.uint8, pin_memory=pinned),
            rectangles=torch.zeros((known.numel(), 4), dtype=torch.int64),
        )

    def _read(self, work: tuple[_Job, slice]) -> tuple[_Job, slice]:
        """In a thread: decode a part of a batch into its place."""
        job, part = work
        canvas: Pixels = job.canvas.numpy()
        for place in range(part.start, min(part.stop, len(job.files))):
            name = self.names[job.files[place]]
            content = _bytes_of(self.root / name)
            try:
                canvas[place] = show(content, name, self._window(job, place), self.shape[-1])
            except BadImage as error:
                if self.on_error == "raise":
                    raise
                canvas[place] = 0
                job.bad.append((place, error))
        return work

    def _window(self, job: _Job, place: int) -> Callable[[int, int], Window]:
        """What the picture at a place of the batch shows, as a function of its width and height."""
        crop = self.crop
        if crop is None or job.uniforms is None:
            return lambda width, height: centre(width, height, self.shape[-1], self.shorter)
        uniforms: list[float] = job.uniforms[place].tolist()

        def window(width: int, height: int) -> Window:
            rectangle = crop.rectangle(uniforms, width, height)
            job.rectangles.numpy()[place] = rectangle
            return Window(*rectangle, alone=True)

        return window

    def _batch_of(self, job: _Job) -> Batch:
        """The batch whose pictures have all been decoded."""
        leading = job.index.shape
        take = self._rows(job.index)
        labelled = None if self.labelled is None else take(self.labelled)
        if job.bad:
            readable = torch.ones(len(job.files), dtype=torch.bool)
            for place, error in sorted(job.bad, key=lambda one: one[0]):
                readable[place] = False
                if error.name not in self.errors:
                    warnings.warn(f"{error}; a black picture without a label takes its place", stacklevel=3)
                self.errors[error.name] = self.errors.get(error.name, 0) + 1
            readable = readable.reshape(leading).to(self.device)
            labelled = readable if labelled is None else labelled & readable
        x = self._moved(job.canvas).reshape(*leading, *job.canvas.shape[1:]).movedim(-1, -3)
        extra = {}
        if job.uniforms is not None:
            mirrored = self._moved(job.uniforms[:, -1] < _MIRRORED).reshape(leading)
            extra = {"crop": self._moved(job.rectangles).reshape(*leading, 4), "mirrored": mirrored}
            x = torch.where(mirrored[..., None, None, None], x.flip(-1), x)
        return Batch(
            x=self._finish(x),
            y=take(self.y),
            index=job.index,
            labelled=labelled,
            targets=None if self.targets is None else take(self.targets),
            extra=extra,
        )

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(self.device, non_blocking=True)

    def _examined(self, files: list[int]) -> tuple[int, list[BadImage]]:
        """In a thread: how many files these are, and which of them cannot be decoded."""
        bad = []
        for file in files:
            name = self.names[file]
            content = _bytes_of(self.root / name)
            try:
                decode(content, name)
            except BadImage as error:
                bad.append(error)
        return len(files), bad


def _in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """``function`` of each item, in order, while threads work on the ``ahead`` next ones.

    Nobody waits for a place in a queue: what is ahead is topped up when a result is asked for. So an iterator that
    is closed has only to let its threads finish what they are at.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="bcpd-images")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _refuse_truncated() -> None:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ValueError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES must be False, received True: it hides damaged files")


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        # an error of the disk comes without the name of the file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _listed(root: Path, split: str) -> _Listing:
    folder = root / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}: an image folder is laid out as {root}/train/CLASS/*.JPEG and {root}/val/CLASS/*.JPEG"
        )
    own = _folders(folder)
    if not own:
        raise ValueError(f"{folder} must hold a folder for each class with its images in it, received no folder there")
    classes = _folders(root / "train") if (root / "train").is_dir() else own
    foreign = sorted(set(own) - set(classes))
    if foreign:
        raise ValueError(
            f"the classes in {folder} must be among the {len(classes)} in {root / 'train'}, received {foreign[:3]}"
            f"{' and more' if len(foreign) > 3 else ''}"
        )
    label = {name: number for number, name in enumerate(classes)}
    names, labels, lengths, ignored = [], [], [], []
    for name in own:
        with os.scandir(folder / name) as entries:
            found = sorted((entry for entry in entries if entry.is_file()), key=lambda entry: entry.name)
        for entry in found:
            if Path(entry.name).suffix.lower() not in SUFFIXES or entry.name.startswith("."):
                ignored.append(f"{name}/{entry.name}")
                continue
            names.append(f"{name}/{entry.name}")
            labels.append(label[name])
            lengths.append(entry.stat().st_size)
        if not labels or labels[-1] != label[name]:
            raise ValueError(
                f"every class folder must hold images ({', '.join(sorted(SUFFIXES))}), received {folder / name} "
                f"with {len(found)} other files"
            )
    return _Listing(classes, tuple(names), labels, lengths, tuple(ignored))


def _folders(folder: Path) -> tuple[str, ...]:
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))
