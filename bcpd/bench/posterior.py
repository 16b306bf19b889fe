r"""``bcpd bench posterior``: exact p* of many points of the K = 10, d = 30 mixture, against scikit-learn's.

One thread. Every variant computes the probabilities of all points; points are made before. ``sklearn`` is
``GaussianMixture.predict_proba`` with the mixture's own parameters: in double precision, as a fit leaves them, and with
parameters and points in single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from bcpd.bench.timing import Timing, clock, copy_rate, extra_memory, interleaved, machine, matmul_rate
from bcpd.mixtures import GaussianMixture, paper_toy
from bcpd.mixtures.linear import LinearPosterior
from bcpd.seeds import generator

__all__ = ["run"]

CLASSES, DIMENSION = 10, 30
SHIFT = 1000.0
CHECKED = 1_000_000  # points whose errors are taken
LAYOUT_NUMBERS = 4_000_000  # logits of a cell of the table of layouts
LAYOUT_CLASSES = (2, 5, 10, 12, 15, 16, 20, 32, 50, 51, 64, 100, 1000)

Report = Callable[[str, int, int], None]
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def run(points: int = 10_000_000, rounds: int = 3, progress: Report | None = None) -> dict[str, Any]:
    """Measure; see the module.

    Args:
        points: of the main table, at least 1000; ten million need 9 GB, most of them scikit-learn's.
        rounds: of every table, at least 1; each variant is timed once in each.
        progress: told ``(stage, done, total)``.
    Returns:
        JSON-able: ``rows`` of the main table; how many times scikit-learn's time ours is, ``sklearn_ratio_float64``
        and ``sklearn_ratio_float32`` (both against double precision), ``sklearn_single_ratio`` (single against
        single), ``full_ratio_float64`` and ``full_ratio_float32`` (one full covariance); ``extra_megabytes`` beyond
        the points and the output; ``errors`` (largest difference of a probability); ``growth`` with N; ``layouts`` by
        K; ``floor``: the machine's rates and what the work takes at them. On a ``busy`` machine ratios are of CPU time
        (``clock``).
    Raises:
        ValueError: fewer points or rounds.
    """
    if points < 1000 or rounds < 1:
        raise ValueError(f"points must be at least 1000 and rounds at least 1, received {points} and {rounds}")
    report = progress or _silent
    stages: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
        ("memory", lambda: {"extra_megabytes": _memory(points)}),
        ("errors", lambda: {"errors": _errors(min(points, CHECKED))}),
        ("floor", lambda: {"floor": {"matmul_flops": matmul_rate(), "copy_bytes": copy_rate()}}),
        ("layouts", lambda: _layouts(rounds)),
        ("full covariance", lambda: _full_covariance(max(points // 10, 1000), rounds)),
        ("growth", lambda: _growth(points, rounds)),
        ("main table", lambda: _main_table(points, rounds)),
    )
    with _one_thread():
        results: dict[str, Any] = {"kind": "bench posterior", "points": points, "rounds": rounds, "before": machine()}
        for done, (name, stage) in enumerate(stages):
            report(name, done, len(stages))
            results |= stage()
        results["after"] = machine()
    _set_floor(results)
    return results


def _silent(stage: str, done: int, total: int) -> None:
    pass


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------------- variants


def sklearn_mixture(mixture: GaussianMixture, dtype: type = np.float64) -> Any:
    """scikit-learn's mixture of the same components: spherical for a variance, of full covariances for a matrix."""
    from sklearn.mixture import GaussianMixture as SklearnMixture

    full = mixture.covariance.ndim == 2
    found = SklearnMixture(mixture.num_classes, covariance_type="full" if full else "spherical")
    covariances = mixture.covariance.expand(mixture.num_classes, *mixture.covariance.shape).numpy()
    # as a fit computes them: upper triangular P with P P^T = Sigma^-1
    roots = np.linalg.inv(np.linalg.cholesky(covariances)).transpose(0, 2, 1) if full else 1 / np.sqrt(covariances)
    found.weights_, found.means_ = mixture.priors.numpy().astype(dtype), mixture.means[:, 0].numpy().astype(dtype)
    found.covariances_, found.precisions_cholesky_ = covariances.astype(dtype), np.ascontiguousarray(roots, dtype)
    return found


def _shifted(mixture: GaussianMixture) -> GaussianMixture:
    return GaussianMixture(mixture.means + SHIFT, mixture.covariance, priors=mixture.priors)


def _main_table(points: int, rounds: int) -> dict[str, Any]:
    mixture = paper_toy(CLASSES, DIMENSION)
    double = mixture.sample(points, seed=0)[0]
    single = double.float()
    outputs = {name: torch.zeros(points, CLASSES, dtype=dtype) for name, dtype in DTYPES.items()}
    learned, learned_single = sklearn_mixture(mixture), sklearn_mixture(mixture, np.float32)
    variants = {
        "sklearn, float64": lambda: learned.predict_proba(double.numpy()),
        "sklearn, float32": lambda: learned_single.predict_proba(single.numpy()),
        "float64": lambda: mixture.posterior(double),
        "float64, out=": lambda: mixture.posterior(double, out=outputs["float64"]),
        "float32": lambda: mixture.posterior(single, dtype=torch.float32),
        "float32, out=": lambda: mixture.posterior(single, dtype=torch.float32, out=outputs["float32"]),
    }
    timings = interleaved(variants, rounds)
    return {
        "clock": clock(timings),
        "busy": clock(timings) == "cpu",
        "rows": [{"variant": name, "points": points, **timing.record()} for name, timing in timings.items()],
        "sklearn_ratio_float64": _ratio(timings, "sklearn, float64", "float64"),
        "sklearn_ratio_float32": _ratio(timings, "sklearn, float64", "float32"),
        "sklearn_single_ratio": _ratio(timings, "sklearn, float32", "float32"),
    }


def _ratio(timings: dict[str, Timing], slow: str, fast: str) -> float:
    if clock({slow: timings[slow], fast: timings[fast]}) == "cpu":
        return timings[slow].cpu / timings[fast].cpu
    return timings[slow].median / timings[fast].median


def _full_covariance(points: int, rounds: int) -> dict[str, Any]:
    mixture = paper_toy(CLASSES, DIMENSION)
    root = torch.randn(DIMENSION, 2 * DIMENSION, dtype=torch.float64, generator=generator(0, "bench", "covariance"))
    # of the same variance, half of it correlated
    correlated = root @ root.T / (2 * DIMENSION)
    covariance = mixture.covariance / 2 * (torch.eye(DIMENSION, dtype=torch.float64) + correlated)
    mixture = GaussianMixture(mixture.means, covariance)
    double = mixture.sample(points, seed=0)[0]
    single = double.float()
    learned = sklearn_mixture(mixture)
    timings = interleaved(
        {
            "sklearn": lambda: learned.predict_proba(double.numpy()),
            "float64": lambda: mixture.posterior(double),
            "float32": lambda: mixture.posterior(single, dtype=torch.float32),
        },
        rounds,
    )
    return {
        "full": [{"variant": name, "points": points, **timing.record()} for name, timing in timings.items()],
        "full_ratio_float64": _ratio(timings, "sklearn", "float64"),
        "full_ratio_float32": _ratio(timings, "sklearn", "float32"),
    }


# ------------------------------------------------------------------------------------------------------ how time grows


def _growth(points: int, rounds: int) -> dict[str, Any]:
    """Time a point of a hundredth and a tenth of the points, done as often, relative to that of all at once."""
    mixture = paper_toy(CLASSES, DIMENSION)
    x = mixture.sample(max(points // 100, 1), seed=0)[0].float().repeat(100, 1)
    variants: dict[str, Callable[[], object]] = {}
    for name, dtype in DTYPES.items():
        output = torch.zeros(len(x), CLASSES, dtype=dtype)
        for parts in (100, 10, 1):
            variants[f"{name}, {parts}"] = partial(_in_parts, mixture, x, output, parts)
    timings = interleaved(variants, rounds)
    growth = [
        {
            "dtype": name,
            "points": len(x) // parts,
            "nanoseconds": 1e9 * timings[f"{name}, {parts}"].cpu / len(x),
            "relative": _ratio(timings, f"{name}, {parts}", f"{name}, 1"),
        }
        for name in DTYPES
        for parts in (100, 10, 1)
    ]
    return {"growth": growth}


def _in_parts(mixture: GaussianMixture, x: Tensor, output: Tensor, parts: int) -> None:
    for part, rows in zip(x.chunk(parts), output.chunk(parts), strict=True):
        mixture.posterior(part, dtype=output.dtype, out=rows)


def _layouts(rounds: int) -> dict[str, Any]:
    """The layout that is taken at each K against the better of the two."""
    table = []
    for classes in LAYOUT_CLASSES:
        mixture = paper_toy(classes, DIMENSION)
        x = mixture.sample(min(LAYOUT_NUMBERS // classes, 200_000), seed=0)[0]
        for name, dtype in DTYPES.items():
            points, output = x.to(dtype), torch.zeros(len(x), classes, dtype=dtype)
            columns, rows = _laid_out(mixture, "columns"), _laid_out(mixture, "rows")
            timings = interleaved(
                {
                    "columns": partial(columns.fill, points, output, log=False),
                    "rows": partial(rows.fill, points, output, log=False),
                },
                rounds,
            )
            chosen = _laid_out(mixture, None).layout(dtype)
            times = {layout: 1e9 * timing.cpu / len(x) for layout, timing in timings.items()}
            relative = times[chosen] / min(times.values())
            table.append({"classes": classes, "dtype": name, **times, "chosen": chosen, "relative": relative})
    return {"layouts": table, "layout_worst": max(cell["relative"] for cell in table)}


def _laid_out(mixture: GaussianMixture, layout: Literal["rows", "columns"] | None) -> LinearPosterior:
    linear = mixture._linear_posterior(layout)
    assert linear is not None
    return linear


# ------------------------------------------------------------------------------------------------------ memory, errors


def _memory(points: int) -> dict[str, float | None]:
    """MB (10^6 bytes) beyond points and output; scikit-learn's beyond the points, less the size of its output."""
    found = {}
    for name, dtype in DTYPES.items():
        for shift in (False, True):
            measured = extra_memory(partial(_prepared, points, dtype, shift), _into_output)
            found[name + (", shifted" if shift else "")] = None if measured is None else measured / 1e6
    few = max(points // 10, 1000)
    measured = extra_memory(partial(_prepared, few, torch.float64, False), _by_sklearn)
    found[f"sklearn, {few:,} points"] = None if measured is None else (measured - 8 * few * CLASSES) / 1e6
    return found


Prepared = tuple[GaussianMixture, Tensor, Tensor]


def _prepared(points: int, dtype: torch.dtype, shift: bool) -> Prepared:
    """Mixture, points and an output that is in memory; the code has run once."""
    mixture = paper_toy(CLASSES, DIMENSION)
    mixture = _shifted(mixture) if shift else mixture
    some = mixture.sample(1000, seed=0)[0].to(dtype)
    output = torch.full((points, CLASSES), 0.5, dtype=dtype)
    mixture.posterior(some, dtype=dtype)
    sklearn_mixture(mixture).predict_proba(some.numpy())
    return mixture, some.repeat(-(-points // len(some)), 1)[:points], output


def _into_output(prepared: Prepared) -> None:
    mixture, x, output = prepared
    mixture.posterior(x, dtype=output.dtype, out=output)


def _by_sklearn(prepared: Prepared) -> object:
    mixture, x, _ = prepared
    return sklearn_mixture(mixture).predict_proba(x.numpy())


def _errors(points: int) -> dict[str, float]:
    """Largest differences of a probability: float32 from float64, and float64 from scikit-learn's."""
    found = {}
    for name, mixture in (("", paper_toy(CLASSES, DIMENSION)), (", shifted", _shifted(paper_toy(CLASSES, DIMENSION)))):
        x = mixture.sample(points, seed=1)[0]
        exact = mixture.posterior(x)
        for given in DTYPES.values():
            points_given = x.to(given)
            truth = exact if given == torch.float64 else mixture.posterior(points_given)
            wrong = mixture.posterior(points_given, dtype=torch.float32).double()
            said = f"float32 of {'float64' if given == torch.float64 else 'float32'} points{name}"
            found[said] = float((wrong - truth).abs().max())
        if not name:
            learned = torch.from_numpy(sklearn_mixture(mixture).predict_proba(x.numpy()))
            found["float64, from sklearn"] = float((learned - exact).abs().max())
    return found


def _set_floor(results: dict[str, Any]) -> None:
    """What products and traffic of the float32 rows take at the machine's rates, and the share of it reached."""
    floor, points = results["floor"], results["points"]
    floor["product_seconds"] = 2 * points * CLASSES * DIMENSION / floor["matmul_flops"]
    floor["traffic_seconds"] = 4 * points * (CLASSES + DIMENSION) / floor["copy_bytes"]
    best = next(row for row in results["rows"] if row["variant"] == "float32, out=")
    floor["share"] = (floor["product_seconds"] + floor["traffic_seconds"]) / best["cpu"]
