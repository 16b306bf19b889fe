"""The warm-up of a recipe: a ramp of steps, then the schedule; a recipe without one is what it was."""

import sys

import pytest
from small_world import mlp, world

import bcpd
from bcpd.distill import Supervised
from bcpd.train import Constant, Cosine, Recipe, Schedule, Step

SCHEDULES: list[Schedule] = [Constant(), Step(), Cosine(0.1)]


def factors(recipe: Recipe, steps: int, epochs: int) -> list[float]:
    """Step by step."""
    return [recipe.factor(epoch + step / steps, 1 / steps) for epoch in range(epochs) for step in range(steps)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_without_a_warm_up_every_bit_is_the_schedule_s(schedule: Schedule) -> None:
    recipe = Recipe(epochs=7, learning_rate=0.1, schedule=schedule)
    expected = [schedule.factor((epoch + step / 13) / 7) for epoch in range(7) for step in range(13)]
    assert factors(recipe, 13, 7) == expected
    assert recipe.factor(3.25) == schedule.factor(3.25 / 7)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize(("warm_up", "steps"), [(1.0, 5), (3.0, 4), (0.5, 10), (2.0, 1), (0.25, 8)])
def test_the_ramp_has_equal_steps_up_to_the_base_rate(schedule: Schedule, warm_up: float, steps: int) -> None:
    found = factors(Recipe(epochs=6, learning_rate=0.1, schedule=schedule, warm_up=warm_up), steps, 6)
    count = round(warm_up * steps)
    assert found[:count] == pytest.approx([(number + 1) / count for number in range(count)], rel=1e-12)
    assert found[count:] == factors(Recipe(epochs=6, learning_rate=0.1, schedule=schedule), steps, 6)[count:]


def test_a_ramp_that_ends_within_a_step_stops_at_the_base_rate() -> None:
    recipe = Recipe(epochs=3, learning_rate=0.1, warm_up=0.6)
    assert factors(recipe, 4, 1) == pytest.approx([0.25 / 0.6, 0.5 / 0.6, 1.0, 1.0])
    # a rate of the time alone begins at 0: its first step would be lost
    assert recipe.factor(0.0) == 0.0
    assert recipe.factor(0.3) == pytest.approx(0.5)


def test_the_trainer_takes_the_steps_of_the_ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    trainer = sys.modules["bcpd.train.trainer"]
    right = trainer.set_rates
    monkeypatch.setattr(trainer, "set_rates", lambda optimizer, rates: (seen.extend(rates), right(optimizer, rates)))
    # 30 training examples in batches of 8: four steps an epoch
    recipe = Recipe(epochs=3, learning_rate=0.2, batch_size=8, schedule=Step((2 / 3,)), validation=0.25, warm_up=1.5)
    bcpd.fit(mlp(1), world(), Supervised("ce"), recipe, seed=0)
    expected = [0.2 * (number + 1) / 6 for number in range(6)] + [0.2] * 2 + [0.02] * 4
    assert seen == pytest.approx(expected)


def test_a_recipe_without_a_warm_up_describes_itself_as_before() -> None:
    settings = {
        "epochs": 2,
        "learning_rate": 0.1,
        "batch_size": 64,
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 0.0,
        "schedule": {"kind": "Constant"},
        "validation": 0.1,
    }
    assert Recipe(epochs=2, learning_rate=0.1).describe() == settings
    assert Recipe(epochs=2, learning_rate=0.1, warm_up=0).describe() == settings
    assert Recipe(epochs=2, learning_rate=0.1, warm_up=1).describe() == {**settings, "warm_up": 1.0}
    assert repr(Recipe(epochs=2, learning_rate=0.1, warm_up=1).describe()["warm_up"]) == "1.0"


@pytest.mark.parametrize("warm_up", [-0.1, 2.5, float("nan"), float("inf")])
def test_a_warm_up_has_room_in_the_training(warm_up: float) -> None:
    with pytest.raises(ValueError, match=r"warm_up must lie in \[0, 2\], in epochs"):
        Recipe(epochs=2, learning_rate=0.1, warm_up=warm_up)
