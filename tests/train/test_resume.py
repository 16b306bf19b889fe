"""A run killed at any moment goes on to the bits it would have had; damaged and foreign files are refused."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_world import D, K, mlp, same, world
from torch import Tensor, nn

import bcpd
from bcpd.data import InMemory
from bcpd.distill import KD, Supervised
from bcpd.nets import Views, build
from bcpd.train import CheckpointError, Fitted, ReadOut, Recipe
from bcpd.train.checkpoint import fingerprint, read_checkpoint, write_checkpoint

HERE = Path(__file__).parent
RECIPE = Recipe(epochs=3, learning_rate=0.1, batch_size=8, validation=0.25)


class Stop(Exception):
    """Raised to interrupt a training."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ------------------------------------------------------------------------------------------------------- SIGKILL


def killed(optimizer: str, extent: str, root: Path) -> dict[str, int]:
    """Runs that were killed and completed, in folders of ``root``, and how many lives each of them took."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE)]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, str(HERE / "killed_runs.py"), optimizer, extent, str(root)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lives: dict[str, int] = json.loads(done.stdout)
    return lives


def without_provenance(folder: Path) -> dict[str, bytes]:
    """It tells where the first life ran, and nothing of the result."""
    return {name: content for name, content in contents(folder).items() if name != "provenance.json"}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("optimizer", "extent"),
    [
        pytest.param("sgd", "few", marks=SLOW),
        pytest.param("sgd", "all", marks=SLOW),
        pytest.param("adam", "all", marks=SLOW),
        pytest.param("adam", "within", marks=SLOW),
    ],
)
def test_a_run_killed_at_any_moment_ends_in_the_bits_of_an_undisturbed_one(
    optimizer: str, extent: str, tmp_path: Path
) -> None:
    lives = killed(optimizer, extent, tmp_path)
    whole = without_provenance(tmp_path / "whole")
    checkpoints = ("best_accuracy", "best_score", "last", "path_minimum_mse", "path_minimum_kl")
    weights = {f"weights/{name}.safetensors" for name in checkpoints}
    assert set(whole) == weights | {"metrics.jsonl", "method.safetensors", "done.json", "spec.json"}
    assert len(lives) == {"few": 8, "all": 24, "within": 13}[extent]
    # every scenario did kill; after the very last file the run is finished, and its next life reads it back
    assert all(count >= 2 for name, count in lives.items() if not name.startswith("moment"))
    assert lives["again and again"] >= 5
    for name, count in lives.items():
        assert without_provenance(tmp_path / name) == whole, f"{name}, {count} lives"


def test_no_file_of_a_run_is_a_pickle(tmp_path: Path) -> None:
    stopped(tmp_path / "stopped")
    run(tmp_path / "finished")
    files = contents(tmp_path)
    assert {Path(name).suffix for name in files} == {".json", ".jsonl", ".safetensors"}
    assert "stopped/resume.safetensors" in files
    for content in files.values():
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError)):
            pickle.loads(content)


# ------------------------------------------------------------------------------------------- interrupted in process


def run(folder: Path | None = None, *, stop: int | None = None, **changes: Any) -> Fitted:
    """A small run; ``stop`` interrupts it after that epoch."""

    def watch(report: bcpd.train.Progress) -> None:
        if report.epoch == stop:
            raise Stop

    settings: dict[str, Any] = {
        "net": mlp(1),
        "source": world(),
        "method": Supervised("ce"),
        "recipe": RECIPE,
        "seed": 0,
        "held_out": world(20, 3),
        "save_seconds": 0.0,
        "progress": watch,
        **changes,
    }
    return bcpd.fit(folder=folder, **settings)


def stopped(folder: Path, epoch: int = 2, **changes: Any) -> None:
    with pytest.raises(Stop):
        run(folder, stop=epoch, **changes)


def alike(left: Fitted, right: Fitted) -> bool:
    names = left.states.keys() == right.states.keys()
    history = json.dumps(left.history) == json.dumps(right.history)
    return names and history and all(same(left.states[k], right.states[k]) for k in left.states)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_replicas_go_on_to_the_same_bits_also_after_one_diverged(optimizer: str, tmp_path: Path) -> None:
    recipe = Recipe(
        epochs=3,
        learning_rate=(0.1, 1e200, 0.01),
        batch_size=8,
        validation=0.25,
        optimizer=optimizer,  # type: ignore[arg-type]
    )
    changes = {"recipe": recipe, "seed": [1, 2, 3], "source": world(40, [0, 1, 2])}
    whole = run(net=mlp([1, 2, 3]), **changes)
    assert whole.diverged[1] is not None
    for epoch in (1, 2, 3):
        stopped(tmp_path / str(epoch), epoch, net=mlp([1, 2, 3]), **changes)
        assert alike(run(tmp_path / str(epoch), net=mlp([1, 2, 3]), **changes), whole)


class Dropping(nn.Module):
    """A network with dropout: its random numbers must be resumed too."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.drop = mlp(1), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Views:
        views: Views = self.net(self.drop(x))
        return views


def test_dropout_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = run(net=Dropping())
    stopped(tmp_path, 1, net=Dropping())
    torch.manual_seed(99)
    assert alike(run(tmp_path, net=Dropping()), whole)


def test_a_resumed_run_does_not_repeat_finished_epochs(tmp_path: Path) -> None:
    stopped(tmp_path, 2)
    epochs: list[int] = []
    run(tmp_path, progress=lambda report: epochs.append(report.epoch))
    assert epochs == [3]


def test_a_finished_folder_is_read_back_without_training(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = contents(tmp_path)
    assert not (tmp_path / "resume.safetensors").exists()

    net, method = mlp(1), Supervised("ce")
    method.loss = lambda *_: pytest.fail("a finished run was trained again")  # type: ignore[method-assign]
    second = run(tmp_path, net=net, method=method)
    assert alike(first, second)
    assert second.identity == first.identity
    assert second.epochs == first.epochs
    assert second.net is net
    assert same(net.state_dict(), first.states["last"])
    assert contents(tmp_path) == before


def test_numbers_that_json_lacks_are_read_back(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, learning_rate=1e200, batch_size=8)
    first = run(tmp_path, recipe=recipe)
    second = run(tmp_path, recipe=recipe)
    assert math.isnan(second.history[-1]["train_loss"][0])
    assert json.dumps(first.history) == json.dumps(second.history)
    assert second.diverged == first.diverged


def test_saves_are_at_least_their_time_apart_but_made_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    original = bcpd.train.folder.write_checkpoint  # type: ignore[attr-defined]

    def counted(path: Path, tensors: Any, record: Any) -> None:
        if path.name == "resume.safetensors":
            written.append(record["epoch"])
        original(path, tensors, record)

    monkeypatch.setattr("bcpd.train.folder.write_checkpoint", counted)
    run(tmp_path / "often")
    assert written == [1, 2, 3]
    written.clear()
    run(tmp_path / "seldom", save_seconds=1e6)
    assert written == [3]


def test_another_number_of_threads_is_said(tmp_path: Path) -> None:
    stopped(tmp_path)
    torch.set_num_threads(2)
    with pytest.warns(UserWarning, match="was saved with 1 threads and goes on with 2"):
        run(tmp_path)


def test_the_folder_tells_what_was_asked_and_where_it_ran(tmp_path: Path) -> None:
    fitted = run(tmp_path)
    spec = json.loads((tmp_path / "spec.json").read_text())
    assert spec["identity"] == fitted.identity
    assert spec["recipe"]["epochs"] == 3
    assert spec["method"]["loss"] == "ce"
    assert spec["seeds"] == [0]
    provenance = json.loads((tmp_path / "provenance.json").read_text())
    assert provenance["packages"]["torch"] == torch.__version__ or torch.__version__.startswith(
        provenance["packages"]["torch"]
    )
    assert provenance["threads"] == 1
    assert str(Path.home()) not in (tmp_path / "provenance.json").read_text()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


# ------------------------------------------------------------------------------------------------ damage and others


def flip(path: Path, position: int, mask: int = 0x01) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(bytes(content))


def tensor_data(path: Path) -> int:
    """Where the tensors begin."""
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "truncated in the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "empty": lambda path: path.write_bytes(b""),
    "byte in a tensor": lambda path: flip(path, tensor_data(path) + 5),
    "last byte": lambda path: flip(path, -1, 0x80),
    "byte in the record": lambda path: flip(path, path.read_bytes().index(b"identity") + 14),
    "byte in the header's length": lambda path: flip(path, 1),
    "a pickle": lambda path: torch.save({"a": torch.zeros(2)}, path),
    "text": lambda path: path.write_text("{}"),
    "another program's": lambda path: safetensors.torch.save_file({"a": torch.zeros(2)}, path),
    "another program's with metadata": lambda path: safetensors.torch.save_file(
        {"a": torch.zeros(2)}, path, {"format": "pt"}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_resume_state_is_refused(damage: str, tmp_path: Path) -> None:
    stopped(tmp_path)
    resume = tmp_path / "resume.safetensors"
    DAMAGES[damage](resume)
    before = resume.read_bytes()
    net = mlp(1)
    message = "not one that bcpd wrote" if damage.startswith("another") else "damaged"
    with pytest.raises(CheckpointError, match=rf"resume.safetensors.*{message}"):
        run(tmp_path, net=net)
    assert same(net.state_dict(), mlp(1).state_dict())
    assert resume.read_bytes() == before


@pytest.mark.parametrize("file", ["weights/last.safetensors", "weights/best_score.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_of_a_finished_run_are_refused(damage: str, file: str, tmp_path: Path) -> None:
    run(tmp_path)
    DAMAGES[damage](tmp_path / file)
    with pytest.raises(CheckpointError, match=Path(file).name):
        run(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("spec.json", "{"),
        ("spec.json", "[]"),
        ("spec.json", "{}"),
        ("done.json", ""),
        ("done.json", "[1]"),
        ("done.json", '{"checkpoints": ["last"]}'),
        ("metrics.jsonl", ""),
        ("metrics.jsonl", '{"epoch": 1, "train_loss": [0.5]}\n'),
    ],
)
def test_a_damaged_record_of_a_finished_run_is_refused(file: str, text: str, tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(CheckpointError, match="damaged"):
        run(tmp_path)


def test_a_missing_file_of_a_finished_run_is_said(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "weights" / "best_score.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"best_score.safetensors is not a readable checkpoint"):
        run(tmp_path)


def test_no_flipped_byte_of_a_checkpoint_goes_unnoticed(tmp_path: Path) -> None:
    """Every byte of a small file, header and tensors; only white space that pads the header may change."""
    path = tmp_path / "file.safetensors"
    tensors = {"a": torch.arange(3.0), "b": torch.tensor([True, False]), "n": torch.tensor(7)}
    write_checkpoint(path, tensors, {"identity": "x", "epoch": 3})
    whole = path.read_bytes()
    start = tensor_data(path)
    for position in range(len(whole)):
        for mask in (0x01, 0x20):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
            try:
                read, record = read_checkpoint(path)
            except CheckpointError:
                continue
            padding = position < start and whole[position] == 0x20
            assert padding
            assert same(read, tensors)
            assert record["epoch"] == 3


def test_a_checkpoint_gives_back_every_dtype_to_the_bit(tmp_path: Path) -> None:
    tied = torch.randn(3)
    tensors = {
        "half": torch.randn(3).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "single": torch.tensor([0.1, math.nan, -0.0, math.inf]),
        "double": torch.randn(2, dtype=torch.float64).t(),
        "transposed": torch.randn(2, 3).t(),
        "long": torch.tensor(2**62 + 1),
        "bool": torch.tensor([True]),
        "byte": torch.arange(5, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
        "tied": tied,
        "tied too": tied,
    }
    write_checkpoint(tmp_path / "file", tensors, {"identity": "x", "nan": math.nan})
    read, record = read_checkpoint(tmp_path / "file", "x")
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (read[name].dtype, read[name].shape) == (value.dtype, value.shape)
        left, right = (t.contiguous().reshape(-1).view(torch.uint8) for t in (read[name], value))
        assert torch.equal(left, right)
    assert record["nan"] == "nan"


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("bcpd.train.checkpoint.FORMAT", 99)
        write_checkpoint(tmp_path / "file", {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="has format 99, this version reads format 1"):
        read_checkpoint(tmp_path / "file")


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "initial weights": lambda: {"net": mlp(2)},
    "activation": lambda: {"net": mlp(1, activation="tanh")},
    "loss": lambda: {"method": Supervised("mse")},
    "constant of a loss": lambda: {"method": Supervised(bcpd.losses.focal(1.0))},  # type: ignore[attr-defined]
    "target": lambda: {"method": Supervised("ce", target="bayes")},
    "data": lambda: {"source": world(40, 9)},
    "held-out points": lambda: {"held_out": world(20, 4)},
    "no held-out points": lambda: {"held_out": None},
    "recipe": lambda: {"recipe": Recipe(epochs=4, learning_rate=0.1, batch_size=8, validation=0.25)},
    "seed": lambda: {"seed": 1},
    "teacher": lambda: {"teacher": mlp(3)},
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("finished", [False, True])
def test_the_folder_of_another_run_is_refused_and_left_alone(other: str, finished: bool, tmp_path: Path) -> None:
    if finished:
        run(tmp_path)
    else:
        stopped(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds another run .* use another folder"):
        run(tmp_path, **OTHERS[other]())
    assert contents(tmp_path) == before


def test_the_resume_state_of_another_run_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path / "one")
    stopped(tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other" / "resume.safetensors", tmp_path / "one" / "resume.safetensors")
    with pytest.raises(CheckpointError, match=r"resume.safetensors belongs to another run"):
        run(tmp_path / "one")
    run(tmp_path / "other", seed=1)
    (tmp_path / "one" / "resume.safetensors").unlink()
    run(tmp_path / "one")
    weights = Path("weights") / "last.safetensors"
    shutil.copy(tmp_path / "other" / weights, tmp_path / "one" / weights)
    with pytest.raises(CheckpointError, match=r"last.safetensors belongs to another run"):
        run(tmp_path / "one")


# ------------------------------------------------------------------------------------------------------- full disk


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("moment", range(1, 13))
def test_a_full_disk_leaves_what_was_there_and_the_run_goes_on_later(
    broken: str, moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run()
    seen: dict[str, bytes] = {}
    original, count = getattr(os, broken), 0

    def full(*arguments: Any) -> None:
        nonlocal count, seen
        count += 1
        if count == moment:
            seen = {name: content for name, content in contents(tmp_path).items() if not name.endswith(".part")}
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, full)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path)
    assert contents(tmp_path) == seen
    assert alike(run(tmp_path), whole)
    assert not list(tmp_path.rglob("*.part"))


def test_parts_that_a_kill_left_behind_are_swept_at_the_end(tmp_path: Path) -> None:
    stopped(tmp_path)
    (tmp_path / ".resume.safetensors.abc.part").write_bytes(b"half")
    run(tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_written_stops_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    net = mlp(1)
    with pytest.raises(OSError):
        run(tmp_path / "file" / "run", net=net)
    assert same(net.state_dict(), mlp(1).state_dict())


# ------------------------------------------------------------------------------------------------------ identities


def test_a_fingerprint_is_that_of_the_function_not_only_of_the_weights() -> None:
    prints = {
        "relu": fingerprint(mlp(1)),
        "tanh": fingerprint(mlp(1, activation="tanh")),
        "other weights": fingerprint(mlp(2)),
        "single precision": fingerprint(mlp(1).float()),
        "softmax teacher": fingerprint(ReadOut(mlp(1), Supervised("logit_mse", readout="softmax"))),
        "projection teacher": fingerprint(ReadOut(mlp(1), Supervised("logit_mse", readout="projection"))),
        "dropout": fingerprint(nn.Dropout(0.1)),
        "more dropout": fingerprint(nn.Dropout(0.2)),
    }
    assert len(set(prints.values())) == len(prints)
    assert fingerprint(mlp(1)) == prints["relu"]
    assert fingerprint(mlp(1).eval()) == prints["relu"]


def test_the_identity_is_of_the_parts_as_they_were_before_training() -> None:
    net = mlp(1)
    first, again = run(net=net), run(net=net)
    assert first.identity == run().identity
    assert again.identity != first.identity


def test_the_device_and_the_pace_of_saving_do_not_change_the_result(tmp_path: Path) -> None:
    assert run(tmp_path, save_seconds=100).identity == run(save_seconds=0).identity


def test_a_student_s_run_knows_its_teacher_s_read_out(tmp_path: Path) -> None:
    def student(readout: str) -> Fitted:
        teacher = ReadOut(mlp(3), Supervised("logit_mse", readout=readout))
        return run(tmp_path, method=KD.pure(), teacher=teacher, net=mlp(1))

    student("softmax")
    with pytest.raises(CheckpointError, match="another run"):
        student("projection")


def test_other_data_of_the_same_labels_are_other_data(tmp_path: Path) -> None:
    source = world()
    run(tmp_path, source=source)
    moved = InMemory(source.x + 1e-9, source.y, num_classes=K, log_bayes=source.log_bayes, dtype=torch.float64)
    with pytest.raises(CheckpointError, match="another run"):
        run(tmp_path, source=moved)


def test_a_network_of_another_width_is_another_run(tmp_path: Path) -> None:
    run(tmp_path)
    wide = build("mlp", num_classes=K, input_shape=(D,), seed=1, hidden=(7,)).double()
    with pytest.raises(CheckpointError, match="another run"):
        run(tmp_path, net=wide)
