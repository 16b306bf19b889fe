"""The reader of the official binary layouts, on small files and, where it is present, on the real data."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bcpd.data import NORMALISATION, read_cifar

ROOT = Path(__file__).resolve().parents[2]
PREPARED = os.environ.get("BCPD_DATA")
PREPARE = ROOT.parent / "shared" / "data" / "prepare.py"


def write_cifar100(folder: Path, n: int = 6) -> np.ndarray:
    """Two small files in the layout of cifar-100-binary; returns the records of train.bin."""
    layout = folder / "cifar-100-binary"
    layout.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for file in ("test.bin", "train.bin"):
        records = rng.integers(0, 256, (n, 3074), dtype=np.uint8)
        records[:, 0], records[:, 1] = rng.integers(0, 20, n), rng.integers(0, 100, n)
        records.tofile(layout / file)
    return records


def write_cifar10(folder: Path) -> list[np.ndarray]:
    """Five training batches of 2 to 6 records; returns them."""
    layout = folder / "cifar-10-batches-bin"
    layout.mkdir(parents=True)
    rng = np.random.default_rng(1)
    batches = []
    for i in range(1, 6):
        records = rng.integers(0, 256, (i + 1, 3073), dtype=np.uint8)
        records[:, 0] = rng.integers(0, 10, i + 1)
        records.tofile(layout / f"data_batch_{i}.bin")
        batches.append(records)
    return batches


def test_cifar100_records_come_back_byte_by_byte(tmp_path: Path) -> None:
    records = write_cifar100(tmp_path)
    images = read_cifar(tmp_path, "cifar100", "train")
    assert (images.x.dtype, images.x.shape, images.num_classes) == (torch.uint8, (6, 3, 32, 32), 100)
    assert images.coarse is not None
    assert images.coarse.tolist() == records[:, 0].tolist()
    assert images.y.tolist() == records[:, 1].tolist()
    assert images.class_names is None
    # the pixel of channel c, row i, column j is byte 1024 c + 32 i + j behind the labels
    for record, channel, row, column in [(0, 0, 0, 0), (2, 1, 3, 30), (5, 2, 31, 31), (4, 0, 1, 0)]:
        byte = records[record, 2 + 1024 * channel + 32 * row + column]
        assert int(images.x[record, channel, row, column]) == int(byte)
    assert not torch.equal(images.y, read_cifar(tmp_path, "cifar100", "test").y)


def test_cifar10_training_batches_are_joined_in_order(tmp_path: Path) -> None:
    records = np.concatenate(write_cifar10(tmp_path))
    images = read_cifar(tmp_path, "cifar10", "train")
    assert len(images) == len(records) == 20
    assert images.y.tolist() == records[:, 0].tolist()
    assert images.coarse is None
    np.testing.assert_array_equal(images.x.flatten(1).numpy(), records[:, 1:])


def test_the_folder_may_be_the_layout_itself_or_its_parent(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    inside = read_cifar(str(tmp_path / "cifar-100-binary"), "cifar100", "test")
    assert torch.equal(inside.x, read_cifar(tmp_path, "cifar100", "test").x)


def test_class_names_are_read_where_present_and_counted(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    names = tmp_path / "cifar-10-batches-bin" / "batches.meta.txt"
    names.write_text("\n".join(f"class {k}" for k in range(10)) + "\n\n")
    assert read_cifar(tmp_path, "cifar10", "train").class_names == tuple(f"class {k}" for k in range(10))
    names.write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"batches\.meta\.txt must name 10 classes, received 2"):
        read_cifar(tmp_path, "cifar10", "train")


@pytest.mark.parametrize("cut", [1, 3073])
def test_a_truncated_file_is_refused_with_the_offset_of_the_incomplete_record(tmp_path: Path, cut: int) -> None:
    records = write_cifar100(tmp_path)
    path = tmp_path / "cifar-100-binary" / "train.bin"
    path.write_bytes(records.tobytes()[:-cut])
    message = rf"train\.bin must be .* records of 3074 bytes, received {6 * 3074 - cut} bytes: .* offset {5 * 3074} is"
    with pytest.raises(ValueError, match=message):
        read_cifar(tmp_path, "cifar100", "train")


def test_one_bad_batch_of_five_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    with (tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(ValueError, match=rf"data_batch_4\.bin .* offset {5 * 3073} is incomplete \(1 bytes\)"):
        read_cifar(tmp_path, "cifar10", "train")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    (tmp_path / "cifar-100-binary" / "train.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train\.bin must be a positive whole number of records.* received 0 bytes"):
        read_cifar(tmp_path, "cifar100", "train")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 20, rf"coarse label must lie in 0\.\.19, received 20 at offset {2 * 3074} \(record 2\)"),
        (1, 100, rf"fine label must lie in 0\.\.99, received 100 at offset {2 * 3074 + 1} \(record 2\)"),
    ],
)
def test_a_label_out_of_range_is_refused_with_its_offset(tmp_path: Path, column: int, value: int, message: str) -> None:
    records = write_cifar100(tmp_path)
    records[2, column] = value
    records.tofile(tmp_path / "cifar-100-binary" / "train.bin")
    with pytest.raises(ValueError, match=rf"train\.bin: {message}"):
        read_cifar(tmp_path, "cifar100", "train")


def test_a_cifar100_file_in_the_place_of_a_cifar10_file_is_refused(tmp_path: Path) -> None:
    records = write_cifar100(tmp_path)
    layout = tmp_path / "cifar-10-batches-bin"
    layout.mkdir()
    records.tofile(layout / "test_batch.bin")
    with pytest.raises(ValueError, match=r"test_batch\.bin must be a positive whole number of records of 3073 bytes"):
        read_cifar(tmp_path, "cifar10", "test")


@pytest.mark.parametrize(
    ("name", "looked_for", "archive"),
    [
        ("cifar10", "data_batch_1.bin", "cifar-10-binary.tar.gz"),
        ("cifar100", "train.bin", "cifar-100-binary.tar.gz"),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_a_missing_file_says_what_was_looked_for_and_where_to_get_it(
    tmp_path: Path, name: str, looked_for: str, archive: str, exists: bool
) -> None:
    folder = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError) as caught:
        read_cifar(folder, name, "train")  # type: ignore[arg-type]
    assert str(folder / looked_for) in str(caught.value)
    assert archive in str(caught.value)


def test_unknown_names_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name must be one of \['cifar10', 'cifar100'\], received 'cifar'"):
        read_cifar(tmp_path, "cifar", "train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train'\], received 'val'"):
        read_cifar(tmp_path, "cifar10", "val")  # type: ignore[arg-type]


def check_real(folder: Path, name: str, num_classes: int, tolerance: float) -> None:
    train, test = read_cifar(folder, name, "train"), read_cifar(folder, name, "test")  # type: ignore[arg-type]
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.y.bincount().tolist() == [50_000 // num_classes] * num_classes
    assert test.y.bincount().tolist() == [10_000 // num_classes] * num_classes
    assert train.class_names is not None
    moments = NORMALISATION[name]
    channels = train.x.transpose(0, 1).flatten(1)
    for channel, mean, std in zip(channels, moments.mean, moments.std, strict=True):
        counts = channel.bincount(minlength=256).double()
        level = torch.arange(256, dtype=torch.float64) / 255
        first, second = float(counts @ level) / len(channel), float(counts @ level.square()) / len(channel)
        assert first == pytest.approx(mean, abs=tolerance)
        assert (second - first**2) ** 0.5 == pytest.approx(std, abs=tolerance)


@pytest.mark.skipif(PREPARED is None, reason="BCPD_DATA does not point to the prepared layouts")
@pytest.mark.parametrize(("name", "num_classes", "tolerance"), [("cifar10", 10, 3e-3), ("cifar100", 100, 3e-4)])
def test_real_data_has_the_published_sizes_and_moments(name: str, num_classes: int, tolerance: float) -> None:
    check_real(Path(PREPARED or ""), name, num_classes, tolerance)


@pytest.mark.slow
@pytest.mark.skipif(not PREPARE.is_file(), reason=f"no prepare.py in {PREPARE.parent}")
def test_prepared_cifar100_reads(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="prepare.py needs Pillow")
    subprocess.run([sys.executable, str(PREPARE), "--out", str(tmp_path), "--only", "cifar100"], check=True)
    check_real(tmp_path, "cifar100", 100, 3e-4)
