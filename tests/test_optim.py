"""Learning-rate schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamnest.errors import UserError
from streamnest.optim import Optimization


def optimization(schedule: str, **changes: Any) -> Optimization:
    settings = {"lr": 1e-3, "min_lr": 0.0, "warmup_steps": 10, "max_steps": 100, "d_model": 8, "betas": [0.9, 0.98]}
    return Optimization(schedule, weight_decay=0.5, **{**settings, **changes})


def tri_stage(**changes: Any) -> Optimization:
    return optimization("tri_stage", **changes)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("noam", {1: 0.5 * 10**-1.5, 10: 0.5 * 10**-0.5, 40: 0.5 * 40**-0.5, 10**6: 0.01}),
        ("cosine", {1: 0.1, 10: 1.0, 55: 0.505, 100: 0.01, 200: 0.01}),
        ("constant", {1: 0.1, 10: 1.0, 200: 1.0}),
    ],
)
def test_rates_follow_the_formula_of_the_schedule(schedule: str, rates: dict[int, float]) -> None:
    made = optimization(schedule, lr=1.0, min_lr=0.01, d_model=4)
    assert {step: made.learning_rate(step) for step in rates} == pytest.approx(rates, rel=1e-9)
    # The first update has number 1, and the schedule advances after each of them; vectors have no decay.
    optimizer, scheduler = made.build(torch.nn.Linear(2, 2))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    for step in (1, 2, 3):
        assert optimizer.param_groups[0]["lr"] == made.learning_rate(step)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("step", "rate"),
    [(1, 1e-4), (5, 5e-4), (10, 1e-3), (11, 1e-3), (50, 1e-3), (75, 1e-3 * 0.05**0.5), (100, 5e-5), (200, 5e-5)],
)
def test_three_stages_warm_up_hold_and_decay_exponentially(step: int, rate: float) -> None:
    assert tri_stage().learning_rate(step) == pytest.approx(rate, rel=1e-12)
    assert tri_stage(min_lr=6e-5).learning_rate(step) == pytest.approx(rate if step < 100 else 6e-5, rel=1e-12)


def test_a_run_may_hold_its_rate_until_the_end() -> None:
    assert tri_stage(hold_share=0.9).learning_rate(100) == pytest.approx(1e-3)


def test_the_shares_of_the_config_scale_with_the_run(composed: Any) -> None:
    for steps in (100, 100_000):
        optim = composed("optim=adamw_tristage", f"trainer.max_steps={steps}").optim
        made = Optimization(**{key: value for key, value in optim.items() if key != "_target_"})
        rates = [made.learning_rate(round(share * steps)) for share in (0.05, 0.1, 0.5, 0.75, 1.0)]
        assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3 * 0.05**0.5, 5e-5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "tri_stage needs trainer.max_steps"),
        ({"hold_share": 0.91}, "hold_share=0.91: must be from 0 to 0.9"),
        ({"warmup_steps": 101}, "from 0 to 0, because optim.warmup_steps=101 takes 1.01 of 100 steps"),
        ({"final_scale": 0.0}, "final_scale=0.0: must be above 0"),
    ],
)
def test_stages_that_do_not_fit_the_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tri_stage(**changes)
