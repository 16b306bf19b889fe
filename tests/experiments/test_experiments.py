"""The two experiments at toy size: complete, paired, resumable, and on real images when they are there."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bcpd.data import InMemory
from experiments import quickstart, real

TINY = quickstart.Quickstart(
    draws=3,
    tuning_draws=1,
    train=120,
    held_out=60,
    epochs=2,
    rates=(0.01, 0.03),
    hidden=(8,),
    num_classes=3,
    dimension=4,
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("quickstart")
    return quickstart.run(TINY, folder), folder


def test_quickstart_has_every_arm_on_every_draw(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    cells = {(r["role"], r["arm"], r["teacher_checkpoint"], r["checkpoint"], r["draw"]) for r in results["rows"]}
    assert len(cells) == len(results["rows"])
    checkpoints = {"last", "best_accuracy", "best_score", "path_minimum_mse", "path_minimum_kl"}
    groups = [("teacher", "ce", None), ("teacher", "mse", None), ("student", "bayes", None)]
    groups += [("student", arm, source) for arm in ("ce", "mse") for source in ("best_score", "last")]
    assert cells == {(*group, c, d) for group in groups for c in checkpoints for d in range(3)}
    for entry in results["summary"]:
        assert entry["difference"]["n"] == 3
        assert entry["difference"]["low"] <= entry["difference"]["mean"] <= entry["difference"]["high"]
    assert [trial["chosen"] for trial in results["tuning"] if trial["arm"] == "mse"].count(True) == 1
    assert all(trial["edge"] for trial in results["tuning"] if trial["chosen"])  # a grid of two is all edge


def test_quickstart_run_again_reads_its_trainings_back(
    tiny: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, folder = tiny

    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("a finished training was run again")

    monkeypatch.setattr(sys.modules["bcpd.train.fit"], "Trainer", no_training)
    again = quickstart.run(TINY, folder)
    for key in ("rows", "paths", "summary", "tuning"):
        assert again[key] == results[key], key


def test_quickstart_arms_share_data_and_initialisation_and_differ_in_the_loss(
    tiny: tuple[dict[str, Any], Path],
) -> None:
    import json

    _, folder = tiny
    specs = [json.loads((folder / f"{arm}-teachers" / "spec.json").read_text()) for arm in ("ce", "mse")]
    for key in ("net", "source", "held_out", "seeds"):
        assert specs[0][key] == specs[1][key], key
    assert specs[0]["method"]["loss"] == "ce"
    assert specs[1]["method"]["loss"] == "mse"


def test_draws_are_fresh(tiny: tuple[dict[str, Any], Path]) -> None:
    results, _ = tiny
    ones = [r["transfer_mse"] for r in results["rows"] if r["arm"] == "bayes" and r["checkpoint"] == "last"]
    assert len(set(ones)) == 3


def test_real_on_digits_trains_teachers_and_students(tmp_path: Path) -> None:
    spec = real.Real(
        dataset="digits",
        train=300,
        teacher="mlp",
        student="mlp",
        epochs=4,
        seeds=2,
        rates={"ce": (0.1,), "mse": (0.5,)},
        decays={"ce": (0.0,), "mse": (0.0,)},
    )
    results = real.run(spec, folder=tmp_path)
    assert results["spec"]["test_images"] == 360
    accuracies = [row["test_accuracy"] for row in results["rows"] if row["role"] == "teacher" and row["arm"] == "ce"]
    assert min(accuracies) > 0.5
    assert {entry["role"] for entry in results["summary"]} == {"teacher", "student"}
    assert "seed" in results["notes"][0]


def test_real_tells_an_unknown_dataset_and_unmatched_grids() -> None:
    with pytest.raises(ValueError, match="dataset must be one of"):
        real.Real(dataset="mnist")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rates and decays must name the same losses"):
        real.Real(rates={"ce": (0.1,)})


def _real_data() -> Path | None:
    places = [Path(os.environ["BCPD_DATA"])] if "BCPD_DATA" in os.environ else []
    places.append(Path(__file__).parents[2].parent / "shared" / "data")
    return next((place for place in places if (place / "cifar-100-binary").is_dir()), None)


@pytest.mark.slow
def test_real_on_cifar100_runs_the_same_fit_on_images(tmp_path: Path) -> None:
    data = _real_data()
    if data is None:
        pytest.skip("no cifar-100-binary in BCPD_DATA or ../shared/data; prepare.py writes it")
    spec = real.Real(
        train=300,
        test=200,
        teacher="resnet8",
        student="resnet8",
        epochs=1,
        seeds=2,
        rates={"ce": (0.1,), "mse": (1.0,)},
    )
    results = real.run(spec, data, tmp_path)
    assert results["spec"]["test_images"] == 200
    assert {row["arm"] for row in results["rows"]} == {"ce", "mse"}


def test_validation_and_test_images_are_never_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = InMemory.batch

    def spy(self: InMemory, index: torch.Tensor, **options: Any) -> Any:
        if options.get("epoch") is not None:
            seen.extend(index.reshape(-1).tolist())
        return original(self, index, **options)

    monkeypatch.setattr(InMemory, "batch", spy)
    spec = real.Real(
        dataset="digits",
        train=200,
        teacher="mlp",
        student="mlp",
        epochs=1,
        seeds=1,
        rates={"ce": (0.1,), "mse": (0.5,)},
        decays={"ce": (0.0,), "mse": (0.0,)},
        validation=0.25,
    )
    real.run(spec)
    assert len(set(seen)) == 150


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([2.2, 2.1, 2.0, 1.9, 1.8, 1.7], ["under-trained", "not levelled off"]),
        ([2.0, 1.0, 0.2, 0.1, 0.1, 0.1], []),
        ([2.0, 1.5, 1.4, 1.4, 1.4, 1.4], ["under-trained"]),
    ],
)
def test_an_under_trained_teacher_is_said_to_be_one_and_a_trained_one_is_not(
    losses: list[float], said: list[str]
) -> None:
    paths = [{"role": "teacher", "arm": "ce", "metrics": {"train_loss": [[loss, loss] for loss in losses]}}]
    trial = {"arm": "ce", "learning_rate": 0.1, "weight_decay": 0.0, "edge": False}
    spec = real.Real(dataset="digits", epochs=len(losses), seeds=2)
    notes = real.caveats(spec, 10, paths, [trial])
    assert len(notes) == 1 + len(said)
    assert all(words in note for words, note in zip(said, notes[1:], strict=True))
    assert "edge of its grid" in real.caveats(spec, 10, paths, [trial | {"edge": True}])[-1]
