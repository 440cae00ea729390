"""Learning rates of the published recipes, exactly, and the shape of the curve."""

import math

import pytest
from composing import compose_config

from dl2pa.schedule import Schedule

STEPS = 13


def rates(*words: str) -> list[float]:
    """The learning rate of each epoch of the run that ``launch.py WORDS`` starts, the same at all of its steps."""
    cfg = compose_config(*words)
    options = cfg.schedule
    schedule = Schedule(
        options.name,
        cfg.epochs,
        options.per,
        options.warmup,
        list(options.milestones),
        options.gamma,
        options.warmup_start,
        options.floor,
    )
    found = []
    for epoch in range(cfg.epochs):
        of_epoch = {cfg.optimizer.lr * schedule.factor(epoch, step, STEPS) for step in (0, 1, STEPS - 1, STEPS)}
        assert len(of_epoch) == 1
        found.append(of_epoch.pop())
    return found


def by_step(schedule: Schedule, steps: int = STEPS) -> list[float]:
    return [schedule.factor(epoch, step, steps) for epoch in range(schedule.epochs) for step in range(steps)]


@pytest.mark.parametrize("dataset", ["cifar100", "imagenet200"])
def test_the_balanced_recipe(dataset: str) -> None:
    """HPN and DL2PA: .01, times .1 before epochs 100 and 200 of 250, counted from 0."""
    assert rates(f"dataset={dataset}") == pytest.approx([0.01] * 100 + [0.001] * 100 + [0.0001] * 50, rel=1e-12)


@pytest.mark.parametrize("dataset", ["cifar10_lt", "cifar100_lt", "svhn_lt", "stl10_lt"])
def test_the_long_tail_recipe(dataset: str) -> None:
    """ETF and DL2PA, 200 epochs, counted from 1: .1 e / 5 up to 5, .1 up to 160, .01 up to 180, then .001."""
    expected = [0.1 * e / 5 if e <= 5 else 0.1 if e <= 160 else 0.01 if e <= 180 else 0.001 for e in range(1, 201)]
    assert rates(f"dataset={dataset}") == pytest.approx(expected, rel=1e-12)


def test_the_imagenet_recipe() -> None:
    """EBV and DL2PA, 105 epochs: from .01 x .5 linearly over 5, then half a cosine to 0 over 100, once an epoch."""
    warm = [0.5 * (0.01 + 0.99 * epoch / 5) for epoch in range(5)]
    expected = [*warm, *(0.25 * (1 + math.cos(math.pi * epoch / 100)) for epoch in range(100))]
    assert rates("dataset=imagenet") == pytest.approx(expected, rel=1e-9)
    assert rates("dataset=imagenet")[:6] == pytest.approx([0.005, 0.104, 0.203, 0.302, 0.401, 0.5])


def test_the_imagenet_lt_recipe() -> None:
    """ETF: .1, half a cosine over 90 epochs, no warm-up."""
    expected = [0.05 * (1 + math.cos(math.pi * epoch / 90)) for epoch in range(90)]
    assert rates("dataset=imagenet_lt") == pytest.approx(expected)


def test_recipes_scale_with_the_epochs() -> None:
    """A tenth of the epochs of either recipe; the warm-up of half an epoch is over within the first."""
    assert rates("dataset=cifar100", "epochs=25") == pytest.approx([0.01] * 10 + [0.001] * 10 + [0.0001] * 5)
    assert rates("dataset=cifar10_lt", "epochs=20") == pytest.approx([0.1] * 16 + [0.01] * 2 + [0.001] * 2)
    assert rates("dataset=cifar10_lt", "epochs=400") == pytest.approx(
        [0.1 * e / 10 for e in range(1, 11)] + [0.1] * 310 + [0.01] * 40 + [0.001] * 40
    )


def test_milestones_fall_on_whole_epochs_in_spite_of_floats() -> None:
    """Hundredths of every number of epochs that they divide: 0.07 x 100 is 7.000000000000001."""
    for epochs in range(1, 301):
        for hundredths in range(1, 100):
            if epochs * hundredths % 100 == 0:
                k, schedule = epochs * hundredths // 100, Schedule("step", epochs, milestones=(hundredths / 100,))
                assert schedule.factor(k - 1, 0, 1) == 1
                assert schedule.factor(k, 0, 1) == 0.1


def test_steps_of_another_gamma_multiply() -> None:
    schedule = Schedule("step", 10, milestones=(0.2, 0.5, 0.5), gamma=0.5)
    assert [schedule.factor(epoch, 0, 1) for epoch in range(10)] == [1, 1, 0.5, 0.5, 0.5] + [0.125] * 5


def test_cosine_by_epoch_is_the_usual_one() -> None:
    schedule = Schedule("cosine", 90)
    expected = [0.5 * (1 + math.cos(math.pi * epoch / 90)) for epoch in range(90)]
    assert by_step(schedule) == pytest.approx([value for value in expected for _ in range(STEPS)])


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_by_step_the_curve_rises_to_one_and_falls_to_zero(shape: str) -> None:
    epochs, warm = 20, 3 * STEPS
    schedule = Schedule(shape, epochs, per="step", warmup=0.15)
    factors = by_step(schedule)
    assert factors[:warm] == pytest.approx([(step + 1) / warm for step in range(warm)])
    rest = epochs * STEPS - warm
    falls = [1 - step / rest for step in range(rest)]
    expected = falls if shape == "linear" else [0.5 * (1 - math.cos(math.pi * left)) for left in falls]
    assert factors[warm:] == pytest.approx(expected)
    assert schedule.factor(epochs - 1, STEPS, STEPS) == pytest.approx(0)  # where the run ends


def test_cosine_with_warm_up_by_epoch() -> None:
    schedule = Schedule("cosine", 105, warmup=5 / 105)
    factors = [schedule.factor(epoch, 0, 1) for epoch in range(105)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:] == pytest.approx([0.5 * (1 + math.cos(math.pi * epoch / 100)) for epoch in range(100)])


def test_the_start_of_the_warm_up_and_the_floor() -> None:
    """DNC's Swin-T: 20 of 300 epochs from 1e-3 of the rate, then down to 1 % of it."""
    schedule = Schedule("cosine", 300, per="step", warmup=20 / 300, warmup_start=1e-3, floor=0.01)
    factors = by_step(schedule)
    warm = 20 * STEPS
    assert factors[0] == pytest.approx(1e-3)
    assert factors[:warm] == pytest.approx([1e-3 + 0.999 * step / warm for step in range(warm)])
    assert factors[warm] == 1
    assert factors[warm + 140 * STEPS] == pytest.approx(0.01 + 0.99 / 2)
    assert schedule.factor(299, STEPS, STEPS) == pytest.approx(0.01)
    assert min(factors[warm:]) >= 0.01


def test_steps_by_step_change_at_the_same_place_as_by_epoch() -> None:
    schedule = Schedule("step", 7, per="step", milestones=(0.5,))  # in the middle of epoch 3
    factors = by_step(schedule, 10)
    assert factors == pytest.approx([1.0] * 35 + [0.1] * 35)


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("shape", ["step", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 0.07, 0.15, 0.29, 0.333, 0.55, 1.0])
def test_no_factor_is_over_one_or_below_zero(shape: str, per: str, warmup: float) -> None:
    """Also where the warm-up ends in the middle of an epoch or step, or with the run, and at the end of an epoch."""
    for epochs in (1, 3, 10, 22, 100):
        schedule = Schedule(shape, epochs, per, warmup, milestones=(0.8,))
        assert all(0 <= schedule.factor(epoch, 15, 15) <= 1 for epoch in range(epochs))
        factors = by_step(schedule, 15)
        assert all(0 <= factor <= 1 for factor in factors)
        peak = factors.index(max(factors))
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)
