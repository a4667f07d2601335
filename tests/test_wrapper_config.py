"""Wrappers in recipes: text or tables, written back as they were."""

import datetime

import pytest
import tomli_w
from pydantic import ValidationError

from blip_rl.task_schedule import TaskConfig
from tests.doors import FLAT

LIMIT = {"wrapper": "gymnasium.wrappers:TimeLimit", "max_episode_steps": 9}


def test_a_wrapper_is_text_or_a_table_with_arguments():
    task = TaskConfig(name="a", game="CartPole-v1", wrappers=[FLAT, LIMIT])
    flat, limit = task.wrappers
    assert (flat.module, flat.class_name, flat.arguments) == ("gymnasium.wrappers", "FlattenObservation", {})
    assert limit.arguments == {"max_episode_steps": 9}
    dumped = task.model_dump(mode="json", exclude_none=True)
    assert dumped["wrappers"] == [FLAT, LIMIT]
    assert TaskConfig(**dumped) == task
    assert tomli_w.dumps(dumped)


def test_arrays_are_passed_as_tuples_and_written_as_arrays():
    reshape = {"wrapper": "gymnasium.wrappers:ReshapeObservation", "shape": [2, 2]}
    task = TaskConfig(name="a", game="x", wrappers=[reshape])
    assert task.wrappers[0].arguments == {"shape": (2, 2)}
    assert task.model_dump(mode="json")["wrappers"] == [reshape]


def test_arguments_are_part_of_a_task():
    first, second = (TaskConfig(name="a", game="x", wrappers=[{**LIMIT, "max_episode_steps": n}]) for n in (1, 2))
    assert first != second


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("FlattenObservation", "expected package.module:Class"),
        ("a.b:C.d", "expected package.module:Class"),
        ("../x:C", "expected package.module:Class"),
        (3, "valid dictionary or instance"),
        ({"max_episode_steps": 9}, "Field required"),
        ({**LIMIT, "env": 1}, "other than 'env'"),
        ({**LIMIT, "a b": 1}, "expected the name of an argument"),
        ({**LIMIT, "since": datetime.date(2020, 1, 1)}, "since = 2020-01-01: expected text"),
        ({**LIMIT, "most": [float("inf")]}, "finite numbers"),
    ],
)
def test_other_wrappers_are_refused(wrapper, message):
    with pytest.raises(ValidationError, match=message):
        TaskConfig(name="a", game="CartPole-v1", wrappers=[wrapper])


def test_too_many_wrappers_are_refused():
    with pytest.raises(ValidationError, match="at most 20"):
        TaskConfig(name="a", game="CartPole-v1", wrappers=[FLAT] * 21)
