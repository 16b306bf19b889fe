"""The command line from outside: exit statuses, files, and sentences instead of tracebacks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bcpd import cli
from bcpd.mixtures import FAMILIES, FiniteMixture, paper_toy
from bcpd.theory import CLAIMS, Check
from bcpd.theory.mutants import MUTANTS


def _one_claim(holds: bool, role: str) -> Check:
    return Check.of(
        "risk-identity/ce/finite X",
        "a statement",
        "finite X",
        "ce",
        role,
        0.0 if holds else 1.0,
        0.5,
        claim="risk-identity",
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("checks", "status"),
    [
        ([(True, "claim"), (False, "control")], 0),
        ([(False, "claim"), (False, "control")], 1),
        ([(True, "claim"), (True, "control")], 1),
        ([], 1),
    ],
)
def test_verify_succeeds_only_if_claims_hold_and_controls_fail(
    checks: list[tuple[bool, str]], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(*_: object) -> Iterator[Check]:
        return iter([_one_claim(*check) for check in checks])

    monkeypatch.setattr("bcpd.theory.run_checks", few)
    monkeypatch.setattr("bcpd.report.sections.data_uri", lambda figure: "data:,")  # made, not drawn
    json_path, report = tmp_path / "verify.json", tmp_path / "report.html"
    command = ["verify", "--only", "risk-identity", "--json", str(json_path), "--report", str(report)]
    assert cli.main(command) == status
    stored = json.loads(json_path.read_text())
    assert stored["ok"] is (status == 0)
    assert len(stored["checks"]) == len(checks)
    for check in stored["checks"]:
        assert {"id", "statement", "world", "loss", "role", "value", "bound", "holds"} <= check.keys()
    assert "risk-identity" in report.read_text() or not checks


def test_verify_lists_claims_and_tries_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["verify", "--list", "--report", str(tmp_path / "report.html")]) == 0
    printed = capsys.readouterr().out
    assert all(claim.id in printed.replace("\n", "") for claim in CLAIMS)
    assert cli.main(["verify", "--list", "--only", "risk-identity"]) == 0
    printed = capsys.readouterr().out
    assert "risk-identity" in printed
    assert "own-metric" not in printed
    assert "dropped_constant: the constant E H(p*) is left out" in printed
    assert not list(tmp_path.iterdir())


def test_verify_tries_one_claim_in_a_users_mixture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, stored = tmp_path / "mine.json", tmp_path / "verify.json"
    mixture = FiniteMixture([0.3, 0.5, 0.2], [[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]])
    spec.write_text(json.dumps(mixture.spec()))
    command = ["verify", "--only", "risk-identity", "--mixture", str(spec), "--json", str(stored)]
    assert cli.main([*command, "--report", str(tmp_path / "report.html")]) == 0
    results = json.loads(stored.read_text())
    assert {check["claim"] for check in results["checks"]} == {"risk-identity"}
    assert {check["world"] for check in results["checks"]} == {str(spec)}
    assert results["mixture"] == str(spec)
    assert results["false_alarm"]["bound"] == 0
    assert "negative controls fail: verified" in capsys.readouterr().out


OWN_LOSSES = """
def quadratic(logits, target):
    q = logits.softmax(-1)
    return (q * q).sum(-1) - 2 * q.gather(-1, target[..., None]).squeeze(-1)

def cubic(logits, target):
    return (1 - logits.softmax(-1).gather(-1, target[..., None]).squeeze(-1)) ** 3

number = 3
"""


@pytest.mark.parametrize(("name", "status"), [("quadratic", 0), ("cubic", 1)])
def test_verify_tells_whether_a_users_loss_leads_to_p(
    name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_losses_of_a_user.py").write_text(OWN_LOSSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    command = ["verify", "--only", "minimiser-is-bayes", "--loss", f"own_losses_of_a_user:{name}"]
    assert cli.main([*command, "--json", "verify.json"]) == status
    checks = json.loads(Path("verify.json").read_text())["checks"]
    claims = [check for check in checks if check["control"] is None]
    assert claims
    assert all(check["holds"] is (status == 0) for check in claims)
    sys.modules.pop("own_losses_of_a_user")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "no-such-claim"], "no claim is called 'no-such-claim'; there are: risk-identity"),
        (["--mixture", "no-such-mixture"], "mixture must be one of"),
        (["--loss", "no-such-loss"], "--loss must be one of ce, mse"),
        (["--loss", "no_such_module:loss"], "cannot be imported: No module named"),
        (["--loss", "json:no_such_function"], "cannot be imported"),
        (
            ["--only", "own-metric", "--mixture", "finite"],
            "none of the claims asked for can be tried with this mixture",
        ),
    ],
)
def test_verify_says_what_it_cannot_try(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify", *arguments, "--report", str(tmp_path / "report.html")]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_verify_prints_the_kill_table_and_fails_for_a_survivor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = next(mutant for mutant in MUTANTS if mutant.check == "known-distance/finite/mse")
    survivor = replace(killed, name="without effect", new=killed.old + " * 1.0")
    for mutants, status in (([killed], 0), ([killed, survivor], 1)):
        monkeypatch.setattr("bcpd.theory.mutants.MUTANTS", mutants)
        command = ["verify", "--only", "known-distance", "--mutants", "--report", str(tmp_path / "report.html")]
        assert cli.main([*command, "--json", str(tmp_path / "verify.json")]) == status
        printed = capsys.readouterr().out
        assert f"1 of {len(mutants)} mutants are killed" in printed
        assert ("SURVIVED" in printed) is (status == 1)
        stored = json.loads((tmp_path / "verify.json").read_text())
        assert [entry["killed"] for entry in stored["mutants"]] == [True, False][: len(mutants)]


@pytest.mark.slow
def test_verify_runs_as_a_command_and_writes_its_report(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bcpd", "verify", "--json", "verify.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "negative controls fail: verified" in done.stdout
    stored = json.loads((tmp_path / "verify.json").read_text())
    assert stored["ok"] is True
    assert all(check["holds"] == (check["role"] == "claim") for check in stored["checks"])
    assert (tmp_path / "report.html").exists()


def test_sampled_points_measured_with_their_own_posterior_are_at_distance_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points, own, uniform = tmp_path / "points.npz", tmp_path / "own.npy", tmp_path / "uniform.csv"
    assert (
        cli.main(["sample", "--mixture", "gaussian-2d-shared", "--n", "500", "--seed", "3", "--out", str(points)]) == 0
    )
    with np.load(points, allow_pickle=False) as file:
        x = file["x"]
    mixture = FAMILIES["gaussian-2d-shared"]()
    assert np.array_equal(x, mixture.sample(500, 3)[0].numpy())
    np.save(own, mixture.posterior(x).numpy())
    np.savetxt(uniform, np.full((500, 3), 1 / 3), delimiter=",")
    result = tmp_path / "distance.json"
    assert cli.main(["measure", str(points), str(own), "--versus", str(uniform), "--json", str(result)]) == 0
    first, second, difference = json.loads(result.read_text()).values()
    assert first["mse"]["value"] == pytest.approx(0, abs=1e-25)
    expected = float((mixture.posterior(x) - 1 / 3).square().sum(-1).mean())
    assert second["mse"]["value"] == pytest.approx(expected, rel=1e-12)
    assert difference["mse"]["value"] == pytest.approx(-expected, rel=1e-9)
    assert "distance to p*" in capsys.readouterr().out


def test_a_mixture_from_a_spec_file(tmp_path: Path) -> None:
    spec, points = tmp_path / "mixture.json", tmp_path / "points.npz"
    spec.write_text(json.dumps(paper_toy(num_classes=3, seed=5).spec()))
    assert cli.main(["sample", "--mixture", str(spec), "--n", "50", "--out", str(points)]) == 0


MISTAKES = [
    (["sample", "--mixture", "nowhere", "--n", "5", "--out", "p.npz"], "mixture must be one of"),
    (["sample", "--mixture", "finite", "--n", "0", "--out", "p.npz"], "n must be"),
    (["sample", "--mixture", "finite", "--n", "5", "--out", "p.csv"], "written to an .npz file"),
    (["measure", "missing.npz", "q.npy"], "no file of points"),
    (["run", "quickstart", "--draws", "1"], "draws must be at least 2"),
    (["run", "real", "--dataset", "cifar100"], "needs the folder"),
    (["run", "real", "--dataset", "cifar10", "--data", "."], "cifar-10"),
    (["run", "real", "--dataset", "digits", "--rates", "ce"], "--rates must read LOSS=VALUE"),
    (["run", "real", "--dataset", "digits", "--rates", "l2=0.1"], "--rates knows the losses"),
    (["run", "real", "--dataset", "digits", "--teacher", "resnet9"], "unknown network 'resnet9'"),
    (["report", "nowhere"], "no results at nowhere"),
]


@pytest.mark.parametrize(("argv", "sentence"), MISTAKES, ids=[" ".join(argv) for argv, _ in MISTAKES])
def test_mistakes_are_answered_by_a_sentence_and_status_2(
    argv: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "argv", [[], ["fly"], ["verify", "--level", "half"], ["run"], ["run", "real", "--epochs", "x"]]
)
def test_bad_flags_give_status_2_and_the_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "usage: bcpd" in capsys.readouterr().err


def test_help_gives_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "verify" in capsys.readouterr().out


def test_wrong_probability_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = tmp_path / "points.npz"
    assert cli.main(["sample", "--mixture", "finite", "--n", "200", "--out", str(points)]) == 0
    for name, array, sentence in (
        ("logits.npy", np.full((200, 4), 3.0), "rows of probabilities"),
        ("short.npy", np.full((199, 4), 0.25), "must have shape (200, 4)"),
        ("objects.npy", np.array([{"a": 1}], dtype=object), "cannot read probabilities"),
        ("other.txt", np.full((200, 4), 0.25), "must end in .npy, .npz or .csv"),
    ):
        path = tmp_path / name
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=True)
        assert cli.main(["measure", str(points), str(path)]) == 2
        assert sentence in capsys.readouterr().err
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, a=np.zeros(3))
    assert cli.main(["measure", str(foreign), str(points)]) == 2
    assert "x, y and mixture" in capsys.readouterr().err


@pytest.mark.parametrize("study", ["figure1", "when-mse-wins"])
def test_a_study_prints_its_plan_and_starts_nothing(
    study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", study, "--scale", "full"]) == 0
    printed = capsys.readouterr().out
    assert f"plan of {study} --scale full" in printed
    assert "models" in printed
    assert "Nothing was started; add --go to start it." in printed
    assert cli.main(["run", study, "--scale", "smoke", "--plan"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["run", study, "--processes", "0"]) == 2
    assert "--processes must be at least 1, received 0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("study", ["figure1", "when-mse-wins"])
def test_a_study_runs_at_smoke_scale(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", study, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert len(list((tmp_path / "figures").glob("*.svg"))) >= 5
    assert json.loads((tmp_path / "results.json").read_text())["kind"] == study
    first = (tmp_path / "results.json").read_bytes()
    # what is finished is not run again, and comes out the same but for the seconds
    assert cli.main(["run", study, "--out", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "results.json").read_text())
    assert {**json.loads(first), "seconds": 0} == {**again, "seconds": 0}
    assert "Predictions registered before the laptop run" in capsys.readouterr().out


def test_draws_are_planned_from_a_spread(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["draws", "--effect", "0.002", "--sd", "0.004"]) == 0
    few = capsys.readouterr().out
    assert " 34 " in few
    assert cli.main(["draws", "--effect", "0.004", "--sd", "0.004"]) == 0
    assert " 10 " in capsys.readouterr().out
    assert cli.main(["draws", "--effect", "0", "--sd", "0.004"]) == 2
