"""The figures in the README's sentences are those of the stored results."""

import re
from pathlib import Path
from typing import Any

import pytest

from bcpd.files import read_json

ROOT = Path(__file__).parents[1]
README = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())


def stored(name: str) -> dict[str, Any]:
    return dict(read_json(ROOT / "experiments" / "results" / name))


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def interval(entry: dict[str, Any], digits: int, scale: float = 1.0) -> str:
    mean, low, high = (number(scale * entry[name], digits) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


@pytest.fixture(scope="module")
def figure1() -> dict[str, Any]:
    return stored("figure1/results.json")


@pytest.fixture(scope="module")
def the_map() -> dict[str, Any]:
    return stored("when-mse-wins/results.json.gz")


@pytest.mark.parametrize(("distance", "given"), [("mse", None), ("mse", "kl"), ("kl", "mse")])
def test_rank_correlations(figure1: dict[str, Any], distance: str, given: str | None) -> None:
    wanted = {"set": "all families", "outcome": "best_score", "distance": distance, "given": given}
    (found,) = [row for row in figure1["correlations"] if wanted.items() <= row.items()]
    assert interval(found, 2) in README


@pytest.mark.parametrize(("world", "net"), [("toy", "mlp"), ("contaminated", "linear"), ("contaminated", "mlp")])
def test_teachers_at_the_path_s_minimum(figure1: dict[str, Any], world: str, net: str) -> None:
    wanted = {"world": world, "net": net, "checkpoint": "path minimum", "distance": "mse"}
    (found,) = [row for row in figure1["comparisons"] if wanted.items() <= row.items()]
    assert interval(found, 4 if world == "toy" else 3) in README


def test_figure1_predictions(figure1: dict[str, Any]) -> None:
    verdicts = [row["verdict"] for row in figure1["predictions"] if not row["identity"]]
    holds, fails, undecided = (verdicts.count(name) for name in ("holds", "fails", "undecided"))
    assert f"Of {len(verdicts)} predictions {holds} hold, {fails} fail, {undecided} is undecided" in README


def test_the_map_s_counts(the_map: dict[str, Any]) -> None:
    advice = " ".join(row["text"] for row in the_map["reading"] if row["topic"] in ("advice", "teacher"))
    cells = len(the_map["cells"])
    for pattern, said in (
        (r"more accurate in (\d+) of", "only one of {cells} cells in which MSE students are shown to be better"),
        (r"less accurate in (\d+) of", "in {0} cells the student is shown to be worse"),
        (r"interval lies within 0.5 points in (\d+)", "in {0} cells, those with few classes"),
        (r"In (\d+) of 58 neither was shown", "in {0} of {cells} nothing is shown"),
        (r"the CE teacher in (\d+); in", "shown closer in MSE, MSE's own metric, in {0} cells"),
    ):
        found = re.search(pattern, advice)
        assert found is not None, pattern
        assert said.format(found.group(1), cells=cells) in README
    better = re.search(r"more accurate in (\d+) of", advice)
    assert better is not None
    assert better.group(1) == "1"


def test_the_map_s_predictions(the_map: dict[str, Any]) -> None:
    verdicts = [row["verdict"] for row in the_map["predictions"]]
    holds, undecided = verdicts.count("holds"), verdicts.count("undecided")
    assert verdicts.count("fails") == 0
    assert f"Of {len(verdicts)} predictions with thresholds set beforehand {holds} hold, none fails" in README
    assert f"and {undecided} are undecided" in README


def test_the_bench() -> None:
    toy, posterior = stored("bench/toy.json"), stored("bench/posterior.json")
    for value in (toy["per_core_ratio"], toy["general_ratio"]):
        assert f"| {value:.1f} |" in README
    assert f"{toy['figure1_ratio']:.1f} times less than the released loop" in README
    assert f"take {100 * toy['path_share']:.0f} % of the time" in README
    ours = " ".join(f"{posterior[name]:.1f}" for name in ("sklearn_ratio_float64", "sklearn_ratio_float32"))
    assert re.search(r"takes {} times less .* and {} times less in float32".format(*ours.split()), README)
    assert f"({posterior['sklearn_single_ratio']:.1f} times less than scikit-learn's own float32)" in README


def test_images_a_second() -> None:
    found = stored("bench/images.json")
    fit = {
        row["size"]: row["images_per_second"]
        for row in found["training"]
        if (row["variant"], row["threads"], row["format"]) == ("fit", 1, "channels_last")
    }
    small, middle, large = (f"{fit[size]:,.0f}" for size in ("8x8x1", "16x16x1", "32x32x3"))
    assert f"resnet8 {small} images a second at 8 × 8, {middle} at 16 × 16 and {large} at 32 × 32 × 3" in README
    over = [row["over_training"] for row in found["sampling"]]
    assert f"{min(over):.1f} to {max(over):.0f} times faster than that" in README
    augmented = [cell["augmented_ratio"] for cell in found["cells"] if cell["threads"] == 1]
    assert f"cost at most {100 * (1 - min(augmented)):.0f} %" in README


def test_the_ladder_s_sentences() -> None:
    ladder = stored("ladder/results.json")
    plain = README.replace("\\*", "*")
    for sentence in ladder["reading"]:
        if sentence["topic"] == "claim":
            assert sentence["text"] in plain
    scores = [entry["z"] for entry in ladder["by_labels"]]
    assert all(abs(z) < 1.96 for z in scores)
    assert f"{len(scores)} differences of trained networks" in plain
    assert f"mean z {number(sum(scores) / len(scores), 2)}" in plain
    assert f"in {ladder['seconds'] / 60:.0f} minutes" in plain
    assert not any(trial["edge"] for trial in ladder["tuning"])
    (people,) = [rung["bayes_error_of_people"] for rung in ladder["rungs"] if rung["name"] == "people"]
    for end in ("lower", "upper"):
        assert f"{people[end]['value']:.4f}" in plain
