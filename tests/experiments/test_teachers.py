"""The search for teachers' settings, the training and measurement of teachers, and what is said of them."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bcpd import cli
from bcpd.cli.studies import finish
from bcpd.losses import LOSSES
from bcpd.measure import crossed_difference_to_bcpd
from bcpd.nets import Views
from bcpd.report.studies import STUDIES
from bcpd.runs import read_results
from bcpd.stats import crossed_mean_interval, mean_interval
from bcpd.train import Execution
from experiments.tables import stages as tables
from experiments.tables import training
from experiments.tables.places import Places
from experiments.tables.spec import Protocol
from experiments.teachers import SCALES, Teachers, collect, plan, run, specification, stages
from experiments.teachers.search import BEYOND, Grid, Setting, chosen, edges, next_settings
from experiments.teachers.spec import ARMS, STARTED
from experiments.teachers.spec import LOSSES as TRAINED

# -------------------------------------------------------------------------------------------------------------- search


def searched(grid: Grid, score: Callable[[Setting], float]) -> tuple[list[list[Setting]], dict[Setting, float]]:
    """The rounds of a search, and all scores."""
    scores: dict[Setting, float] = {}
    rounds = []
    while todo := next_settings(grid, scores):
        assert len(rounds) < 10
        rounds.append(todo)
        scores |= {setting: score(setting) for setting in todo}
    return rounds, scores


GRID = Grid((0.1, 0.3, 1.0), (1e-5, 1e-4, 1e-3), (0.0, 2.0, 5.0))


def bowl(rate: float, decay: float, warm_up: float) -> Callable[[Setting], float]:
    """Best at one place."""

    def score(setting: Setting) -> float:
        parts = (math.log(setting.rate / rate), math.log(setting.decay / decay), setting.warm_up - warm_up)
        return sum(part**2 for part in parts)

    return score


def test_rates_come_first_then_decays_then_warm_ups() -> None:
    rounds, scores = searched(GRID, bowl(0.3, 1e-3, 2.0))
    assert rounds == [
        [Setting(0.1, 1e-4), Setting(0.3, 1e-4), Setting(1.0, 1e-4)],
        [Setting(0.3, 1e-5), Setting(0.3, 1e-3)],
        [Setting(0.3, 1e-3, 2.0), Setting(0.3, 1e-3, 5.0)],
    ]
    best = chosen(GRID, scores)
    assert best == Setting(0.3, 1e-3, 2.0)
    assert edges(GRID, scores, best) == ["decay"]
    assert len(scores) == GRID.least < GRID.most == GRID.least + BEYOND


@pytest.mark.parametrize(
    ("rate", "beyond", "best", "edge"),
    [
        (3.0, [3.33, 11.1], 3.33, False),
        (1e3, [3.33, 11.1], 11.1, True),  # at most two
        (0.04, [0.0333, 0.0111], 0.0333, False),
        (1e-6, [0.0333, 0.0111], 0.0111, True),
        (1.1, [3.33], 1.0, False),
    ],
)
def test_a_best_rate_on_the_edge_is_followed_beyond_it(
    rate: float, beyond: list[float], best: float, edge: bool
) -> None:
    rounds, scores = searched(GRID, bowl(rate, 1e-4, 0.0))
    assert [[setting.rate for setting in todo] for todo in rounds[1 : 1 + len(beyond)]] == [[r] for r in beyond]
    found = chosen(GRID, scores)
    assert found is not None
    assert found.rate == best
    assert ("rate" in edges(GRID, scores, found)) is edge


def test_a_training_that_diverged_is_never_chosen() -> None:
    def score(setting: Setting) -> float:
        return math.nan if setting.rate > 0.5 or setting.warm_up > 4 else bowl(10.0, 1e-4, 5.0)(setting)

    rounds, scores = searched(GRID, score)
    best = chosen(GRID, scores)
    assert best == Setting(0.3, 1e-4, 2.0)
    assert not any(setting.rate > 1 for todo in rounds for setting in todo)  # not on the edge: 1 was tried
    lost = dict.fromkeys((Setting(rate, 1e-4) for rate in GRID.rates), math.inf)
    assert next_settings(GRID, lost) == []
    assert chosen(GRID, lost) is None


def test_a_search_that_is_not_over_has_chosen_nothing() -> None:
    assert chosen(GRID, {}) is None
    assert chosen(GRID, {Setting(rate, 1e-4): rate for rate in GRID.rates}) is None
    one = Grid((0.1,), (1e-4,))
    assert searched(one, bowl(3.0, 1e-4, 0.0))[0] == [[Setting(0.1, 1e-4)]]  # one rate has no edge
    assert (one.least, one.most) == (1, 1)
    assert Grid((0.1,), (1e-5, 1e-4, 1e-3, 1e-2)).middle == 1e-4


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        (((), (1e-4,)), "rates must be one or more"),
        (((0.3, 0.1), (1e-4,)), "rates must be one or more finite numbers, increasing"),
        (((0.1, 0.1), (1e-4,)), "increasing"),
        (((0.0, 0.1), (1e-4,)), "rates must be > 0"),
        (((0.1,), (-1e-4,)), "decays >= 0"),
        (((0.1,), (1e-4,), (1.0,)), "warm_ups begin with 0"),
        (((0.1,), (math.nan,)), "decays must be one or more finite"),
    ],
)
def test_a_wrong_grid_is_refused(numbers: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Grid(*numbers)


# --------------------------------------------------------------------------------------------------- rates and decays


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_at_the_uniform_output_the_gradient_of_the_square_is_two_kth_of_cross_entropy_s(classes: int) -> None:
    y = torch.tensor([1])

    def gradients(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.clone().requires_grad_()
        return tuple(torch.autograd.grad(LOSSES[name](z, y).sum(), z)[0][0] for name in ("mse", "ce"))  # type: ignore[return-value]

    square, cross = gradients(torch.full((1, classes), 0.7, dtype=torch.float64))
    torch.testing.assert_close(square, 2 / classes * cross, rtol=1e-12, atol=1e-16)
    # 1/K is half of it, and elsewhere the two are not even parallel
    assert float((square - cross / classes).abs().max()) > 0.4 / classes
    if classes > 2:
        z = torch.randn(1, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
        square, cross = gradients(z)
        assert float(torch.cosine_similarity(square, cross, dim=0)) < 1 - 1e-6


def trained(scale: float, rate: float, decay: float) -> Tensor:
    """SGD with momentum, a warm-up and a fall of the rate, on a tiny net in float64."""
    stream = torch.Generator().manual_seed(3)
    x = torch.randn(32, 4, generator=stream, dtype=torch.float64)
    y = torch.randint(3, (32,), generator=stream)
    weights = [torch.randn(shape, generator=stream, dtype=torch.float64).requires_grad_() for shape in ((4, 6), (6, 3))]
    optimizer = torch.optim.SGD(weights, lr=rate, momentum=0.9, weight_decay=decay)
    for step in range(40):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 5) * (0.1 if step >= 30 else 1.0)
        optimizer.zero_grad()
        (scale * LOSSES["mse"](torch.tanh(x @ weights[0]) @ weights[1], y).mean()).backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in weights])


def test_the_scale_of_a_loss_is_a_rate_and_a_decay() -> None:
    scaled = trained(4.0, 0.05, 0.02)
    assert float((scaled - trained(1.0, 0.2, 0.005)).abs().max()) < 1e-12
    assert float((scaled - trained(1.0, 0.2, 0.02)).abs().max()) > 1e-2  # the decay has to go along
    assert float((scaled - trained(1.0, 0.05, 0.005)).abs().max()) > 1e-2


def test_a_start_is_cross_entropy_at_the_published_rate() -> None:
    z = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    source = torch.arange(5)

    class Shown:
        y, labelled = source, None

    for net, published in (("resnet20", 0.05), ("mobilenetv2", 0.01)):
        payload = {"net": net, "loss": STARTED, "setting": [2.0, 1e-4, 0.0], "start_epochs": 3}
        method = stages.method_of(Protocol("digits"), payload)
        values = []
        for epoch in (2, 3):
            method.progress(epoch, 0)
            values.append(float(method.loss(Shown, Views(z, z, (), ()), None)["label"]))  # type: ignore[arg-type]
        expected = published / 2.0 * float(LOSSES["ce"](z, source).mean())
        assert values == pytest.approx([expected, float(LOSSES["mse"](z, source).mean())])
        assert method.score == "brier"


# ------------------------------------------------------------------------------------------------------ specifications


@pytest.mark.parametrize("scale", SCALES)
def test_every_size_says_what_it_is(scale: str) -> None:
    spec = specification(scale)
    assert json.loads(json.dumps(spec.describe()))["scale"] == scale
    assert spec.losses == ("ce", "mse", "mse-from-ce")
    assert specification(scale, losses=TRAINED).arms == list(ARMS)


def test_the_full_plan_is_counted_before_anything_starts() -> None:
    found = plan(specification("full"))
    stages_of = {row["stage"]: row for row in found["stages"]}
    assert len(stages_of) == 6
    # three losses, each 4 rates, 2 further decays, 2 warm-ups, and up to 2 rates beyond the grid
    assert stages_of["search of resnet56"] == {
        "stage": "search of resnet56",
        "trainings": 24,
        "at_most": 30,
        "epochs_each": 60,
        "epochs": 1440,
        "epochs_at_most": 1800,
    }
    assert stages_of["teachers wrn_40_2"]["epochs"] == 3 * 3 * 240
    assert (found["trainings"], found["at_most"]) == (3 * 33, 3 * 39)
    assert (found["epochs"], found["epochs_at_most"]) == (3 * (1440 + 2160), 3 * (1800 + 2160))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"nets": ("resnet21",)}, "nets must be some of .*received resnet21"),
        ({"losses": ("ce", "ce")}, "each once"),
        ({"losses": ("hinge",)}, "losses must be some of ce, mse, mse-from-ce, ls, each once; received hinge"),
        ({"losses": ()}, "received none"),
        ({"seeds": 0}, "seeds must be >= 1"),
        ({"search_epochs": -1}, "search_epochs >= 0"),
        ({"start_epochs": 4}, "start_epochs must be >= 1 and below the 4 epochs"),
        ({"search_epochs": 1, "losses": ("ce",), "grids": {"ce": Grid((0.1,), (0.0,), (0.0, 3.0))}}, "does not fit"),
        ({"grids": {}}, "grids must have one for every loss, received none for ce, mse, mse-from-ce"),
        ({"partial": "labels"}, "held in memory with all labels"),
        ({"dataset": "imagenet"}, "held in memory"),
        ({"colour": 1}, "has no colour"),
    ],
)
def test_a_wrong_specification_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        specification("smoke", **changes)
    with pytest.raises(ValueError, match="scale must be one of smoke, reduced, full"):
        specification("huge")


def test_data_that_are_needed_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the folder of cifar100"):
        run(specification("reduced"), tmp_path)
    with pytest.raises(ValueError, match="together must be at least 1, received 0"):
        run(specification("smoke"), tmp_path, together=0)
    with pytest.raises(ValueError, match="no trial of teachers at scale 'smoke' has landed"):
        collect(specification("smoke"), tmp_path)


# ---------------------------------------------------------------------------------------------------------------- runs

LITTLE = Grid((0.1,), (5e-4,), (0.0, 1.0))


def small(**changes: Any) -> Teachers:
    settings = {"train": 160, "test": 60, "epochs": 2, "validation": 0.2, "start_epochs": 1}
    return specification("smoke", **{**settings, "grids": dict.fromkeys(TRAINED, LITTLE), **changes})


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("teachers")
    return run(small(), folder / "rows", processes=1, teachers=folder / "teachers"), folder


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    return lambda: monkeypatch.setattr(sys.modules["bcpd.train.fit"], "Trainer", refuse)


def test_a_run_has_trials_teachers_and_differences(ran: tuple[dict[str, Any], Path]) -> None:
    results, folder = ran
    tried = [(row["loss"], row["rate"], row["decay"], row["warm_up"]) for row in results["search"]]
    assert tried == [(loss, 0.1, 5e-4, warm) for loss in ("ce", "mse", STARTED) for warm in (0.0, 1.0)]
    assert sum(row["chosen"] for row in results["search"]) == 3
    for row in results["search"]:
        own = [other["score"] for other in results["search"] if other["loss"] == row["loss"]]
        assert row["chosen"] == (row["score"] == min(own))
    assert {(row["loss"], row["seed"]) for row in results["rows"]} == {
        (loss, seed) for loss in ("ce", "mse", STARTED) for seed in (0, 1)
    }
    arms = [arm for arm in ARMS if arm != "ls"]
    pairs = {(row["arm"], row["against"]) for row in results["differences"]}
    assert pairs == {(arm, against) for place, against in enumerate(arms) for arm in arms[place + 1 :]}
    assert len(list((folder / "teachers").iterdir())) == 6 + 6


def kept(folder: Path, loss: str, seed: int) -> Tensor:
    values = np.load(folder / "rows" / "log-probabilities" / f"resnet8x0.5-{loss}-{seed}.npy")
    assert values.dtype == np.float32
    return torch.from_numpy(values.astype(np.float64))


def test_differences_are_those_of_the_scores_on_test_labels(ran: tuple[dict[str, Any], Path]) -> None:
    results, folder = ran
    y = torch.from_numpy(np.load(folder / "rows" / "test-labels.npy"))
    temperature = {(row["loss"], row["seed"]): row["temperature"] for row in results["rows"]}

    def scores(arm: str, seed: int) -> dict[str, Tensor]:
        loss, scaled = ARMS[arm]
        log_q = kept(folder, loss, seed)
        log_q = (log_q / temperature[loss, seed]).log_softmax(-1) if scaled else log_q
        square = (torch.eye(10, dtype=torch.float64)[y] - log_q.exp()).square().sum(-1)
        return {"mse": square, "kl": -log_q[torch.arange(60), y], "accuracy": (log_q.argmax(-1) == y).double()}

    near = results_of_images(folder)["near_duplicates"]
    left = [place for place in range(60) if place not in near]
    assert 0 < len(near) < 58
    for row in results["differences"]:
        name = row["quantity"]
        table = torch.stack([scores(row["arm"], seed)[name] - scores(row["against"], seed)[name] for seed in (0, 1)])
        assert [one["value"] for one in row["by_seed"]] == pytest.approx(table.mean(1).tolist(), rel=1e-4, abs=1e-7)
        errors = (table.std(1) / math.sqrt(60)).tolist()
        assert [one["stderr"] for one in row["by_seed"]] == pytest.approx(errors, rel=1e-4, abs=1e-7)
        whole, without = crossed_mean_interval(table), crossed_mean_interval(table[:, left])
        for found, expected in ((row, whole), (row["without_near"], without)):
            numbers = (expected.mean, expected.low, expected.high)
            assert (found["mean"], found["low"], found["high"]) == pytest.approx(numbers, rel=1e-3, abs=1e-6)
    (row,) = [r for r in results["differences"] if (r["arm"], r["against"], r["quantity"]) == ("mse", "ce", "mse")]
    both = [torch.stack([kept(folder, loss, seed) for seed in (0, 1)]).log_softmax(-1) for loss in ("mse", "ce")]
    named = crossed_difference_to_bcpd(both[0].exp(), both[1].exp(), y)["mse"]
    assert (row["mean"], row["low"]) == pytest.approx((named.mean, named.low), rel=1e-4)
    assert row["mean"] != pytest.approx(-row["mean"])  # the sign is that of the first minus the second


def results_of_images(folder: Path) -> dict[str, Any]:
    lines = (folder / "rows" / "images.jsonl").read_text().splitlines()
    found: dict[str, Any] = json.loads(lines[1])["rows"][0]
    return found


def test_values_are_means_over_seeds(ran: tuple[dict[str, Any], Path]) -> None:
    results, _ = ran
    own = [row["test_brier"] for row in results["rows"] if row["loss"] == "mse"]
    found = {(row["arm"], row["quantity"]): row for row in results["values"]}
    expected = mean_interval(own)
    row = found["mse", "brier"]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high), rel=1e-4
    )
    assert found["mse+T", "accuracy"] == found["mse", "accuracy"] | {"arm": "mse+T"}
    assert found["mse+T", "brier"]["mean"] != row["mean"]


def test_a_run_goes_on_with_what_it_has(ran: tuple[dict[str, Any], Path], no_training: Callable[[], None]) -> None:
    results, folder = ran
    no_training()
    again = run(small(), folder / "rows", processes=1, teachers=folder / "teachers")
    for key in ("rows", "search", "differences", "reading"):
        assert again[key] == results[key], key
    part = collect(small(seeds=3, nets=("resnet8x0.5", "resnet8"), losses=("ce", "mse")), folder / "rows")
    assert part["rows"] == [row for row in results["rows"] if row["loss"] != STARTED]
    assert "2 of 3 seeds have landed" in part["notes"][0]


def test_teachers_of_a_seed_share_everything_but_the_loss(ran: tuple[dict[str, Any], Path]) -> None:
    _, folder = ran
    specs: dict[str, list[Any]] = {}
    for path in (folder / "teachers").iterdir():
        spec = json.loads((path / "spec.json").read_text())
        specs.setdefault(json.dumps(spec["seeds"]), []).append(spec)
    assert sorted(map(len, specs.values())) == [3, 3, 6]  # two seeds, and the one that settings are chosen on
    for own in specs.values():
        for key in ("net", "source", "seeds"):
            assert len({json.dumps(spec[key]) for spec in own}) == 1, key
    assert len({spec["source"] for own in specs.values() for spec in own}) == 3


def test_a_table_takes_a_teacher_from_here(
    ran: tuple[dict[str, Any], Path], no_training: Callable[[], None], tmp_path: Path
) -> None:
    _, folder = ran
    no_training()
    spec = small()
    payload = {"stage": "tune", "net": "resnet8x0.5", "loss": "mse", "setting": [0.1, 5e-4], "epochs": 2}
    places = {"folder": str(tmp_path), "teachers": str(folder / "teachers"), "data": None}
    protocol = asdict(spec.protocol)
    (row,) = tables.work({**payload, **places, "protocol": protocol})
    (own,) = [r for r in ran[0]["search"] if (r["loss"], r["warm_up"]) == ("mse", 0.0)]
    assert row["score"] == own["score"]
    with pytest.raises(AssertionError, match="something was trained"):
        tables.work({**payload, **places, "protocol": protocol, "setting": [0.2, 5e-4]})


def test_what_makes_another_teacher_has_another_folder(tmp_path: Path) -> None:
    protocols = [small(execution=Execution(precision)).protocol for precision in ("float32", "bfloat16")]
    plain = {"net": "resnet20", "loss": "mse", "setting": [0.1, 5e-4, 0.0], "number": 0, "start_epochs": 1}
    payloads = [
        plain,
        {**plain, "setting": [0.1, 5e-4, 1.0]},
        {**plain, "loss": STARTED},
        {**plain, "loss": STARTED, "start_epochs": 2},
    ]
    places = Places(tmp_path, tmp_path, None)
    folders = [
        training.teacher_folder(places, stages.identity(protocol, payload))
        for protocol in protocols
        for payload in payloads
    ]
    assert len(set(folders)) == len(folders) == 8
    same = training.teacher_identity(protocols[0], training.Asked("resnet20", "mse", (0.1, 5e-4), 0))
    assert stages.identity(protocols[0], {**plain, "start_epochs": 3}) == same  # a start that it does not have


@pytest.mark.slow
def test_side_by_side_and_after_a_stop_the_rows_are_the_same(
    ran: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _ = ran
    spec = small(losses=("ce", STARTED), seeds=1)
    groups: list[int] = []
    right = training.fit_side_by_side

    def together(trainings: Any) -> Any:
        groups.append(len(trainings))
        return right(trainings)

    monkeypatch.setattr(training, "fit_side_by_side", together)

    def leave(stage: str, done: int, total: int) -> None:
        if stage.startswith("teachers") and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path, progress=leave, together=2)
    again = run(spec, tmp_path, together=2)
    assert groups == [2, 2, 2, 1]  # rates, warm-ups, teachers; and the one that was not stored
    mine = [row for row in results["rows"] if row["loss"] in spec.losses and row["seed"] == 0]
    assert again["rows"] == mine
    assert again["search"] == [row for row in results["search"] if row["loss"] in spec.losses]
    # one seed has values, and no interval
    assert {(row["low"], row["high"]) for row in again["differences"]} == {(-math.inf, math.inf)}
    assert any("one seed: no interval" in entry["text"] for entry in again["reading"])


def test_a_start_does_not_count_as_training_that_has_levelled_off(ran: tuple[dict[str, Any], Path]) -> None:
    results, _ = ran
    for row in results["rows"]:
        uniform = math.log(10) if row["loss"] == "ce" else 0.9
        assert row["left"] == pytest.approx(row["train_loss"] / uniform, rel=1e-4)
        if row["loss"] == STARTED:
            assert row["left"] < 1  # its one epoch of MSE gained something, and all of it
            assert row["late_gain"] == 1.0


def test_a_temperature_is_fitted_to_what_the_teacher_held_out(
    ran: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch, no_training: Callable[[], None]
) -> None:
    results, folder = ran
    seen: list[float] = []

    def spy(log_q: Tensor, y: Tensor, score: str) -> float:
        seen.append(float(-log_q.gather(1, y[:, None]).mean()))
        return 1.0

    monkeypatch.setattr(training, "fit_temperature", spy)
    no_training()
    (folder / "rows" / "teachers.jsonl").rename(folder / "rows" / "teachers.before")
    try:
        again = run(small(), folder / "rows", processes=1, teachers=folder / "teachers")
    finally:
        (folder / "rows" / "teachers.before").replace(folder / "rows" / "teachers.jsonl")
    assert seen == pytest.approx([row["validation_nll"] for row in results["rows"]], rel=1e-4)
    assert {row["temperature"] for row in again["rows"]} == {1.0}
    assert {row["temperature"] for row in results["rows"]} != {1.0}


@pytest.mark.slow
def test_a_loss_whose_rates_all_diverge_stops_nothing(tmp_path: Path) -> None:
    grids = {"ce": Grid((1e30, 1e31), (5e-4,)), "mse": Grid((0.1, 1e30), (5e-4,))}
    results = run(small(losses=("ce", "mse"), seeds=1, grids=grids, epochs=1), tmp_path, processes=1)
    lost = [row for row in results["search"] if math.isnan(row["score"])]
    assert [(row["loss"], row["rate"]) for row in lost] == [("ce", 1e30), ("ce", 1e31), ("mse", 1e30)]
    assert [(row["loss"], row["rate"]) for row in results["search"] if row["chosen"]] != []
    assert {row["loss"] for row in results["rows"]} == {"mse"}
    assert "Left out, resnet8x0.5 with CE: every rate diverged." in results["notes"]
    assert {(row["arm"], row["against"]) for row in results["differences"]} == {("mse+T", "mse")}
    assert STUDIES["teachers"](results)["tables"]


def test_words_have_the_numbers(ran: tuple[dict[str, Any], Path]) -> None:
    results, _ = ran
    topics = {entry["topic"] for entry in results["reading"]}
    assert topics == {"settings", "levelled", "closer"}
    notes = " ".join(results["notes"])
    assert "exactly 2/K = 1/5 of that of cross-entropy" in notes
    assert "MSE-from-CE: 1 epoch of cross-entropy" in notes
    assert f"{len(results_of_images(ran[1])['near_duplicates'])} of 60 test images" in notes


@pytest.mark.slow
def test_results_go_to_their_page(
    ran: tuple[dict[str, Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finish(ran[0], tmp_path) == 0
    assert "Is the MSE teacher closer to p*?" in capsys.readouterr().out
    (stored,) = read_results(tmp_path / "results.json")
    assert stored["kind"] == "teachers"
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"teachers-{name}.{kind}" for name in ("search", "closeness") for kind in ("png", "svg")
    }
    assert "What setting each loss wants" in (tmp_path / "report.html").read_text()


def test_the_command_line_plans_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "teachers", "--scale", "full", "--net", "resnet56,vgg8", "--loss", "ce,ls", "--plan"]
    assert cli.main([*command, "--seeds", "2", "--search-epochs", "10"]) == 0
    printed = capsys.readouterr().out
    assert f"trainings: {2 * (2 * 8 + 2 * 2)}" in printed
    assert f"epochs: {2 * (2 * 8 * 10 + 2 * 2 * 240)}" in printed
    for arguments, said in (
        (["--net", "resnet21"], "nets must be some of"),
        (["--together", "0"], "--together must be at least 1, received 0"),
        (["--so-far", "--out", str(tmp_path / "none")], "no trial of teachers"),
        (["--scale", "reduced", "--out", str(tmp_path)], "needs the folder of cifar100"),
        (["--graphs", "--out", str(tmp_path)], "needs CUDA, received device cpu"),
    ):
        assert cli.main(["run", "teachers", *arguments]) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")
    if not torch.cuda.is_available():
        assert cli.main(["run", "teachers", "--scale", "full", "--data", str(tmp_path)]) == 2
        assert "use --device cpu" in capsys.readouterr().err
