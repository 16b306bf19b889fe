"""The benchmark of the posterior: what it compares is equal, and what it reports fits together."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from bcpd.bench import posterior
from bcpd.bench.posterior import run, sklearn_mixture
from bcpd.bench.timing import interleaved
from bcpd.cli import main
from bcpd.mixtures import GaussianMixture, paper_toy


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which everything but the process for memory runs in a second."""
    monkeypatch.setattr(posterior, "LAYOUT_NUMBERS", 2000)
    monkeypatch.setattr(posterior, "LAYOUT_CLASSES", (2, 60))
    monkeypatch.setattr(posterior, "matmul_rate", lambda: 1e11)
    monkeypatch.setattr(posterior, "copy_rate", lambda: 1e10)
    monkeypatch.setattr(posterior, "extra_memory", lambda prepare, action: 3_000_000)


@pytest.mark.parametrize("full", [False, True])
def test_scikit_learn_is_given_the_same_mixture(full: bool) -> None:
    mixture = paper_toy(4, 5)
    root = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixture = GaussianMixture(mixture.means, root @ root.T / 9 if full else 2.0, priors=[0.1, 0.2, 0.3, 0.4])
    x = mixture.sample(500, 0)[0]
    found = torch.from_numpy(sklearn_mixture(mixture).predict_proba(x.numpy()))
    torch.testing.assert_close(found, mixture.posterior(x), rtol=1e-10, atol=1e-12)
    other = torch.from_numpy(sklearn_mixture(mixture.misspecified(0.01)).predict_proba(x.numpy()))
    assert not torch.allclose(other, mixture.posterior(x), rtol=1e-10, atol=1e-12)
    single = sklearn_mixture(mixture, np.float32).predict_proba(x.float().numpy())
    assert single.dtype == np.float32


@pytest.mark.usefixtures("small")
def test_what_is_reported_fits_together() -> None:
    threads = torch.get_num_threads()
    said: list[str] = []
    results = run(2000, 1, lambda stage, done, total: said.append(stage))
    assert json.loads(json.dumps(results)) == results
    assert said == ["memory", "errors", "floor", "layouts", "full covariance", "growth", "main table"]
    assert torch.get_num_threads() == threads
    rows = {row["variant"]: row for row in results["rows"]}
    name = "cpu" if rows["float64"]["busy"] or rows["sklearn, float64"]["busy"] else "seconds"
    expected = rows["sklearn, float64"][name] / rows["float64"][name]
    assert results["sklearn_ratio_float64"] == pytest.approx(expected)
    assert {row["points"] for row in rows.values()} == {2000}
    assert results["extra_megabytes"]["float32, shifted"] == 3.0
    errors = dict(results["errors"])
    assert errors.pop("float64, from sklearn") < 1e-12
    assert len(errors) == 4
    assert 1e-9 < min(errors.values()) <= max(errors.values()) <= 2e-6
    assert [cell["points"] for cell in results["growth"]] == [20, 200, 2000] * 2
    assert {cell["chosen"] for cell in results["layouts"] if cell["classes"] == 60} == {"rows"}
    assert results["layout_worst"] == max(cell["relative"] for cell in results["layouts"]) >= 1
    assert results["floor"]["product_seconds"] == 2 * 2000 * 300 / 1e11
    assert results["floor"]["traffic_seconds"] == 4 * 2000 * 40 / 1e10


@pytest.mark.usefixtures("small")
def test_the_command_prints_the_ratios_and_writes_json(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "posterior.json"
    assert main(["bench", "posterior", "--points", "2000", "--rounds", "1", "--json", str(path)]) == 0
    stored = json.loads(path.read_text())
    printed = capsys.readouterr().out
    assert f"float32 {stored['sklearn_ratio_float32']:.1f} times" in printed
    assert "float32, shifted 3.0" in printed


@pytest.mark.parametrize(("points", "rounds"), [(999, 1), (1000, 0)])
def test_too_few_points_or_rounds_are_refused(points: int, rounds: int) -> None:
    with pytest.raises(ValueError, match=f"received {points} and {rounds}"):
        run(points, rounds)


def test_the_layout_that_is_taken_is_the_faster() -> None:
    """Without absolute times: columns at K = 10, rows at K = 100, both in float32."""
    found = {}
    for classes in (10, 100):
        mixture = paper_toy(classes, 30)
        x = mixture.sample(20_000, 0)[0].float()
        output = torch.zeros(len(x), classes)
        timings = interleaved(
            {
                "rows": partial(posterior._laid_out(mixture, "rows").fill, x, output, log=False),
                "columns": partial(posterior._laid_out(mixture, "columns").fill, x, output, log=False),
            },
            5,
        )
        found[classes] = min(timings["rows"].cpu_times) / min(timings["columns"].cpu_times)
    assert found[10] > 1.2
    assert found[100] < 1


@pytest.mark.slow
def test_ten_times_the_points_take_no_more_memory() -> None:
    found = posterior._memory(1_000_000)
    if None in found.values():
        pytest.skip("the system has no /proc/self/clear_refs")
    learned = found.pop("sklearn, 100,000 points")
    assert learned is not None
    assert learned > 10
    assert all(value is not None and value <= 8 for value in found.values()), found
