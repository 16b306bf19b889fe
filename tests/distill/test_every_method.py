"""What all methods of logits, features and relations share: terms, labels, gradients, learned parts, refusals."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bcpd
from bcpd.data import Batch, InMemory
from bcpd.distill import AT, CC, DKD, KD, PKT, RKD, SP, VID, Each, FitNet, Method, functional
from bcpd.losses import LOSSES
from bcpd.nets import Views, build
from bcpd.train import Recipe

K, B = 3, 6

METHODS: dict[str, Callable[..., Method]] = {
    "dkd": DKD,
    "at": AT,
    "pkt": PKT,
    "sp": SP,
    "cc": CC,
    "rkd": RKD,
    "vid": VID,
    "hint": FitNet,
}
"""Class by the name of its own term; KD, whose terms have other names, has tests of its own."""
LEARNED = ("cc", "vid", "hint")
ON_VECTORS = [name for name in METHODS if name != "at"]
every = pytest.mark.parametrize("name", METHODS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def image_views(seed: int, channels: int = 3, batch: int = B) -> Views:
    """Leaves, as a network of two stages might show them."""
    stages = random(batch, channels, 4, 4, seed=seed), random(batch, channels + 2, 2, 2, seed=seed + 1)
    pooled, logits = random(batch, channels + 2, seed=seed + 2), random(batch, K, seed=seed + 3)
    return leaves(Views(logits, pooled, stages, stages))


def leaves(views: Views) -> Views:
    def leaf(view: Tensor) -> Tensor:
        return view.detach().clone().requires_grad_()

    stages = tuple(leaf(stage) for stage in views.stages)
    return Views(leaf(views.logits), leaf(views.pooled), stages, ())


def batch_of(labels: list[int], labelled: list[bool] | None = None) -> Batch:
    mask = None if labelled is None else torch.tensor(labelled)
    source = InMemory(torch.zeros(len(labels), 1), torch.tensor(labels), num_classes=K, labelled=mask)
    return source.batch(torch.arange(len(labels)))


def adapted(name: str, s: Views, t: Views, **options: float) -> Method:
    torch.manual_seed(0)
    method = METHODS[name](**options)
    method.adapt(s, t)
    return method


def views_of(terms_of: Views) -> list[Tensor]:
    return [terms_of.logits, terms_of.pooled, *terms_of.stages]


# ------------------------------------------------------------------------------------------------ terms and weights


@every
def test_the_terms_are_labels_kd_and_its_own(name: str) -> None:
    s, t, batch = image_views(0), image_views(10, 5), batch_of([0, 1, 2, 0, 1, 2])
    plain = adapted(name, s, t).loss(batch, s, t)
    assert set(plain) == {name, "label"}
    label = LOSSES["ce"](s.logits, batch.y).mean()
    torch.testing.assert_close(plain["label"], label, rtol=1e-13, atol=0)
    weight = adapted(name, s, t).weight
    options = {"weight": 3.0, "label_weight": 0.5, "kd_weight": 0.25, "temperature": 4.0}
    weighted = adapted(name, s, t, **options).loss(batch, s, t)
    assert set(weighted) == {name, "label", "kd"}
    torch.testing.assert_close(weighted[name], plain[name] * 3.0 / weight, rtol=1e-12, atol=0)
    torch.testing.assert_close(weighted["label"], 0.5 * label, rtol=1e-13, atol=0)
    kd = functional.kd(s.logits, t.logits, 4.0).mean()
    torch.testing.assert_close(weighted["kd"], 0.25 * kd, rtol=1e-13, atol=0)
    assert set(adapted(name, s, t, label_weight=0.0).loss(batch, s, t)) == {name}


@every
def test_its_needs_follow_from_its_weights(name: str) -> None:
    plain, with_kd, pure = METHODS[name](), METHODS[name](kd_weight=1.0), METHODS[name](label_weight=0.0)
    assert "labels" in plain.needs
    assert ("labels" in pure.needs) is (name == "dkd")
    assert ("teacher.logits" in plain.needs) is (name == "dkd")
    assert {"teacher.logits", "student.logits"} <= with_kd.needs
    assert METHODS[name].needs == frozenset()  # the class is not changed by its instances


@every
def test_it_says_whether_examples_meet_in_its_loss(name: str) -> None:
    """``couples`` is False exactly where the loss of a batch is the mean of those of its halves."""
    s, t, batch = image_views(0), image_views(10, 5), batch_of([0, 1, 2, 0, 1, 2])
    method = adapted(name, s, t)
    whole = method.loss(batch, s, t)[name].detach()
    halves = []
    for rows in (slice(0, 3), slice(3, 6)):
        half_s, half_t = (
            Views(v.logits[rows], v.pooled[rows], tuple(stage[rows] for stage in v.stages), ()) for v in (s, t)
        )
        part = Batch(x=batch.x[rows], y=batch.y[rows], index=batch.index[rows])
        halves.append(method.loss(part, half_s, half_t)[name].detach())
    is_mean = math.isclose(float(whole), float(sum(halves)) / 2, rel_tol=1e-9)
    assert is_mean is not method.couples
    assert KD.couples is False


@every
def test_without_a_teacher_it_is_refused(name: str) -> None:
    s, t = image_views(0), image_views(10)
    method = adapted(name, s, t)
    with pytest.raises(ValueError, match=f"{type(method).__name__} needs a teacher's views, received None"):
        method.loss(batch_of([0] * B), s, None)


# --------------------------------------------------------------------------------------------------- the gradients


@every
def test_no_gradient_reaches_the_teacher_and_all_learned_parts_have_one(name: str) -> None:
    s, t = image_views(0), image_views(10, 5)
    method = adapted(name, s, t, kd_weight=1.0)
    terms = method.loss(batch_of([0, 1, 2, 0, 1, 2]), s, t)
    torch.stack(list(terms.values())).sum().backward()
    assert all(view.grad is None for view in views_of(t))
    assert any(view.grad is not None and float(view.grad.abs().max()) > 0 for view in views_of(s))
    learned = dict(method.named_parameters())
    assert bool(learned) is (name in LEARNED)
    for key, parameter in learned.items():
        assert parameter.grad is not None, key
        assert float(parameter.grad.abs().max()) > 0, key


@pytest.mark.parametrize("name", [name for name in METHODS if name not in LEARNED])
def test_a_student_that_shows_what_its_teacher_shows_has_nothing_to_learn(name: str) -> None:
    t = image_views(10)
    s = leaves(t)
    own = adapted(name, s, t, label_weight=0.0).loss(batch_of([0, 1, 2, 0, 1, 2]), s, t)[name]
    own.backward()
    assert abs(float(own.detach())) < 1e-9
    assert all(view.grad is None or float(view.grad.abs().max()) < 1e-9 for view in views_of(s))


def test_learned_maps_reach_their_minimum_where_they_are_right() -> None:
    t = image_views(10)
    s, batch = leaves(t), batch_of([0, 1, 2, 0, 1, 2])
    fitnet = FitNet(regressor="linear")
    fitnet.adapt(s, t)
    with torch.no_grad():
        fitnet.map.weight.copy_(torch.eye(5)[:, :, None, None])
        fitnet.map.bias.zero_()
    assert float(fitnet.loss(batch, s, t)["hint"].detach()) < 1e-28
    cc = adapted("cc", s, t)
    assert isinstance(cc, CC)
    assert float(cc.loss(batch, s, t)["cc"].detach()) > 1e-4
    cc.embed_student.load_state_dict(cc.embed_teacher.state_dict())
    assert float(cc.loss(batch, s, t)["cc"].detach()) == 0.0


def test_a_normalised_regressor_reaches_its_minimum_and_is_the_formula() -> None:
    """ReLU(BN(W F)): by hand, and 0 where the norm gives the features back, whose ReLU they are."""
    t = image_views(10)
    t = leaves(t._replace(stages=tuple(stage.relu() for stage in t.stages)))
    s, batch = leaves(t), batch_of([0, 1, 2, 0, 1, 2])
    fitnet = adapted("hint", s, t)
    assert isinstance(fitnet, FitNet)
    linear, norm, _ = fitnet.map
    mapped = torch.einsum("ij,bjhw->bihw", linear.weight[:, :, 0, 0], s.stages[1])
    mean, variance = mapped.mean((0, 2, 3), keepdim=True), mapped.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = 100 * (((mapped - mean) / (variance + norm.eps).sqrt()).relu() - t.stages[1]).square().mean()
    torch.testing.assert_close(fitnet.loss(batch, s, t)["hint"], expected, rtol=1e-10, atol=0)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(5)[:, :, None, None])
        norm.weight.copy_((t.stages[1].var((0, 2, 3), unbiased=False) + norm.eps).sqrt())
        norm.bias.copy_(t.stages[1].mean((0, 2, 3)))
    assert float(fitnet.loss(batch, s, t)["hint"].detach()) < 1e-25
    with torch.no_grad():
        norm.bias += 0.1
    assert float(fitnet.loss(batch, s, t)["hint"].detach()) > 0.1


@pytest.mark.parametrize("regressor", ["normalised", "linear"])
def test_the_weight_of_the_benchmarks_belongs_to_the_normalised_regressor(regressor: Any) -> None:
    """A hundred steps of 0.05, as in the benchmarks, on features of mean square 4.5: the linear one diverges."""
    stream = torch.Generator().manual_seed(0)
    f_s, f_t = (3 * torch.randn(64, 8, 4, 4, generator=stream, dtype=torch.float64).relu() for _ in range(2))
    s, t = (Views(f[:, :K, 0, 0], f[:, :, 0, 0], (f, f), ()) for f in (f_s, f_t))
    torch.manual_seed(0)
    fitnet = FitNet(label_weight=0.0, regressor=regressor)
    fitnet.adapt(s, t)
    optimizer = torch.optim.SGD(fitnet.parameters(), 0.05, momentum=0.9)
    batch, values = batch_of([0, 1] * 32), []
    for _ in range(100):
        optimizer.zero_grad()
        value = fitnet.loss(batch, s, t)["hint"]
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert (values[-1] < values[0]) is (regressor == "normalised")


def test_the_variances_start_at_five_and_are_trained() -> None:
    """A peer's variances are never handed to the optimizer; here their gradient is that of the density."""
    s, t = image_views(0), image_views(10, 5)
    vid = adapted("vid", s, t)
    assert isinstance(vid, VID)
    parameters = {id(parameter) for parameter in vid.parameters()}
    assert len(vid.gaussians) == 2
    for gaussian, channels in zip(vid.gaussians, (5, 7), strict=True):
        torch.testing.assert_close(gaussian.variance, torch.full((channels,), 5.0, dtype=torch.float64))
        assert id(gaussian.raw_variance) in parameters
    own = vid.loss(batch_of([0] * B), s, t)["vid"]
    own.backward()
    gaussian = vid.gaussians[1]
    residual = (gaussian.mean(s.stages[1]) - t.stages[1]).detach().square().mean((0, 2, 3))
    slope = 0.5 * (1 / 5.0 - residual / 25.0) / 7 * (1 - math.exp(-(5.0 - 1e-5)))
    torch.testing.assert_close(gaussian.raw_variance.grad, slope, rtol=1e-9, atol=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_the_terms_are_finite_single_and_near_the_exact_ones(name: str, dtype: torch.dtype) -> None:
    exact_s, exact_t = image_views(0), image_views(10, 5)

    def cast(views: Views, to: torch.dtype) -> Views:
        stages = tuple(stage.detach().to(to) for stage in views.stages)
        return leaves(Views(views.logits.detach().to(to), views.pooled.detach().to(to), stages, ()))

    batch = batch_of([0, 1, 2, 0, 1, 2])
    single_s, single_t = cast(exact_s, torch.float32), cast(exact_t, torch.float32)
    method = adapted(name, single_s, single_t, kd_weight=1.0)
    wanted = method.loss(batch, single_s, single_t)
    s, t = cast(exact_s, dtype), cast(exact_t, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.loss(batch, s, t)
    torch.stack(list(terms.values())).sum().backward()
    for key, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, wanted[key], rtol=0.05, atol=1e-3)
    assert all(view.grad is None or bool(view.grad.isfinite().all()) for view in views_of(s))


# ---------------------------------------------------------------------------------------------------------- labels


@every
def test_unlabelled_examples_feed_the_teacher_s_terms_only(name: str) -> None:
    s, t = image_views(0), image_views(10, 5)
    labelled = [True, True, False, True, True, False]
    method = adapted(name, s, t, kd_weight=1.0)
    terms = method.loss(batch_of([0, 1, 2, 0, 1, 2], labelled), s, t)
    other = method.loss(batch_of([0, 1, 0, 0, 1, 1], labelled), s, t)
    assert {key: float(term.detach()) for key, term in terms.items()} == {
        key: float(term.detach()) for key, term in other.items()
    }
    rows = [0, 1, 3, 4]
    label = LOSSES["ce"](s.logits[rows], torch.tensor([0, 1, 0, 1])).mean()
    torch.testing.assert_close(terms["label"], label, rtol=1e-13, atol=0)
    terms[name].backward()
    grads = [view.grad for view in views_of(s) if view.grad is not None]
    assert grads
    assert all(float(grad[row].abs().max()) > 0 for grad in grads for row in (2, 5))


# ----------------------------------------------------------------------------------------------------- batch sizes


@pytest.mark.parametrize("method", [PKT, SP])
def test_a_normalised_weight_means_the_same_at_every_batch_size(method: Callable[..., Method]) -> None:
    """Of a batch and the same batch twice; at B = 64 the published weight and the normalised one agree."""
    name = method().term

    def own(repeats: int, normalised: bool) -> float:
        s, t = (
            Views(v.logits, v.pooled.repeat(repeats, 1), (v.stages[0], v.stages[1].repeat(repeats, 1, 1, 1)), ())
            for v in (image_views(0, batch=8), image_views(10, batch=8))
        )
        batch = batch_of([0, 1, 2, 0, 1, 2, 0, 1] * repeats)
        chosen = method(label_weight=0.0, batch_normalised=normalised)
        return float(chosen.loss(batch, s, t)[name].detach())

    once, twice = own(1, True), own(2, True)
    assert twice == pytest.approx(once, rel=1e-10)
    assert own(2, False) == pytest.approx(own(1, False) / 2, rel=1e-10)
    assert own(8, True) == pytest.approx(own(8, False), rel=1e-10)
    assert once == pytest.approx(own(8, False), rel=1e-10)


# ---------------------------------------------------------------------------------------------------- two real steps


class Watched:
    """What a method learned from, and what its parts were before the first step."""

    def __init__(self, method: Method) -> None:
        self.start: dict[str, Tensor] = {}
        original = method.adapt

        def adapt(student: Views, teacher: Views | None) -> None:
            original(student, teacher)
            self.start.update({key: value.clone() for key, value in method.state_dict().items()})

        method.adapt = adapt  # type: ignore[method-assign]


def images(n: int = 8, side: int = 8) -> InMemory:
    return InMemory(random(n, 3, side, side), torch.arange(n) % K, num_classes=K, dtype=torch.float64)


def vectors(n: int = 8, classes: int = K) -> InMemory:
    return InMemory(random(n, 4), torch.arange(n) % classes, num_classes=classes, dtype=torch.float64)


def convolutional(seed: int) -> nn.Module:
    return build("resnet8x0.5", num_classes=K, input_shape=(3, 8, 8), seed=seed).double()


def mlp(seed: int | list[int], hidden: tuple[int, ...] = (6, 5), classes: int = K) -> nn.Module:
    return build("mlp", num_classes=classes, input_shape=(4,), seed=seed, hidden=hidden).double()


TWO_STEPS = Recipe(epochs=1, learning_rate=1e-3, batch_size=4, validation=0.0)


def check_two_steps(method: Method, net: nn.Module, teacher: nn.Module, source: InMemory) -> None:
    watched = Watched(method)
    names, before = set(net.state_dict()), copy.deepcopy(teacher.state_dict())
    start = copy.deepcopy(net.state_dict())
    fitted = bcpd.fit(net, source, method, TWO_STEPS, seed=0, teacher=teacher)
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert not teacher.training
    for state in fitted.states.values():
        assert set(state) == names
    assert math.isfinite(fitted.history[0]["train_loss"][0])
    assert any(not torch.equal(start[key], value) for key, value in net.state_dict().items())
    assert all(not torch.equal(watched.start[key], value) for key, value in method.state_dict().items())


@every
def test_it_trains_on_images(name: str) -> None:
    check_two_steps(METHODS[name](), convolutional(1), convolutional(5), images())


@pytest.mark.parametrize("name", ON_VECTORS)
def test_it_trains_on_vectors(name: str) -> None:
    check_two_steps(METHODS[name](), mlp(1), mlp(5, (7, 9)), vectors())


@pytest.mark.parametrize("name", ["dkd", "pkt", "sp", "rkd"])
def test_replicas_have_a_loss_each_also_beside_other_methods(name: str) -> None:
    labels = torch.arange(10).reshape(2, 5) % K
    batch = InMemory(random(2, 5, 4), labels, num_classes=K, dtype=torch.float64).batch(torch.arange(5))
    net, teacher = mlp([1, 2]), mlp([5, 6], (7, 9))
    s, t = net(batch.x), teacher(batch.x)
    method = adapted(name, s, t, kd_weight=1.0)
    terms = method.loss(batch, s, t)
    beside = Each([method, KD()])
    beside.adapt(s, t)
    mixed = beside.loss(batch, s, t)
    for replica in range(2):
        one_s, one_t = (
            Views(v.logits[replica], v.pooled[replica], tuple(stage[replica] for stage in v.stages), ()) for v in (s, t)
        )
        one = Batch(x=batch.x[replica], y=batch.y[replica], index=batch.index[replica])
        alone = method.loss(one, one_s, one_t)
        for key, term in terms.items():
            assert term.shape == (2,)
            torch.testing.assert_close(term[replica], alone[key], rtol=1e-10, atol=1e-12)
        if replica == 0:
            torch.testing.assert_close(mixed[name][0], alone[name], rtol=1e-10, atol=1e-12)
    assert float(mixed[name][1].detach()) == 0.0


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", LEARNED)
def test_learned_maps_refuse_replicas(name: str) -> None:
    with pytest.raises(ValueError, match=r"trains a single model, received 2 replicas; train them one by one"):
        bcpd.fit(mlp([1, 2]), vectors(), METHODS[name](), TWO_STEPS, seed=[0, 1], teacher=mlp(5))


@pytest.mark.parametrize("name", ["at", "vid", "hint"])
def test_networks_of_other_stages_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="one to one, but the student has 1 and the teacher 2"):
        bcpd.fit(mlp(1, (6,)), vectors(), METHODS[name](), TWO_STEPS, seed=0, teacher=mlp(5))


def test_attention_refuses_vectors_and_single_points() -> None:
    with pytest.raises(ValueError, match=r"vectors have no where; at stage 1 received \(2, 6\) and \(2, 6\)"):
        bcpd.fit(mlp(1), vectors(), AT(), TWO_STEPS, seed=0, teacher=mlp(5))
    small = [build("resnet8x0.5", num_classes=K, input_shape=(3, 4, 4), seed=seed).double() for seed in (1, 5)]
    with pytest.raises(ValueError, match=r"on 1 x 1 maps its attention is 1 .* at stage 3 received \(2, 32, 1, 1\)"):
        bcpd.fit(small[0], images(side=4), AT(), TWO_STEPS, seed=0, teacher=small[1])


@pytest.mark.parametrize("name", ["vid", "hint"])
def test_vectors_are_not_mapped_onto_maps(name: str) -> None:
    flat = build("mlp", num_classes=K, input_shape=(3, 8, 8), seed=1, hidden=(4, 4, 4)).double()
    with pytest.raises(ValueError, match=r"both maps \(B, C, H, W\) or both vectors \(B, F\); at stage . received"):
        bcpd.fit(flat, images(), METHODS[name](), TWO_STEPS, seed=0, teacher=convolutional(5))


def test_similarities_of_vectors_may_come_from_maps() -> None:
    flat = build("mlp", num_classes=K, input_shape=(3, 8, 8), seed=[1, 2], hidden=(4,)).double()
    batch = images().batch(torch.arange(4))
    s, t = flat(batch.x), convolutional(5)(batch.x)
    both = Views(t.logits.expand(2, 4, K), t.pooled, (t.stages[-1].expand(2, *t.stages[-1].shape),), ())
    own = SP(label_weight=0.0, weight=1.0).loss(batch, s, both)["sp"]
    expected = functional.similarity_preserving(s.stages[-1][1], t.stages[-1])
    torch.testing.assert_close(own[1], expected, rtol=1e-10, atol=0)


def test_a_hint_s_layer_must_be_there() -> None:
    with pytest.raises(ValueError, match="layer must be one of the 2 stages of the networks, received 3"):
        bcpd.fit(mlp(1), vectors(), FitNet(layer=3), TWO_STEPS, seed=0, teacher=mlp(5))
    with pytest.raises(ValueError, match="layer must be a stage's number >= 1, received 0"):
        FitNet(layer=0)
    with pytest.raises(ValueError, match="regressor must be 'normalised' or 'linear', received 'deep'"):
        FitNet(regressor="deep")  # type: ignore[arg-type]


def test_two_classes_are_refused_by_dkd_before_the_first_step() -> None:
    with pytest.raises(ValueError, match="becomes alpha = 1 times KD"):
        bcpd.fit(mlp(1, classes=2), vectors(classes=2), DKD(), TWO_STEPS, seed=0, teacher=mlp(5, classes=2))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="dimension must be >= 1, received 0"):
        CC(dimension=0)
    with pytest.raises(ValueError, match=r"exponent must be >= 1, received 0\.5"):
        AT(exponent=0.5)
    with pytest.raises(ValueError, match=r"not both 0, received 0.0 and 0.0"):
        RKD(distance_weight=0.0, angle_weight=0.0)


@pytest.mark.parametrize(
    ("weights", "function"), [((2.0, 0.0), "relational_distance"), ((0.0, 3.0), "relational_angle")]
)
def test_distances_and_angles_have_weights_of_their_own(weights: tuple[float, float], function: str) -> None:
    s, t = image_views(0), image_views(10, 5)
    own = RKD(*weights, label_weight=0.0).loss(batch_of([0] * B), s, t)["rkd"]
    expected = sum(weights) * getattr(functional, function)(s.pooled, t.pooled)
    torch.testing.assert_close(own, expected, rtol=1e-13, atol=0)
