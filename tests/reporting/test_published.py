"""Tests of the table of published scores."""

from __future__ import annotations

from blip_rl.recipes import resolve
from blip_rl.reporting.published import published_table
from blip_rl.reporting.task import Task, read_tasks


def test_other_scores_are_shown_with_their_normalised_values():
    task = Task(
        name="boxing",
        random_score=0,
        reference_score=50,
        reference_name="PPO",
        human_score=12,
        other_scores={"new": 75},
    )
    table = published_table([task, Task(name="krull")])
    assert [name for name, _ in table.columns] == ["0", "1", "human", "new"]
    assert [row.cells for row in table.rows] == [
        (("0.00", ""), ("50.0", ""), ("12.0", "0.24"), ("75.0", "1.50")),
        (("–", ""),) * 4,
    ]


def test_a_reference_that_is_the_human_score_is_not_repeated():
    task = Task(name="pong", random_score=-20, reference_score=14, reference_name="human", human_score=14)
    assert published_table([task]) is None


def test_three_newer_scores_of_the_six_games_are_above_the_reference():
    problems: list[str] = []
    tasks = read_tasks({"tasks": [task.model_dump() for task in resolve("atari6", "blip").tasks]}, problems)
    assert not problems
    above = [row.title for row in published_table(tasks).rows if float(row.cells[-1][1]) > 1]
    assert above == ["Kung-Fu Master", "James Bond", "River Raid"]
