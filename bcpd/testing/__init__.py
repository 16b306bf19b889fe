r"""Hypothesis strategies for property tests of one's own: rows of probabilities, worlds, mixtures, networks, losses.

A property test of a bound, over p*, a teacher, and the special shapes where bounds break:

>>> from hypothesis import given
>>> from bcpd import simplex
>>> from bcpd.testing import pairs
>>> @given(pairs())
... def test_mse_is_at_most_kl(pair):
...     p, q = pair
...     assert simplex.squared_distance(p, q) <= simplex.kl(p, q) + 1e-12
>>> test_mse_is_at_most_kl()

Rows are float64 tensors. What is heavy (a network, the parameters of a mixture) is made from one drawn integer seed,
so that an example is small to print and to replay; everything shrinks towards few classes, few points and the uniform
row. Needs Hypothesis: ``pip install bcpd[testing]``.
"""

try:
    import hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError("bcpd.testing needs Hypothesis, which is not installed: pip install bcpd[testing]") from error

from bcpd.testing.models import losses, nets
from bcpd.testing.rows import (
    Distortion,
    distortions,
    pairs,
    row_tables,
    simplex_rows,
    simplex_rows_with_zeros,
    stochastic_matrices,
)
from bcpd.testing.worlds import (
    COMPONENT_FAMILIES,
    WRAPPERS,
    finite_mixtures,
    mixtures,
    mixtures_with_points,
    warps,
)

__all__ = [
    "COMPONENT_FAMILIES",
    "WRAPPERS",
    "Distortion",
    "distortions",
    "finite_mixtures",
    "losses",
    "mixtures",
    "mixtures_with_points",
    "nets",
    "pairs",
    "row_tables",
    "simplex_rows",
    "simplex_rows_with_zeros",
    "stochastic_matrices",
    "warps",
]
