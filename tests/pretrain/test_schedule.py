"""Schedules by their values."""

import pytest
from pydantic import TypeAdapter, ValidationError

from pretrain.recipes.schedule import Schedule, Scheduled, steps_of


def values(schedule: Schedule, steps: int) -> list[float]:
    return [round(schedule.at(step, steps), 6) for step in range(steps)]


def test_a_number_is_constant() -> None:
    assert values(TypeAdapter(Scheduled).validate_python(0.5), 4) == [0.5] * 4


def test_warms_up_linearly_and_stays() -> None:
    assert values(Schedule(start=0, peak=1, warmup=4), 6) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_ends_at_the_end_by_a_cosine() -> None:
    found = values(Schedule(peak=1, end=0), 4)
    assert found == pytest.approx([0.853553, 0.5, 0.146447, 0], abs=1e-6)


def test_decays_only_in_the_last_part() -> None:
    assert values(Schedule(peak=2, end=1, decay=2), 5) == [2, 2, 2, 1.5, 1]


def test_lengths_up_to_one_are_shares_of_the_run() -> None:
    assert [steps_of(0.1, 200), steps_of(1, 200), steps_of(2, 200), steps_of(0, 200)] == [20, 200, 2, 0]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Scheduled).validate_python({"peak": 1, "warm": 2})
