"""A folder of images as a source: what is shown, by whom it is decoded, and what becomes of bad files."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch import Tensor

import bcpd
from bcpd.data import IMAGENET, BadImage, ImageFolder, InMemory, RandomResizedCrop, decoding, image_folder
from bcpd.data.decoding import Window, centre, show
from bcpd.data.random_resized_crop import crop_uniforms
from bcpd.distill import Supervised
from bcpd.nets import build
from bcpd.train import Recipe

SIZE = 16
CROP = RandomResizedCrop()
CLASSES = ("ant", "bee", "cow")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Waves whose amplitude falls with their frequency, and a few rectangles: as smooth as a photograph."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    values = np.zeros((height, width, 3))
    for frequency in (1, 2, 4, 8, 16):
        fx, fy = rng.uniform(-frequency, frequency, 2)
        wave = np.cos(2 * np.pi * (fx * x + fy * y + rng.random()))
        values += rng.normal(0, 1 / frequency, 3) * wave[..., None]
    for _ in range(4):
        left, top = rng.integers(0, width), rng.integers(0, height)
        values[top : top + height // 4, left : left + width // 3] += rng.normal(0, 0.5, 3)
    low, high = values.min(), values.max()
    return Image.fromarray(((values - low) / (high - low) * 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training images a class from 5 to 160 pixels a side, 2 validation images of all but the second class."""
    folder = tmp_path_factory.mktemp("images")
    sizes = [(60, 45), (45, 60), (160, 120), (16, 16), (90, 17), (5, 40), (128, 128), (33, 71)]
    for split, count in (("train", 8), ("val", 2)):
        for label, name in enumerate(CLASSES):
            if (split, name) == ("val", "bee"):
                continue
            (folder / split / name).mkdir(parents=True)
            for number, (width, height) in enumerate(sizes[:count]):
                image = picture(width, height, 100 * label + number)
                (folder / split / name / f"{name}_{number}.JPEG").write_bytes(jpeg(image))
    (folder / "train" / "ant" / "list.txt").write_text("no image")
    (folder / "train" / "ant" / "._ant_0.JPEG").write_text("no image either")
    return folder


def source(root: Path, split: str = "train", **options: Any) -> ImageFolder:
    return ImageFolder(root, split, **{"size": SIZE, "workers": 2, **options})


def stored(values: Tensor) -> Tensor:
    """What was scaled to [0, 1], as bytes: ``(..., H, W, 3)``."""
    return (values * 255).round().to(torch.uint8).movedim(-3, -1)


def whole(path: Path | bytes) -> Image.Image:
    return Image.open(io.BytesIO(path) if isinstance(path, bytes) else path).convert("RGB")


def by_definition(image: Image.Image, size: int, shorter: int) -> np.ndarray:
    """The shorter side to ``shorter``, then the central square: two steps on the whole picture."""
    width, height = image.size
    if width <= height:
        width, height = shorter, int(shorter * height / width)
    else:
        width, height = int(shorter * width / height), shorter
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size))).astype(int)


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, int]:
    """Mean and largest absolute difference in levels of 255."""
    apart = np.abs(ours.astype(int) - theirs.astype(int))
    return float(apart.mean()), int(apart.max())


# ------------------------------------------------------------------------------------------------------ folder, labels


def test_labels_number_the_sorted_class_names(root: Path) -> None:
    train, val = source(root), source(root, "val")
    assert (train.class_names, train.num_classes, len(train), train.shape) == (CLASSES, 3, 24, (3, SIZE, SIZE))
    assert train.y.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert train.names[:2] == ("ant/ant_0.JPEG", "ant/ant_1.JPEG")
    assert train.ignored == ("ant/._ant_0.JPEG", "ant/list.txt")
    # a class that the validation images lack keeps its number
    assert (val.class_names, val.y.tolist()) == (CLASSES, [0, 0, 2, 2])
    part = train.subset(torch.tensor([23, 0]))
    assert (part.name(0), part.name(1), part.y.tolist()) == ("cow/cow_7.JPEG", "ant/ant_0.JPEG", [2, 0])


def test_folders_that_are_laid_out_otherwise_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*train.*laid out as .*val/CLASS"):
        ImageFolder(tmp_path, "train")
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "1.JPEG").write_bytes(jpeg(picture(9, 9)))
    with pytest.raises(ValueError, match="a folder for each class"):
        ImageFolder(tmp_path, "val")
    for name in ("train/ant", "train/bee", "val/ant", "val/cow"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"among the 2 in .*train, received \['cow'\]"):
        ImageFolder(tmp_path, "val")
    (tmp_path / "train" / "bee" / "1.png").rename(tmp_path / "train" / "bee" / "1.txt")
    with pytest.raises(ValueError, match=r"must hold images .*received .*bee with 1 other"):
        ImageFolder(tmp_path, "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"shorter": SIZE - 1}, "shorter must be at least size = 16, received 15"),
        ({"on_error": "skip"}, "on_error must be"),
        ({"workers": 0}, "workers and prefetch must be >= 1, received 0"),
        ({"prefetch": 0}, "received 2 and 0"),
        ({"dtype": torch.int64}, "dtype must be"),
        ({"labelled": [True]}, "labelled must be"),
    ],
)
def test_arguments_out_of_range_are_refused(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(root, **options)


def test_what_a_folder_cannot_do_is_refused(root: Path) -> None:
    train = source(root, crop=CROP)
    index = torch.arange(2)
    rows = torch.full((24, 3), 1 / 3)
    with pytest.raises(ValueError, match="no views"):
        train.batch(index, views=index)
    with pytest.raises(ValueError, match="not numbered"):
        _ = train.num_views
    with pytest.raises(ValueError, match="targets belong to the x"):
        train.with_targets(rows)
    with pytest.raises(ValueError, match=r"0\.\.23, received values in 0\.\.24"):
        train.batch(torch.tensor([0, 24]))
    plain = source(root).with_targets(rows)
    assert plain.num_views == 1
    targets = plain.batch(index).targets
    assert targets is not None
    assert targets.shape == (2, 3)


# -------------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("size", [16, 40])
def test_without_an_epoch_the_central_square_is_shown(root: Path, size: int) -> None:
    train = source(root, size=size, crop=CROP)
    shown = stored(train.inputs(torch.arange(24))).numpy()
    reduced = 0
    for position, name in enumerate(train.names):
        image = whole(train.root / name)
        mean, largest = difference(shown[position], by_definition(image, size, train.shorter))
        if min(image.size) < 2 * train.shorter:
            # Pillow rounds after each of the two directions: either is within 1 of the exact value
            assert largest <= 2, name
        else:
            reduced += 1
            assert mean < 3, name
    assert reduced > 0
    image = whole(train.root / train.names[0])
    wrong = by_definition(image, size, size)  # without the margin
    assert difference(shown[0], wrong)[0] > 3


def test_in_an_epoch_the_rectangle_of_seed_epoch_and_index_is_shown(root: Path) -> None:
    train = source(root, size=24, crop=CROP)
    index = torch.arange(24)
    batch = train.batch(index, seed=5, epoch=3)
    shown = stored(batch.x).numpy()
    drawn = crop_uniforms(5, 3, index)
    assert torch.equal(batch.extra["mirrored"], drawn[:, -1] < 0.5)
    exact = moved = 0
    for position, name in enumerate(train.names):
        image = whole(train.root / name)
        left, top, width, height = CROP.rectangle(drawn[position].tolist(), *image.size)
        assert batch.extra["crop"][position].tolist() == [left, top, width, height]
        cut = image.crop((left, top, left + width, top + height)).resize((24, 24), Image.Resampling.BILINEAR)
        seen = shown[position, :, ::-1] if batch.extra["mirrored"][position] else shown[position]
        if min(width, height) < 48:
            assert np.array_equal(seen, np.asarray(cut)), name
            exact += 1
            beside = image.crop((left + 1, top, left + 1 + width, top + height)).resize((24, 24))
            moved += not np.array_equal(seen, np.asarray(beside))
    assert exact > 12
    assert moved > 12


@pytest.mark.parametrize(("size", "reduction"), [(112, 2), (56, 4), (28, 8), (150, 1)])
def test_a_large_picture_is_decoded_at_the_least_size_that_covers_the_window(size: int, reduction: int) -> None:
    content = jpeg(picture(500, 375))
    with Image.open(io.BytesIO(content)) as image:
        part = Window(30, 20, 300, 240, alone=True)
        assert decoding._reduce(image, part, size) == reduction
        assert image.size == (-(-500 // reduction), -(-375 // reduction))
        assert min(300, 240) / reduction >= size


def noise(width: int, height: int, seed: int) -> Image.Image:
    """The worst case: as much in the finest detail as anywhere."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [119, 120, 61, 33, 28])
@pytest.mark.parametrize(("make", "bound", "peak"), [(picture, 1.0, 30), (noise, 9.0, 64)])
def test_a_reduced_picture_differs_little_from_the_whole(
    make: Callable[[int, int, int], Image.Image], bound: float, peak: int, size: int
) -> None:
    content = jpeg(make(500, 375, 3))
    image = whole(content)
    ours = show(content, "one", lambda w, h: Window(31, 17, 300, 240, alone=True), size)
    cut = image.crop((31, 17, 331, 257))
    mean, largest = difference(ours, np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR)))
    assert 0 < mean < bound
    assert largest < peak
    # a picture that is off by two of its own pixels, at the least half a pixel of the reduced one, is further away
    beside = image.crop((33, 17, 333, 257)).resize((size, size), Image.Resampling.BILINEAR)
    assert difference(ours, np.asarray(beside))[0] > mean


def test_the_centre_is_that_of_the_resized_picture() -> None:
    assert centre(500, 375, 224, 256) == pytest.approx((58 * 500 / 341, 16 * 375 / 256, 224 * 500 / 341, 328.125, 0))
    assert centre(100, 100, 100, 100) == (0, 0, 100, 100, False)


def test_pixels_are_scaled_and_normalised_as_in_memory(root: Path) -> None:
    index = torch.tensor([3, 7, 20])
    plain, normalised = source(root, crop=CROP), source(root, crop=CROP, normalise=IMAGENET, dtype=torch.float64)
    bytes_ = stored(plain.batch(index, seed=1, epoch=0).x).movedim(-1, -3)
    expected = InMemory(bytes_, plain.y[index], num_classes=3, normalise=IMAGENET, dtype=torch.float64)
    found = normalised.batch(index, seed=1, epoch=0).x
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected.inputs(torch.arange(3)), rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="normalise has 1 channels"):
        source(root, normalise=bcpd.data.Normalisation((0.5,), (0.5,)))


# -------------------------------------------------------------------------------------------------- what it depends on


def joined(batches: Iterator[Any]) -> tuple[Tensor, Tensor]:
    parts = list(batches)
    return torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])


def test_batches_do_not_depend_on_size_order_workers_or_prefetch(root: Path) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    x, y = joined(source(root, crop=CROP, workers=1).batches(order.split(24), seed=2, epoch=1))
    for size, workers, prefetch in ((1, 3, 1), (7, 2, 4), (10, 5, 1)):
        again = source(root, crop=CROP, workers=workers, prefetch=prefetch)
        found = joined(again.batches(order.split(size), seed=2, epoch=1))
        assert torch.equal(found[0], x)
        assert torch.equal(found[1], y)
    forward = source(root, crop=CROP).batch(torch.arange(24), seed=2, epoch=1)
    assert torch.equal(forward.x[order], x)
    for seed, epoch in ((2, 2), (3, 1)):
        other = source(root, crop=CROP).batch(order, seed=seed, epoch=epoch).x
        assert int((other == x).flatten(1).all(1).sum()) == 0


def test_batches_are_those_of_batch(root: Path) -> None:
    train = source(root, crop=CROP, labelled=torch.arange(24) % 2 == 0)
    indices = torch.arange(24).split(5)
    for index, batch in zip(indices, train.batches(indices, seed=1, epoch=4), strict=True):
        alone = train.batch(index, seed=1, epoch=4)
        for name in ("x", "y", "index", "labelled"):
            assert torch.equal(getattr(batch, name), getattr(alone, name)), name
        assert (batch.log_bayes, batch.targets) == (None, None)
        assert set(batch.extra) == {"crop", "mirrored"}
    clean = train.batch(indices[0])
    assert clean.extra == {}
    assert torch.equal(clean.x, train.inputs(indices[0]))
    assert list(train.batches([])) == []


def test_replicas_walk_one_folder_in_their_own_orders(root: Path) -> None:
    train = source(root, crop=CROP)
    index = torch.tensor([[1, 2, 3], [20, 2, 0]])
    batch = train.batch(index, seed=[8, 9], epoch=0)
    assert batch.x.shape == (2, 3, 3, SIZE, SIZE)
    for row, seed in enumerate((8, 9)):
        alone = train.batch(index[row], seed=seed, epoch=0)
        assert torch.equal(batch.x[row], alone.x)
        assert torch.equal(batch.extra["crop"][row], alone.extra["crop"])
    own = train.subset(index)
    assert own.replicas == 2
    assert torch.equal(own.inputs(torch.tensor([2, 0])), train.inputs(index[:, [2, 0]]))


def test_the_fingerprint_is_that_of_files_and_settings(root: Path, tmp_path: Path) -> None:
    train = source(root, crop=CROP, normalise=IMAGENET)
    same = (
        source(root, crop=CROP, normalise=IMAGENET, workers=1, prefetch=5, on_error="count"),
        train.to("cpu"),
        train.without_bayes(),
        train.subset(torch.arange(24)),
    )
    assert {other.fingerprint() for other in same} == {train.fingerprint()}
    others = [
        source(root, crop=CROP),
        source(root, normalise=IMAGENET),
        source(root, crop=CROP, normalise=IMAGENET, size=SIZE + 1),
        source(root, crop=CROP, normalise=IMAGENET, shorter=20),
        source(root, crop=RandomResizedCrop((0.2, 1.0)), normalise=IMAGENET),
        train.subset(torch.arange(23)),
        train.subset(torch.tensor([1, 0, *range(2, 24)])),
    ]
    assert len({train.fingerprint(), *(other.fingerprint() for other in others)}) == 8
    for name, content in (("ant/1.png", b"12"), ("bee/1.png", b"12")):
        (tmp_path / "train" / name).parent.mkdir(parents=True)
        (tmp_path / "train" / name).write_bytes(content)
    before = source(tmp_path).fingerprint()
    (tmp_path / "train" / "bee" / "1.png").write_bytes(b"123")
    assert source(tmp_path).fingerprint() != before


# ----------------------------------------------------------------------------------------------------- unusual pictures

RED, CLEAR_BLUE = (200, 30, 10), (0, 0, 250, 0)


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([9, 9, 9, *RED])
    if transparent:
        image.info["transparency"] = 1
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


UNUSUAL: dict[str, tuple[Callable[[], bytes], tuple[int, int, int], int]] = {
    "grey": (lambda: encoded(Image.new("L", (20, 20), 77), "PNG"), (77, 77, 77), 0),
    "grey JPEG": (lambda: jpeg(Image.new("L", (20, 20), 77)), (77, 77, 77), 1),
    "bits": (lambda: encoded(Image.new("1", (20, 20), 1), "PNG"), (255, 255, 255), 0),
    "16 bits": (lambda: encoded(Image.new("I;16", (20, 20), 257 * 130 + 100), "PNG"), (130, 130, 130), 0),
    "palette": (lambda: encoded(palette(False), "PNG"), RED, 0),
    "transparent palette": (lambda: encoded(palette(True), "PNG", transparency=1), (255, 255, 255), 0),
    "transparent": (lambda: encoded(Image.new("RGBA", (20, 20), CLEAR_BLUE), "PNG"), (255, 255, 255), 0),
    "half transparent": (lambda: encoded(Image.new("RGBA", (20, 20), (0, 0, 250, 51)), "PNG"), (204, 204, 254), 1),
    "transparent grey": (lambda: encoded(Image.new("LA", (20, 20), (10, 0)), "PNG"), (255, 255, 255), 0),
    "one clear colour": (lambda: encoded(Image.new("RGB", (20, 20), RED), "PNG", transparency=RED), (255, 255, 255), 0),
    "CMYK": (lambda: encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 51)), "JPEG"), (204, 0, 0), 3),
    "sideways": (lambda: jpeg(Image.new("RGB", (20, 20), RED)), RED, 3),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_every_kind_of_picture_becomes_rgb(kind: str) -> None:
    content, colour, tolerance = UNUSUAL[kind]
    shown = show(content(), kind, lambda w, h: Window(2, 3, 10, 10, alone=True), 8)
    assert (shown.shape, shown.dtype) == ((8, 8, 3), np.uint8)
    assert difference(shown, np.broadcast_to(np.array(colour), (8, 8, 3)))[1] <= tolerance


def test_grey_values_without_a_range_are_refused() -> None:
    part = Window(0, 0, 9, 9, alone=True)
    with pytest.raises(BadImage, match="no known range"):
        show(encoded(Image.new("F", (9, 9), 0.5), "TIFF"), "one", lambda w, h: part, 8)
    with pytest.raises(BadImage, match=r"0\.\.65535, received -1\.\.-1"):
        show(encoded(Image.new("I", (9, 9), -1), "TIFF"), "one", lambda w, h: part, 8)


def test_pixels_are_shown_as_they_are_stored() -> None:
    image, exif = picture(40, 30), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    turned = jpeg(image, exif=exif)
    with Image.open(io.BytesIO(turned)) as tagged:
        assert tagged.getexif()[0x0112] == 6
    shown = [show(content, "one", lambda w, h: Window(0, 0, w, h, alone=True), 30) for content in (jpeg(image), turned)]
    assert np.array_equal(*shown)


# ----------------------------------------------------------------------------------------------------------- bad files


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> tuple[ImageFolder, list[str]]:
    """Twelve good images and five bad ones, in two classes; with the names of the bad ones."""
    good = jpeg(picture(90, 70))
    png = bytearray(encoded(picture(40, 40), "PNG"))
    png[png.index(b"IDAT") + 40] ^= 0xFF
    bad = {
        "ant/cut.JPEG": good[: len(good) // 2],
        "ant/header.JPEG": good[:200],
        "bee/broken.png": bytes(png),
        "bee/empty.jpg": b"",
        "bee/page.jpeg": b"<html>404</html>",
    }
    for name, content in {**bad, **{f"{c}/{i}.JPEG": good for c in ("ant", "bee") for i in range(6)}}.items():
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return source(tmp_path), sorted(bad)


def test_check_lists_the_bad_files(damaged: tuple[ImageFolder, list[str]]) -> None:
    train, bad = damaged
    told: list[tuple[int, int]] = []
    found = train.check(lambda done, total: told.append((done, total)))
    assert [error.name for error in found] == bad
    assert all(error.reason and error.name in str(error) for error in found)
    assert told == [(8, 17), (16, 17), (17, 17)]
    assert train.errors == {}
    good = train.subset(torch.tensor([i for i in range(17) if train.name(i) not in bad]))
    assert (len(good), good.check()) == (12, [])


def test_a_bad_file_is_named_where_its_batch_comes_up(damaged: tuple[ImageFolder, list[str]]) -> None:
    train, bad = damaged
    place = train.names.index("bee/broken.png")
    good = [i for i, name in enumerate(train.names) if name not in bad]
    indices = [torch.tensor(good[:4]), torch.tensor(good[4:8]), torch.tensor([good[8], place])]
    batches = train.batches(indices)
    assert len(next(batches).y) == 4
    assert len(next(batches).y) == 4
    with pytest.raises(BadImage, match=r"bee/broken\.png is no image") as raised:
        next(batches)
    assert raised.value.name == "bee/broken.png"
    assert not workers()


def test_a_bad_file_can_be_counted_and_shown_black_without_a_label(damaged: tuple[ImageFolder, list[str]]) -> None:
    raising, bad = damaged
    train = ImageFolder(raising.root.parent, "train", size=SIZE, on_error="count", crop=CROP, workers=2)
    copy = train.to("cpu")
    index = torch.arange(17)
    with pytest.warns(UserWarning, match="black picture without a label") as warned:
        batch = copy.batch(index, seed=1, epoch=0)
    assert sorted(str(w.message).split()[0] for w in warned) == bad
    assert batch.labelled is not None
    is_bad = torch.tensor([name in bad for name in train.names])
    assert torch.equal(batch.labelled, ~is_bad)
    assert not bool(batch.x[is_bad].any())
    assert torch.equal(batch.x[~is_bad], raising_crop(raising).batch(index[~is_bad], seed=1, epoch=0).x)
    assert train.errors == dict.fromkeys(bad, 1)
    again = copy.batch(index, seed=1, epoch=1)  # no second warning
    assert train.errors == dict.fromkeys(bad, 2)
    assert int(again.labelled.sum()) == 12 if again.labelled is not None else False
    masked = ImageFolder(train.root.parent, "train", size=SIZE, on_error="count", labelled=index > 0)
    with pytest.warns(UserWarning, match="black picture"):
        mask = masked.batch(index).labelled
    assert mask is not None
    assert torch.equal(mask, ~is_bad & (index > 0))
    assert copy.batch(index[~is_bad]).labelled is None


def raising_crop(plain: ImageFolder) -> ImageFolder:
    return ImageFolder(plain.root.parent, "train", size=SIZE, crop=CROP, workers=1)


def test_a_file_that_cannot_be_read_is_no_bad_image(damaged: tuple[ImageFolder, list[str]]) -> None:
    train, _ = damaged
    train.on_error = "count"
    (train.root / "ant" / "0.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"ant/0\.JPEG"):
        train.batch(torch.tensor([train.names.index("ant/0.JPEG")]))
    with pytest.raises(FileNotFoundError, match=r"ant/0\.JPEG"):
        train.check()
    assert not workers()


def test_pillow_must_not_hide_truncated_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES must be False"):
        source(root).batch(torch.arange(2))
    with pytest.raises(ValueError, match="LOAD_TRUNCATED_IMAGES must be False"):
        source(root).check()


# ------------------------------------------------------------------------------------------------------------ prefetch


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("bcpd-images")]


def test_the_next_batches_are_decoded_meanwhile_and_no_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    inner = image_folder._bytes_of

    def counted(path: Path) -> bytes:
        read.append(path)
        return inner(path)

    monkeypatch.setattr(image_folder, "_bytes_of", counted)
    train = source(root, crop=CROP, prefetch=2)
    batches = train.batches([torch.arange(8)] * 20, epoch=0)
    assert read == []
    next(batches)
    deadline = time.monotonic() + 20
    while len(read) < 24 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert len(read) == 24  # the one that was given and two more
    assert 1 <= len(workers()) <= 2
    batches.close()
    assert not workers()
    assert len(read) == 24


def test_a_forgotten_iterator_leaves_no_threads(root: Path) -> None:
    for batch in source(root).batches(torch.arange(24).split(2)):
        assert batch.x.shape == (2, 3, SIZE, SIZE)
        break
    assert not workers()
    assert len(list(source(root).batches(torch.arange(24).split(5)))) == 5
    assert not workers()


@pytest.mark.gpu
def test_batches_are_the_same_on_the_gpu(root: Path) -> None:
    here = source(root, crop=CROP, normalise=IMAGENET)
    there = here.to("cuda")
    indices = torch.arange(24).split(5)
    for ours, theirs in zip(here.batches(indices, epoch=1), there.batches(indices, epoch=1), strict=True):
        assert theirs.x.device.type == "cuda"
        torch.testing.assert_close(theirs.x.cpu(), ours.x, rtol=0, atol=1e-6)
        assert torch.equal(theirs.extra["crop"].cpu(), ours.extra["crop"])
    assert there.subset(torch.tensor([3, 1], device="cuda")).name(0) == here.name(3)


# ------------------------------------------------------------------------------------------------------------ training


def test_a_network_trains_from_a_folder_whoever_decodes_it(root: Path) -> None:
    recipe = Recipe(epochs=1, learning_rate=0.05, batch_size=9, validation=0.25)
    states = []
    for options in ({"workers": 1, "prefetch": 1}, {"workers": 3, "prefetch": 4}):
        net = build("resnet8x0.5", num_classes=3, input_shape=(3, SIZE, SIZE), seed=0)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        train = source(root, crop=CROP, normalise=IMAGENET, **options)
        fitted = bcpd.fit(net, train, Supervised("ce"), recipe, seed=0)
        assert np.isfinite(fitted.history[-1]["validation_nll"]).all()
        assert any(not torch.equal(value, before[name]) for name, value in fitted.net.state_dict().items())
        states.append(fitted.net.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not workers()
