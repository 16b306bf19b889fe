"""The paper's tables: named specifications, statistics against scipy, and runs at toy size from plan to page."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats

from bcpd import cli
from bcpd.data import InMemory
from bcpd.distill import Supervised
from bcpd.losses import LOSSES, Loss
from bcpd.nets import NETS, build
from bcpd.report import build_report
from bcpd.train import Execution, Recipe, fit
from bcpd.train.graphs import CapturedSteps
from experiments.tables import EXPERIMENTS, SCALES, Tables, collect, plan, run, specification, tasks
from experiments.tables.analysis import ALL, TEACHER, differences, reading, values
from experiments.tables.methods import student_method, student_recipe
from experiments.tables.places import Places
from experiments.tables.planning import calibrate
from experiments.tables.reference import published_accuracy, published_network
from experiments.tables.spec import ARMS, LOGIT_METHODS, METHODS, Protocol
from experiments.tables.stages import levelled, train_together
from experiments.tables.training import Asked, teacher_folder, teacher_identity

SMALL = {"train": 80, "test": 60, "epochs": 1, "rates": dict.fromkeys(("ce", "mse", "ls"), (0.1,)), "validation": 0.2}


def small(experiment: str = "table1", **changes: Any) -> Tables:
    return specification(experiment, "smoke", **{"methods": ("kd",), **SMALL, **changes})


# ------------------------------------------------------------------------------------------------------ specifications


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_of_the_paper_has_its_sizes(experiment: str) -> None:
    for scale in SCALES:
        if (experiment, scale) == ("table3", "reduced"):
            with pytest.raises(ValueError, match="ImageNet has the scales smoke"):
                specification(experiment, scale)
            continue
        spec = specification(experiment, scale)
        assert {net for pair in spec.pairs for net in pair} <= set(NETS)
        assert json.loads(json.dumps(spec.describe()))["experiment"] == experiment
    full = specification(experiment, "full")
    assert full.pairs == EXPERIMENTS[experiment].pairs
    assert full.protocol.device == "cuda"


def test_fields_of_both_parts_can_be_replaced() -> None:
    spec = specification("table1", "reduced", epochs=3, seeds=7, methods=("at",), pairs=(("vgg13", "vgg8"),))
    assert (spec.protocol.epochs, spec.seeds, spec.methods, spec.pairs) == (3, 7, ("at",), (("vgg13", "vgg8"),))
    assert spec.protocol.train == 10_000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"methods": ("kd", "abc")}, "abc"),
        ({"methods": ("kd", "kd")}, "each once"),
        ({"teachers": ("ce", "t")}, "teachers must be some of"),
        ({"pairs": ()}, "pairs must be one or more"),
        ({"seeds": 0}, "seeds must be >= 1"),
        ({"shares": (0.5, 1.0)}, "where nothing is partial"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"validation": 0.0}, r"a share in \(0, 1\)"),
        ({"dataset": "moon"}, "dataset must be one of"),
        ({"device": "gpu"}, "device must be cpu, cuda or cuda:N, received 'gpu'"),
        ({"dataset": "imagenet", "table": True}, "a table of the teacher: for images held in memory"),
        ({"dataset": "imagenet", "execution": Execution(graphs=True)}, "graphs: for images held in memory"),
        ({"rates": {"ce": (0.1,)}}, "a grid for mse"),
        ({"colour": 3}, "has no colour"),
        ({"dataset": "imagenet", "partial": "labels"}, "not for ImageNet"),
    ],
)
def test_a_wrong_specification_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        specification("table1", "smoke", **changes)


@pytest.mark.parametrize("names", [("table9", "smoke"), ("table1", "huge")])
def test_an_unknown_experiment_or_scale_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="table1, table2, table3, table4, figure2, fewshot and scale one of smoke"):
        specification(*names)


@pytest.fixture(scope="module")
def nets() -> tuple[Any, Any, InMemory]:
    source = InMemory(torch.zeros(40, 1, 8, 8), torch.arange(40) % 10, num_classes=10)
    student, teacher = (build("resnet8x0.5", num_classes=10, input_shape=(1, 8, 8), seed=seed) for seed in (0, 1))
    return student, teacher, source


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_that_see_logits_are_those_that_a_temperature_changes(
    method: str, nets: tuple[Any, Any, InMemory]
) -> None:
    student, teacher, source = nets
    built = student_method(Protocol("digits"), method, student, teacher, source, 0, 0.1, {})
    assert ("teacher.logits" in built.needs) == (method in LOGIT_METHODS)
    arms = replace(small(), teachers=tuple(ARMS)).arms_of(method)
    assert arms == (list(ARMS) if method in LOGIT_METHODS else ["ce", "mse", "ls"])


def test_warm_ups_and_phases_are_scaled_to_the_epochs(nets: tuple[Any, Any, InMemory]) -> None:
    student, teacher, source = nets

    def made(method: str, epochs: int) -> Any:
        return student_method(Protocol("digits", epochs=epochs), method, student, teacher, source, 0, 0.1, {})

    assert [made("dkd", epochs).warm_up for epochs in (240, 120, 15, 2)] == [20, 10, 1, 0]
    assert [made("reviewkd", epochs).warm_up for epochs in (240, 60)] == [20, 5]
    assert [made("hsakd", epochs).head_epochs for epochs in (240, 24, 1)] == [100, 10, 1]


def test_a_temperature_alone_is_refused_for_methods_that_do_not_see_it() -> None:
    with pytest.raises(ValueError, match=r"at which at, rkd do not look: their students of ce\+T are those of ce"):
        replace(small(), methods=("kd", "at", "rkd"), teachers=("ce+T", "mse"))
    assert replace(small(), methods=("kd", "dkd"), teachers=("ce+T",)).teachers == ("ce+T",)
    assert replace(small(), methods=("at",), teachers=("ce", "ce+T")).arms_of("at") == ["ce"]


def test_methods_have_their_own_recipes_and_the_weights_of_their_pair() -> None:
    protocol = Protocol("cifar100", epochs=15)
    assert student_recipe(protocol, "reviewkd", "mobilenetv2", 0.1).learning_rate == 0.02
    assert student_recipe(protocol, "reviewkd", "mobilenetv2", 0.1, "resnet50").learning_rate == 0.01
    assert student_recipe(protocol, "kd", "resnet8", 0.1).batch_size == 64
    assert student_recipe(protocol, "reviewkd", "resnet8", 0.1).batch_size == 128
    assert student_recipe(protocol, "hsakd", "resnet8", 0.1).nesterov
    assert student_recipe(protocol, "kd", "mobilenetv2", 0.1).learning_rate == 0.01
    natural = Protocol("imagenet", epochs=100)
    assert student_recipe(natural, "dkd", "imagenet_resnet18", 0.02).batch_size == 512
    assert student_recipe(natural, "hsakd", "imagenet_resnet18", 0.02).learning_rate == 0.1


def test_a_pair_that_nothing_was_published_for_has_the_weights_of_its_stand_in() -> None:
    source = InMemory(torch.zeros(20, 3, 32, 32), torch.arange(20) % 10, num_classes=10)

    def made(method: str, teacher: str, student: str) -> Any:
        first, second = (build(net, num_classes=10, input_shape=(3, 32, 32)) for net in (student, teacher))
        return student_method(Protocol("cifar100"), method, first, second, source, 0, 0.1, {})

    assert made("dkd", "resnet20", "resnet8").beta == made("dkd", "resnet56", "resnet20").beta == 2
    assert made("reviewkd", "resnet20", "resnet8").weight == 0.6
    assert made("dkd", "resnet20", "resnet14").beta == 8


# ------------------------------------------------------------------------------------------------------------ teachers


def test_a_teacher_is_the_same_for_every_experiment_that_asks_for_it(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path / "teachers", None)

    def folder(experiment: str, share: float = 1.0, **changes: Any) -> Path:
        protocol = specification(experiment, "reduced", **changes).protocol
        return teacher_folder(places, teacher_identity(protocol, Asked("resnet20", "ce", (0.1, 5e-4), 0, share=share)))

    same = folder("table1")
    assert folder("figure2") == folder("fewshot", share=0.25) == same
    assert folder("table1", test=100, smoothing=0.2) == same  # neither is part of a CE teacher
    others = [
        folder("table4"),
        folder("table1", epochs=16),
        folder("table1", train=9000),
        folder("table1", seed=1),
        folder("table1", execution=Execution("bfloat16")),
        folder("figure2", share=0.25, teacher_sees="share"),
        folder("fewshot", share=0.25, teacher_sees="share"),
    ]
    assert len({same, *others}) == 8


@pytest.mark.parametrize("right", [True, False])
def test_the_scale_of_a_loss_is_a_rate_and_a_decay(right: bool) -> None:
    """4 times the loss at rate 0.05 and decay 0.02 is the loss at rate 0.2 and decay 0.005; the decay must go along."""
    x = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    source = InMemory(x, (x.sum(-1) > 0).long(), num_classes=2, dtype=torch.float64)
    mse = LOSSES["mse"]
    four: Loss = replace(mse, name="four", function=lambda logits, target: 4 * mse.function(logits, target))

    def trained(loss: Loss, rate: float, decay: float) -> torch.Tensor:
        net = build("mlp", num_classes=2, input_shape=(3,), hidden=(5,), seed=0).double()
        recipe = Recipe(3, rate, batch_size=16, weight_decay=decay, validation=0.1)
        fitted = fit(net, source, Supervised(loss), recipe, seed=0)
        return torch.cat([p.detach().flatten() for p in fitted.net.parameters()])

    gap = trained(four, 0.05, 0.02) - trained(mse, 0.2, 0.005 if right else 0.02)
    assert (float(gap.abs().max()) < 1e-12) == right


@pytest.mark.parametrize(
    ("losses", "late", "under_trained"),
    [
        ([1.0, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 0.0, False),
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.3, 0.2], 0.2 / 1.8, True),  # still falling
        ([2.0] * 10, 1.0, True),  # nothing was learned
        ([1.9, *[1.8] * 9], 0.0, True),  # levelled off near the uniform prediction
        ([0.4], 1.0, True),  # one epoch says nothing
    ],
)
def test_a_teacher_that_has_not_levelled_off_is_under_trained(
    losses: list[float], late: float, under_trained: bool
) -> None:
    found = levelled(losses, uniform=2.0)
    assert found["late_gain"] == pytest.approx(late, rel=1e-5)
    assert found["left"] == pytest.approx(losses[-1] / 2)
    assert found["under_trained"] is under_trained


# ---------------------------------------------------------------------------------------------------------- statistics

PAIR = ("resnet8x0.5", "resnet8x0.5")
GAPS = {"kd": (0.02, 0.03, 0.025), "at": (-0.01, 0.02, 0.0), "sp": (-0.03, -0.028, -0.035)}


def made_up(seeds: int = 3) -> tuple[Tables, list[dict[str, Any]], list[dict[str, Any]]]:
    spec = small(methods=tuple(GAPS), seeds=seeds)
    teachers, students = [], []
    for seed in range(seeds):
        for checkpoint, shift in (("last", 0.0), ("best_accuracy", 0.001)):
            about = {"share": 1.0, "seed": seed, "checkpoint": checkpoint}
            for arm in ("ce", "mse"):
                lower = 0.01 * (arm == "mse") * (1 + 0.1 * seed)
                teachers.append(about | {"net": PAIR[0], "arm": arm, "test_accuracy": 0.9 - lower + shift})
                for method, gaps in GAPS.items():
                    accuracy = 0.7 + 0.05 * seed + (gaps[seed] if arm == "mse" else 0.0) + shift
                    row = {"pair": list(PAIR), "method": method, "arm": arm, "test_accuracy": accuracy}
                    students.append(about | row)
    return spec, teachers, students


def test_differences_are_paired_over_seeds_with_holm_over_methods() -> None:
    spec, teachers, students = made_up()
    found = {row["method"]: row for row in differences(spec, teachers, students) if row["checkpoint"] == "last"}
    p_values = {}
    for method, gaps in GAPS.items():
        expected = stats.ttest_1samp(gaps, 0.0)
        low, high = expected.confidence_interval(0.95)
        row = found[method]
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((sum(gaps) / 3, low, high), rel=1e-5)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-5)
        p_values[method] = expected.pvalue
    order = sorted(p_values, key=p_values.__getitem__)
    adjusted = [min(1.0, (3 - place) * p_values[method]) for place, method in enumerate(order)]
    for place, method in enumerate(order):
        assert found[method]["p_holm"] == pytest.approx(max(adjusted[: place + 1]), rel=1e-5)
    each = [sum(gaps[seed] for gaps in GAPS.values()) / 3 for seed in range(3)]
    assert found[ALL]["p"] == pytest.approx(stats.ttest_1samp(each, 0.0).pvalue, rel=1e-4)
    assert found[ALL]["p_holm"] is None
    assert found[TEACHER]["mean"] == pytest.approx(-0.011, rel=1e-5)
    # unpaired, the seeds' own spread would hide the effect
    ce, mse = ([r["test_accuracy"] for r in students if (r["method"], r["arm"]) == ("kd", a)] for a in ("ce", "mse"))
    assert stats.ttest_ind(mse, ce).pvalue > 0.05 > found["kd"]["p"]


def test_a_part_of_the_rows_is_a_table_of_the_seeds_that_are_there() -> None:
    spec, teachers, students = made_up()
    part = [row for row in students if row["seed"] == 0 or (row["seed"], row["method"]) in ((1, "kd"), (1, "at"))]
    part = [row for row in part if (row["seed"], row["method"], row["arm"]) != (1, "at", "mse")]
    found = {row["method"]: row for row in differences(spec, teachers, part) if row["checkpoint"] == "last"}
    assert {method: row["n"] for method, row in found.items()} == {"kd": 2, "at": 1, "sp": 1, ALL: 1, TEACHER: 3}
    assert found["at"]["mean"] == pytest.approx(-0.01, rel=1e-4)
    assert found["at"]["p_holm"] is None
    measured = values(spec, teachers, part)
    (row,) = [r for r in measured if (r.get("method"), r["arm"], r["checkpoint"]) == ("at", "ce", "last")]
    assert row["n"] == 2
    assert row["mean"] == pytest.approx(0.725)


def test_the_reading_counts_the_sides_of_the_intervals() -> None:
    spec, teachers, students = made_up()
    sentences = reading(spec, differences(spec, teachers, students), values(spec, teachers, students))
    text = " ".join(entry["text"] for entry in sentences)
    assert "more accurate in 1 (kd) and less accurate in 1 (sp); 1 cannot be decided" in text
    assert "MSE 88.90 [" in text


@pytest.mark.parametrize(
    ("pair", "method", "accuracy"),
    [
        (("wrn_40_2", "wrn_16_2"), "kd", 74.92),
        (("vgg13", "vgg8"), "pkt", 72.88),
        (("resnet110", "resnet32"), "crd", 73.48),
        (("resnet50", "mobilenetv2"), "at", 58.58),
        (("wrn_40_2", "shufflenetv1"), "crd", 76.05),
        (("resnet110", "resnet20"), "dkd", 71.06),
        (("resnet110", "resnet20"), "reviewkd", None),
        (("resnet56", "resnet20"), "hsakd", 72.58),
        (("resnet50", "mobilenetv2"), "hsakd", None),  # of another MobileNetV2
        (("resnet20", "resnet8"), "kd", None),
    ],
)
def test_published_accuracies_are_found_by_pair_and_method(
    pair: tuple[str, str], method: str, accuracy: float | None
) -> None:
    found = published_accuracy("cifar100", pair, method)
    assert (None if found is None else found.accuracy) == accuracy
    assert published_accuracy("cifar10-2x5", pair, method) is None


def test_published_networks_belong_to_a_data_set() -> None:
    small_net, large = published_network("cifar100", "resnet50"), published_network("imagenet", "imagenet_resnet50")
    assert small_net is not None
    assert large is not None
    assert (small_net.accuracy, large.accuracy) == (79.34, 76.16)
    assert published_network("imagenet", "resnet50") is None
    pair = ("imagenet_resnet34", "imagenet_resnet18")
    known = published_accuracy("imagenet", pair, "dkd")
    assert known is not None
    assert known.accuracy == 71.70


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("table1")
    return run(small(seeds=1), folder / "rows", processes=1, teachers=folder / "teachers"), folder


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was trained")

    return lambda: monkeypatch.setattr(sys.modules["bcpd.train.fit"], "Trainer", refuse)


def test_a_run_has_teachers_students_and_one_without_a_teacher(ran: tuple[dict[str, Any], Path]) -> None:
    results, folder = ran
    rows = {(r["role"], r.get("method"), r["arm"], r["checkpoint"]) for r in results["rows"]}
    both = ("last", "best_accuracy")
    expected = {("teacher", None, arm, checkpoint) for arm in ("ce", "mse") for checkpoint in both}
    expected |= {("teacher", None, arm, "last") for arm in ("ce+T", "mse+T")}
    expected |= {("student", "kd", arm, checkpoint) for arm in ("ce", "mse") for checkpoint in both}
    expected |= {("student", "scratch", "labels", checkpoint) for checkpoint in both}
    assert rows == expected
    assert all(0 <= row["test_accuracy"] <= 1 for row in results["rows"])
    # two losses, tuned on a seed of its own and trained on seed 0
    assert len(list((folder / "teachers").iterdir())) == 4


def test_a_run_goes_on_with_what_it_has(ran: tuple[dict[str, Any], Path], no_training: Callable[[], None]) -> None:
    results, folder = ran
    no_training()
    again = run(small(seeds=1), folder / "rows", processes=1, teachers=folder / "teachers")
    assert again["rows"] == results["rows"]
    # what has landed of a larger run is a table of fewer seeds, and can be read while that goes on
    part = collect(small(seeds=3, methods=("kd", "at")), folder / "rows")
    assert part["rows"] == results["rows"]
    assert "1 of 3 seeds have landed" in part["notes"][0]


@pytest.mark.slow
def test_side_by_side_the_rows_are_the_same(ran: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """And the networks behind them; students of one teacher are next to each other."""
    _, folder = ran
    options: dict[str, Any] = {"methods": ("kd", "sp"), "teachers": ("ce", "mse", "mse+T"), "seeds": 1}
    groups: list[list[tuple[str, str]]] = []

    def told(given: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        groups.append([(one.get("method", one["stage"]), one.get("arm", one.get("loss", ""))) for one in given])
        return train_together(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "train_together", told)
        together = run(small(**options), tmp_path, together=3)
    alone = run(small(**options), folder / "rows", processes=1, teachers=folder / "teachers")
    assert together["rows"] == alone["rows"]
    assert groups[-2:] == [
        [("kd", "ce"), ("sp", "ce"), ("kd", "mse")],
        [("sp", "mse"), ("kd", "mse+T"), ("scratch", "labels")],
    ]


@pytest.mark.slow
def test_students_look_their_teacher_s_logits_up(tmp_path: Path) -> None:
    """The same students up to rounding, at every view and with a temperature; who sees maps has the teacher itself."""
    spec = small(methods=("kd", "sp"), teachers=("mse", "mse+T"), seeds=1)
    teachers = tmp_path / "teachers"
    live = run(spec, tmp_path / "live", teachers=teachers, processes=1)
    tabled = replace(spec, protocol=replace(spec.protocol, table=True))
    found = run(tabled, tmp_path / "tabled", teachers=teachers, processes=1)
    names = ("method", "arm", "checkpoint")
    for row, own in zip(found["rows"], live["rows"], strict=True):
        assert [row.get(name) for name in names] == [own.get(name) for name in names]
        assert row["train_loss"] == pytest.approx(own["train_loss"], rel=1e-4)
    last = {(row["method"], row["arm"]): row["train_loss"] for row in live["rows"] if row.get("method")}
    assert abs(last["kd", "mse"] / last["kd", "mse+T"] - 1) > 1e-3  # another table would be noticed
    described = {
        method: json.loads(next((tmp_path / "tabled" / "students").glob(f"*/{method}-mse/*/spec.json")).read_text())
        for method in ("kd", "sp")
    }
    assert described["kd"]["table"]["views"] == ["logits"]
    assert "table" not in described["sp"]


@pytest.mark.gpu
@pytest.mark.parametrize("number", [1, 3])
def test_on_cuda_captured_students_look_logits_up(tmp_path: Path, number: int) -> None:
    spec = small(methods=("kd", "dkd", "sp"), teachers=("mse", "mse+T"), seeds=1, device="cuda")
    fast = replace(spec, protocol=replace(spec.protocol, table=True, execution=Execution(graphs=True)))
    rows = run(fast, tmp_path / "fast", together=number)["rows"]
    for row, own in zip(rows, run(spec, tmp_path / "eager", together=1)["rows"], strict=True):
        assert row["train_loss"] == pytest.approx(own["train_loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3])
def test_a_table_is_whole_before_a_step_is_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Without a GPU: steps run as they are, but under the rules of captured ones."""
    monkeypatch.setattr(Execution, "check", lambda self, device: None)

    class AsTheyAre(CapturedSteps):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, graph=lambda work: SimpleNamespace(replay=work))  # type: ignore[arg-type, return-value]

    monkeypatch.setattr("bcpd.train.trainer.CapturedSteps", AsTheyAre)
    spec = small(methods=("kd",), teachers=("mse",), seeds=1, table=True, execution=Execution(graphs=True))
    found = run(spec, tmp_path, together=number, processes=1)
    assert [row["arm"] for row in found["rows"] if row.get("method") == "kd"] == ["mse", "mse"]


def test_students_of_two_losses_share_everything_but_the_teacher(ran: tuple[dict[str, Any], Path]) -> None:
    _, folder = ran
    students = folder / "rows" / "students" / f"{PAIR[0]}-{PAIR[1]}"
    specs = [json.loads((students / f"kd-{arm}" / "1-0" / "spec.json").read_text()) for arm in ("ce", "mse")]
    for key in ("net", "source", "seeds", "recipe", "method"):
        assert specs[0][key] == specs[1][key], key
    assert specs[0]["teacher"] != specs[1]["teacher"]


@pytest.mark.slow
def test_another_experiment_reads_the_same_teachers_back(ran: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, folder = ran
    before = {path.name for path in (folder / "teachers").iterdir()}
    marks = {name: (folder / "teachers" / name / "done.json").stat().st_mtime_ns for name in before}
    spec = small("figure2", seeds=1, shares=(0.5, 1.0), validation=0.2)
    results = run(spec, tmp_path / "rows", processes=1, teachers=folder / "teachers")
    assert {path.name for path in (folder / "teachers").iterdir()} == before
    assert marks == {name: (folder / "teachers" / name / "done.json").stat().st_mtime_ns for name in before}
    shares = {row["share"] for row in results["rows"] if row["role"] == "student"}
    assert shares == {0.5, 1.0}
    page = build_report([results])
    assert "50% of the labels" in page
    assert "Accuracy by what the student has" in page


def test_a_method_that_refuses_says_so_and_leaves_the_others(tmp_path: Path) -> None:
    spec = small("table4", seeds=1, methods=("kd", "dkd"), teachers=("ce",))
    results = run(spec, tmp_path, processes=1)
    assert {row["method"] for row in results["refused"]} == {"dkd"}
    assert any("DKD" in note and "K >= 3" in note for note in results["notes"])
    assert {row.get("method") for row in results["rows"] if "refused" not in row} == {None, "scratch", "kd"}


def test_settings_are_tuned_rates_first(tmp_path: Path) -> None:
    grids = {"rates": {"ce": (0.01, 0.1)}, "decays": {"ce": (0.0, 1e-3, 1e-2)}}
    results = run(small(seeds=1, teachers=("ce",), **grids), tmp_path, processes=1)
    tried = [(trial["learning_rate"], trial["weight_decay"]) for trial in results["tuning"]]
    (chosen,) = [trial for trial in results["tuning"] if trial["chosen"]]
    assert tried[:2] == [(0.01, 1e-3), (0.1, 1e-3)]
    assert tried[2:] == [(tried[2][0], 0.0), (tried[2][0], 1e-2)]
    assert chosen["mean"] == min(trial["mean"] for trial in results["tuning"])
    assert any("edge of the grid" in note for note in results["notes"])  # a grid of two rates is all edge
    assert not results["differences"]


def test_data_that_are_needed_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the folder of cifar100"):
        run(specification("table1", "reduced"), tmp_path)
    with pytest.raises(ValueError, match="no student of table1"):
        collect(small(), tmp_path)


def test_the_plan_counts_what_a_run_would_do(tmp_path: Path) -> None:
    spec = small(seeds=3, methods=("kd", "at"), teachers=("ce", "mse", "ce+T"))
    found = plan(spec, tmp_path, processes=2)
    stages = {row["stage"]: row for row in found["stages"]}
    assert stages["tuning of resnet8x0.5"]["runs"] == 2
    assert stages["teachers resnet8x0.5"]["runs"] == 3 * 2
    assert stages["resnet8x0.5-resnet8x0.5/kd"]["runs"] == 3 * 3
    assert stages["resnet8x0.5-resnet8x0.5/at"]["runs"] == 3 * 2
    assert found["runs"] == 2 + 6 + 3 + 9 + 6
    assert found["hours"] == pytest.approx(found["process_hours"] / 2)
    assert found["process_hours"] == pytest.approx(sum(row["hours"] for row in found["stages"]))
    kept = json.loads((tmp_path / "calibration.json").read_text())
    again = plan(spec, tmp_path, processes=2)
    assert json.loads((tmp_path / "calibration.json").read_text()) == kept
    assert again["process_hours"] == found["process_hours"]  # nothing was timed again


def test_a_memory_is_planned_for_all_examples(tmp_path: Path) -> None:
    """CRD keeps two rows of 128 float32 an example; the plan counts five copies of all that is kept."""
    few, many = (calibrate(small(methods=("kd", "crd"), train=train), tmp_path) for train in (300, 1300))
    name = "resnet8x0.5-resnet8x0.5/crd"
    assert many[name].fixed_bytes - few[name].fixed_bytes == 5 * 2 * 1000 * 128 * 4
    assert len(json.loads((tmp_path / "calibration.json").read_text())) == 2


def test_the_command_line_plans_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "table1", "--method", "kd", "--seeds", "2", "--tuning-epochs", "7", "--train", "100"]
    assert cli.main([*command, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "hours" in printed
    assert "runs: 16" in printed  # 6 that tune, 4 teachers, 2 students without and 4 with a teacher
    if not torch.cuda.is_available():
        assert cli.main(["plan", "table1", "--scale", "full"]) == 2
        assert "use --device cpu" in capsys.readouterr().err
    for arguments, said in (
        (["run", "table1", "--pair", "resnet20"], "--pair must be TEACHER-STUDENT"),
        (["run", "table1", "--method", "nonsense"], "methods must be some of"),
        (["run", "table1", "--so-far", "--out", str(tmp_path / "none")], "no student of table1"),
        (["run", "table1", "--scale", "reduced", "--out", str(tmp_path)], "needs the folder of cifar100"),
    ):
        assert cli.main(arguments) == 2
        assert said in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_a_teacher_may_have_the_share_that_its_student_has(tmp_path: Path) -> None:
    spec = small("figure2", seeds=1, shares=(0.5, 1.0), teachers=("ce",), teacher_sees="share")
    results = run(spec, tmp_path, processes=1)
    teachers = [row for row in results["rows"] if (row["role"], row["arm"]) == ("teacher", "ce")]
    assert {row["share"] for row in teachers} == {0.5, 1.0}
    assert len(list((tmp_path / "teachers").iterdir())) == 3  # one for tuning, and one a share
    assert any("with the labels that its student has" in note for note in results["notes"])


@pytest.mark.slow
def test_smoke_runs_every_method_with_every_teacher(tmp_path: Path) -> None:
    spec = specification("table1", "smoke", seeds=1, epochs=1, teachers=tuple(ARMS))
    results = run(spec, tmp_path, processes=1)
    assert not results["refused"]
    done = {(row["method"], row["arm"]) for row in results["rows"] if row["role"] == "student"}
    assert done == {("scratch", "labels"), *((m, arm) for m in METHODS for arm in spec.arms_of(m))}
    page = build_report([results])
    assert "mean over methods" in page
    assert "HSAKD" in page
