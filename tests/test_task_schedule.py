import pytest

from blip_rl.task_schedule import Schedule, TaskConfig

A, B, C = (TaskConfig(name=name, game="pong", steps=steps) for name, steps in (("a", 10), ("b", 20), ("c", 40)))


def test_each_task_is_learned_once_by_default():
    once = Schedule(tasks=(A, B))
    assert (once.visits, once.stages, once.total_steps) == ((0, 1), 2, 30)
    assert [once.task_of(stage) for stage in (1, 2)] == [A, B]
    assert [once.visit(stage) for stage in (1, 2)] == [1, 1]


def test_a_task_comes_back():
    mixed = Schedule(tasks=(A, B, C), order=("a", "b", "a", "c"), cycles=2)
    assert mixed.visits == (0, 1, 0, 2, 0, 1, 0, 2)
    assert mixed.stages == len(mixed.visits)
    assert [mixed.visit(stage) for stage in range(1, 9)] == [1, 1, 2, 1, 3, 2, 4, 2]
    assert [len(mixed.seen(stage)) for stage in range(1, 9)] == [1, 2, 2, 3, 3, 3, 3, 3]
    assert mixed.total_steps == 2 * (10 + 20 + 10 + 40)


@pytest.mark.parametrize("cycles", [0, 251, True, 1.5])
def test_cycles_that_are_no_count_are_refused(cycles):
    with pytest.raises(ValueError, match="cycles"):
        Schedule(tasks=(A,), cycles=cycles)
