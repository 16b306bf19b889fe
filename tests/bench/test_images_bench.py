"""The benchmark of images times equal trainings, and what it reports fits together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bcpd.bench import images
from bcpd.bench.images import FORMATS, SCALES, Cell, Scale, check, run
from bcpd.cli import main

TINY = Cell("resnet8x0.5", (1, 8, 8), 8, 1, 24)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(images, "matmul_rate", lambda: 1e11)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "layout", [pytest.param(layout, marks=[pytest.mark.slow] * (layout != "channels_last")) for layout in FORMATS]
)
def test_fit_does_the_work_of_the_bare_loop(layout: Any) -> None:
    assert check(TINY, layout) < images.TOLERANCE


def test_a_training_that_is_another_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = images._Loop.__init__

    def reverse(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        self.index = self.index.flip(0)

    monkeypatch.setattr(images._Loop, "__init__", reverse)
    with pytest.raises(ValueError, match=r"weights of fit \(resnet8x0\.5, 8x8x1, channels_last\) differ from the bare"):
        check(TINY, "channels_last")


def test_the_cells_are_every_combination() -> None:
    cells = SCALES["laptop"].cells
    assert len(cells) == len(set(cells)) == 6
    assert {(cell.size, cell.images) for cell in cells} == {("8x8x1", 4096), ("16x16x1", 1024), ("32x32x3", 256)}
    assert Cell("resnet8", (3, 32, 32), 64, 1, 64).macs == 12_501_632
    assert Scale(pixels=1).cells[0].images == 64


@pytest.mark.slow
def test_what_is_reported_fits_together_and_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "images.json"
    assert main(["bench", "images", "--scale", "smoke", "--rounds", "1", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert torch.get_num_threads() == 1
    (cell,) = results["cells"]
    speeds = {(row["variant"], row["format"]): row["images_per_second"] for row in results["training"]}
    assert len(speeds) == 6
    last = speeds["fit", "channels_last"]
    assert cell["channels_last_ratio"] == pytest.approx(last / speeds["fit", "channels_first"])
    assert cell["loop_ratio"] == pytest.approx(last / speeds["bare loop", "channels_last"])
    assert cell["augmented_ratio"] == pytest.approx(speeds["fit, crop-flip", "channels_last"] / last)
    for row in results["training"]:
        assert row["gflops"] == pytest.approx(6e-9 * cell["macs"] * row["images_per_second"])
        assert row["share_of_matmul"] == pytest.approx(row["gflops"] / 100)
        assert row["images_per_second"] == pytest.approx(32 / row["cpu" if cell["clock"] == "cpu" else "seconds"])
    assert {(row["augment"], row["stored"]) for row in results["augmentation"]} == {
        (name, stored) for name in ("none", "crop-flip", "cyclic-shift", "flip") for stored in ("uint8", "float32")
    }
    assert {row["world"] for row in results["sampling"]} == {"templates", "textures", "factor-analyzers", "bernoulli"}
    for row in results["sampling"]:
        both = 1 / (1 / row["sampled_per_second"] + 1 / row["answered_per_second"])
        assert row["both_per_second"] == pytest.approx(both)
        assert row["over_training"] == pytest.approx(both / max(speeds.values()))
    printed = capsys.readouterr().out
    assert f"{last:,.0f}" in printed
    assert "crop-flip / none" in printed
    assert "factor-analyzers" in printed


@pytest.mark.parametrize(
    ("rounds", "scale", "message"), [(0, "smoke", "rounds must be"), (1, "big", "scale must be one of")]
)
def test_no_rounds_and_unknown_scales_are_refused(rounds: int, scale: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(rounds, scale)
