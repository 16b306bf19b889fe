"""Relational losses against loops over pairs and triplets; what they ignore, how they depend on the batch size."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from bcpd.distill.functional import (
    correlation_congruence,
    probabilistic_knowledge_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)

Rows = Sequence[Sequence[float]]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def huber(a: float, b: float) -> float:
    gap = abs(a - b)
    return 0.5 * gap**2 if gap <= 1 else gap - 0.5


def slow_similarity(f_s: Rows, f_t: Rows) -> float:
    """Tung & Mori (2019), section 3."""

    def normalised(f: Rows) -> list[list[float]]:
        gram = [[dot(a, b) for b in f] for a in f]
        return [[value / math.sqrt(dot(row, row)) for value in row] for row in gram]

    g_s, g_t = normalised(f_s), normalised(f_t)
    return (
        math.fsum((a - b) ** 2 for s, t in zip(g_s, g_t, strict=True) for a, b in zip(s, t, strict=True))
        / len(f_s) ** 2
    )


def slow_transfer(f_s: Rows, f_t: Rows) -> float:
    """Passalis & Tefas (2018), the cosine kernel with a floor, all pairs, the mean."""

    def probabilities(f: Rows) -> list[list[float]]:
        rows = []
        for a in f:
            row = [(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) + 1) / 2 + 1e-7 for b in f]
            rows.append([value / math.fsum(row) for value in row])
        return rows

    p_s, p_t = probabilities(f_s), probabilities(f_t)
    pairs = [(t, s) for row_s, row_t in zip(p_s, p_t, strict=True) for s, t in zip(row_s, row_t, strict=True)]
    return math.fsum(t * math.log(t / s) for t, s in pairs) / len(pairs)


def slow_distance(f_s: Rows, f_t: Rows) -> float:
    """Park et al. (2019), section 3.2.1; the mean over pairs of different examples, times their share."""

    def distances(f: Rows) -> dict[tuple[int, int], float]:
        found = {
            (i, j): math.sqrt(dot(minus(f[i], f[j]), minus(f[i], f[j])))
            for i in range(len(f))
            for j in range(len(f))
            if i != j
        }
        mean = math.fsum(found.values()) / len(found)
        return {pair: value / mean for pair, value in found.items()}

    d_s, d_t = distances(f_s), distances(f_t)
    over_pairs = math.fsum(huber(d_s[pair], d_t[pair]) for pair in d_s) / len(d_s)
    return over_pairs * (len(f_s) - 1) / len(f_s)


def slow_angle(f_s: Rows, f_t: Rows) -> float:
    """Park et al. (2019), section 3.2.2; the mean over triplets of different examples, times their share."""

    def cosine(f: Rows, i: int, j: int, k: int) -> float:
        a, b = minus(f[i], f[j]), minus(f[k], f[j])
        return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))

    size = len(f_s)
    triplets = [(i, j, k) for i in range(size) for j in range(size) for k in range(size) if len({i, j, k}) == 3]
    total = math.fsum(huber(cosine(f_s, *triplet), cosine(f_t, *triplet)) for triplet in triplets)
    return total / len(triplets) * (size - 1) * (size - 2) / size**2


FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Rows, Rows], float]]] = {
    "similarity": (similarity_preserving, slow_similarity),
    "transfer": (probabilistic_knowledge_transfer, slow_transfer),
    "distance": (relational_distance, slow_distance),
    "angle": (relational_angle, slow_angle),
}
every = pytest.mark.parametrize("name", FUNCTIONS)


@every
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_value_is_that_of_the_loops(name: str, seed: int) -> None:
    function, slow = FUNCTIONS[name]
    f_s, f_t = random(6, 4, seed=seed), 5 * random(6, 7, seed=seed + 10) + 1
    assert float(function(f_s, f_t)) == pytest.approx(slow(f_s.tolist(), f_t.tolist()), rel=1e-11)


@every
def test_the_gradient_is_the_finite_difference(name: str) -> None:
    function, _ = FUNCTIONS[name]
    f_s, f_t = random(5, 3).requires_grad_(), random(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda f: function(f, f_t), (f_s,), eps=1e-6, atol=1e-8)


def test_distances_beyond_one_are_in_the_linear_part_of_the_huber_loss() -> None:
    """Rows in which some relative distances differ by more than 1, in value and gradient."""
    f_s = torch.tensor([[0.0], [1.0], [30.0]], dtype=torch.float64, requires_grad=True)
    f_t = torch.tensor([[0.0], [20.0], [21.0]], dtype=torch.float64)
    assert float(relational_distance(f_s.detach(), f_t)) == pytest.approx(slow_distance(f_s.tolist(), f_t.tolist()))
    assert torch.autograd.gradcheck(lambda f: relational_distance(f, f_t), (f_s,))


@every
def test_a_student_equal_to_its_teacher_pays_and_moves_nothing(name: str) -> None:
    function, _ = FUNCTIONS[name]
    f_t = random(6, 4)
    f_s = f_t.clone().requires_grad_()
    value = function(f_s, f_t)
    (gradient,) = torch.autograd.grad(value, f_s)
    assert float(value.detach()) == 0.0
    assert float(gradient.abs().max()) < 1e-15
    assert float(function(f_t + 0.3 * random(6, 4, seed=9), f_t)) > 1e-5


@every
def test_it_ignores_what_it_should(name: str) -> None:
    """A rotation and a common scale change no relation; a shift changes those of inner products."""
    function, _ = FUNCTIONS[name]
    f_t = random(6, 4)
    rotation = torch.linalg.qr(random(4, 4, seed=5)).Q
    assert float(function(3.0 * f_t @ rotation, f_t)) < 1e-15
    shifted = float(function(f_t + 2.0, f_t))
    rescaled = float(function(f_t * torch.arange(1, 7, dtype=torch.float64)[:, None], f_t))
    assert (shifted < 1e-15) is (name in ("distance", "angle"))
    assert (rescaled < 1e-15) is (name == "transfer")


@every
def test_the_value_of_a_doubled_batch_is_halved_or_stays(name: str) -> None:
    function, _ = FUNCTIONS[name]
    f_s, f_t = random(6, 4), random(6, 4, seed=1)
    once, twice = float(function(f_s, f_t)), float(function(torch.cat([f_s, f_s]), torch.cat([f_t, f_t])))
    factor = 0.5 if name in ("similarity", "transfer") else 1.0
    assert twice == pytest.approx(factor * once, rel=1e-12)


@every
def test_maps_are_flattened_and_replicas_have_a_value_each(name: str) -> None:
    function, _ = FUNCTIONS[name]
    maps_s, maps_t = random(4, 2, 3, 3), random(4, 5, 2, 2, seed=1)
    torch.testing.assert_close(function(maps_s, maps_t), function(maps_s.flatten(1), maps_t.flatten(1)))
    f_s, f_t = random(2, 5, 4), random(2, 5, 3, seed=1)
    value = function(f_s, f_t)
    assert value.shape == (2,)
    for replica in range(2):
        torch.testing.assert_close(value[replica], function(f_s[replica], f_t[replica]), rtol=1e-12, atol=1e-15)


@every
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    function, _ = FUNCTIONS[name]
    f_s, f_t = random(4, 3).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    function(f_s, f_t).backward()
    assert f_t.grad is None
    assert f_s.grad is not None


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_compute_in_single(name: str, dtype: torch.dtype) -> None:
    function, _ = FUNCTIONS[name]
    f_s, f_t = random(5, 4).to(dtype), random(5, 6, seed=1).to(dtype)
    exact = function(f_s.float(), f_t.float())
    assert exact.dtype == torch.float32
    assert torch.equal(function(f_s, f_t), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(function(f_s, f_t), exact)


AWKWARD = {
    "dead rows": torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [3.0, -1.0]]),
    "all dead": torch.zeros(4, 2),
    "equal rows": torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [4.0, 0.0]]),
    "all equal": torch.ones(4, 2),
    "opposite rows": torch.tensor([[1.0, 2.0], [-1.0, -2.0], [2.0, 4.0], [-3.0, -6.0]]),
    "large": 6e4 * torch.tensor([[1.0, -1.0], [1.0, 0.5], [-1.0, 1.0], [0.2, 1.0]]),
    "small": 1e-3 * torch.tensor([[1.0, -1.0], [1.0, 0.5], [-1.0, 1.0], [0.2, 1.0]]),
}


@every
@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_features_have_finite_values_and_gradients(name: str, kind: str) -> None:
    function, _ = FUNCTIONS[name]
    other = random(4, 3).half()
    for dtype in (torch.float16, torch.float32):
        f_s = AWKWARD[kind].to(dtype).requires_grad_()
        value = function(f_s, other)
        (gradient,) = torch.autograd.grad(value, f_s)
        assert bool(value.isfinite())
        assert -1e-6 < float(value.detach()) < 10
        assert bool(gradient.isfinite().all())
        assert bool(function(other, AWKWARD[kind].to(dtype)).isfinite())


@every
def test_a_batch_of_one_has_no_relations(name: str) -> None:
    function, _ = FUNCTIONS[name]
    f_s = random(1, 3).requires_grad_()
    value = function(f_s, random(1, 4, seed=1))
    (gradient,) = torch.autograd.grad(value, f_s)
    assert abs(float(value.detach())) < 1e-15
    assert float(gradient.abs().max()) < 1e-15


@every
def test_features_of_other_examples_are_refused(name: str) -> None:
    function, _ = FUNCTIONS[name]
    for shapes in (((3, 4), (4, 4)), ((2, 3, 4), (3, 4)), ((4,), (4,))):
        with pytest.raises(ValueError, match=r"of the same examples, received \("):
            function(random(*shapes[0]), random(*shapes[1]))
    with pytest.raises(ValueError, match="needs floating-point tensors, received none"):
        function(torch.ones(2, 2, dtype=torch.int64), torch.ones(2, 2, dtype=torch.int64))


def test_the_floor_of_the_affinities_is_felt_by_opposite_directions_only() -> None:
    """Without it the loss is that of the bare kernel to 1e-5; with it, opposite directions are far but finite."""
    f_s, f_t = random(8, 3), random(8, 3, seed=1)

    def bare(f: Tensor) -> Tensor:
        f = f / f.norm(dim=-1, keepdim=True)
        kernel = (f @ f.T + 1) / 2
        return kernel / kernel.sum(-1, keepdim=True)

    p_s, p_t = bare(f_s), bare(f_t)
    expected = float((p_t * (p_t / p_s).log()).mean())
    assert float(probabilistic_knowledge_transfer(f_s, f_t)) == pytest.approx(expected, rel=1e-4)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    far = float(probabilistic_knowledge_transfer(opposite, torch.ones(2, 2)))
    assert far == pytest.approx((math.log(0.5) + 0.5 * math.log(1e7)) / 2, rel=0.05)


# ------------------------------------------------------------------------------------------- correlation congruence


def test_correlation_is_over_neighbours_in_the_batch() -> None:
    e_s, e_t = random(5, 3), random(5, 3, seed=1)
    gap = [[abs(a - b) for a, b in zip(s, t, strict=True)] for s, t in zip(e_s.tolist(), e_t.tolist(), strict=True)]
    expected = math.fsum(dot(gap[i], gap[i + 1]) for i in range(4)) / 4
    assert float(correlation_congruence(e_s, e_t)) == pytest.approx(expected, rel=1e-12)
    order = torch.tensor([0, 2, 4, 1, 3])
    assert float(correlation_congruence(e_s[order], e_t[order])) != pytest.approx(expected, rel=1e-3)


def test_correlation_does_not_depend_on_the_size_of_a_uniform_batch() -> None:
    gap = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    for size in (2, 3, 64):
        e_t = random(size, 3)
        assert float(correlation_congruence(e_t + gap, e_t)) == pytest.approx(5.25, rel=1e-12)
    assert float(correlation_congruence(random(1, 3), random(1, 3, seed=1))) == 0.0


def test_correlation_trains_both_embeddings() -> None:
    e_s, e_t = random(4, 3).requires_grad_(), random(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(correlation_congruence, (e_s, e_t))
    correlation_congruence(e_s, e_t).backward()
    assert e_s.grad is not None
    torch.testing.assert_close(e_t.grad, -e_s.grad)
    assert float(correlation_congruence(e_s.detach(), e_s.detach())) == 0.0


def test_correlation_has_a_value_a_replica_in_single_precision_and_refuses_other_shapes() -> None:
    e_s, e_t = random(2, 4, 3).half(), random(2, 4, 3, seed=1).half()
    value = correlation_congruence(e_s, e_t)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value[1], correlation_congruence(e_s[1].float(), e_t[1].float()))
    assert bool(correlation_congruence(e_s * 1e4, e_t).isfinite().all())
    with pytest.raises(ValueError, match=r"one shape \(..., B, E\), received \(2, 3\) and \(2, 4\)"):
        correlation_congruence(random(2, 3), random(2, 4))
