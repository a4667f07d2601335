"""Opening, boundary and closing texts: values computed by hand, reasons for missing ones, aligned tables."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from blip_rl.cli import cli
from blip_rl.config import RunConfig
from blip_rl.records import ReturnRow, ScoreRow
from blip_rl.run.interruption import StopRequest
from blip_rl.run.scores import ScoreBook
from blip_rl.run.summary import boundary_line, closing_text, opening_text
from blip_rl.storage.run_folder import RunFolder
from tests.small_runs import small_config

NAN = np.nan


def make_config(tasks) -> RunConfig:
    """Create a recipe from task name → (random_score, reference_score) or None."""
    data = small_config().model_dump()
    data["tasks"] = [
        {
            "name": name,
            "game": "CartPole-v1",
            **dict(zip(("random_score", "reference_score"), pair or (), strict=False)),
        }
        for name, pair in tasks.items()
    ]
    return RunConfig.model_validate(data)


def closing(tasks, after, before=None, path="runs/x") -> list[str]:
    config = make_config(tasks)
    scores = ScoreBook(config, None, None, None, None, StopRequest(), None)  # only its matrices are read
    scores.after = np.array(after, dtype=float)
    scores.before = np.array(after if before is None else before, dtype=float)
    return closing_text(config, scores, path).splitlines()


def metric(lines, *name):
    """Return the cells of a metric's row, without its name."""
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    (found,) = [row for row in rows if tuple(row[: len(name)]) == name]
    return found[len(name) :]


# Task a from 0 to 100, task b from 20 to 60, task c from −20 to 0.
THREE = {"a": (0, 100), "b": (20, 60), "c": (-20, 0)}
AFTER = [[90, NAN, NAN], [70, 40, NAN], [30, 50, -5]]
# Normalised, row by row: 0.9; 0.7 and (40 − 20) / 40 = 0.5; 0.3, (50 − 20) / 40 = 0.75, (−5 + 20) / 20 = 0.75.


def test_every_metric_raw_and_normalised_by_hand():
    lines = closing(THREE, AFTER)
    assert metric(lines, "ACC") == ["25.0", "0.600"]  # (30 + 50 − 5) / 3; (0.3 + 0.75 + 0.75) / 3
    assert metric(lines, "ACC: worst game") == ["-5.00", "0.300"]
    assert metric(lines, "BWT") == ["-25.0", "-0.175"]  # (−60 + 10) / 2; (−0.6 + 0.25) / 2
    assert metric(lines, "BWT: worst game") == ["-60.0", "-0.600"]
    assert metric(lines, "accumulated reward") == ["75.0", "1.80"]
    assert metric(lines, "forgetting", "a") == ["+60.0", "+0.600"]
    assert metric(lines, "forgetting", "b") == ["-10.0", "-0.250"]
    assert not any(line.startswith("forgetting  c") for line in lines)  # nothing was learned after it
    assert "1 = the reference score" in "\n".join(lines)
    assert "undefined" not in "\n".join(lines)


def test_opening_and_closing_texts_explain_the_normalised_scale():
    data = make_config({"a": (0, 100), "b": None, "c": (0, 10)}).model_dump()
    data["tasks"][0]["reference_name"] = "human"
    config = RunConfig.model_validate(data)
    expected = "0 = random play, 1 = human (a), the reference score of the recipe (c)"
    assert f"\nnormalised scores: {expected}\n" in opening_text(config, Path("runs/x"), "cpu")
    scores = ScoreBook(config, None, None, None, None, StopRequest(), None)
    scores.after = scores.before = np.zeros((3, 3))
    assert f"normalised: {expected}" in closing_text(config, scores, Path("runs/x")).splitlines()
    assert "normalised" not in opening_text(make_config({"b": None}), Path("runs/x"), "cpu")


def test_the_score_table_shows_both_sides_of_each_boundary():
    before = [[95, NAN, NAN], [70, 45, NAN], [30, 50, -5]]
    lines = closing(THREE, AFTER, before)
    table = [line.split() for line in lines[1:8]]
    assert table[0] == ["mean", "raw", "return", "a", "b", "c"]
    assert table[1:3] == [["learned", "a", "before", "consolidation", "95.0"], ["after", "consolidation", "90.0"]]
    assert table[3] == ["learned", "b", "before", "consolidation", "70.0", "45.0"]
    assert table[4] == ["after", "consolidation", "70.0", "40.0"]


@pytest.mark.parametrize(
    ("tasks", "after", "expected"),
    [
        (
            {"a": (0, 100)},
            [[40]],
            {
                ("ACC",): ["40.0", "0.400"],
                ("BWT",): ["undefined (one task)"] * 2,
                ("forgetting", "a"): ["undefined (one task)"] * 2,
                ("accumulated reward",): ["40.0", "0.400"],
            },
        ),
        (
            {"a": None},
            [[40]],
            {("ACC",): ["40.0", "undefined (no normalisers)"], ("BWT",): ["undefined (one task)"] * 2},
        ),
        (
            THREE,
            [[NAN] * 3, [NAN] * 3, [30, 50, -5]],
            {
                ("ACC",): ["25.0", "0.600"],
                ("BWT",): ["undefined (learned together)"] * 2,
                ("forgetting", "a"): ["undefined (learned together)"] * 2,
                ("learned together",): ["before consolidation", "30.0", "50.0", "-5.00"],
            },
        ),
        (
            {"a": (0, 100), "b": (0, 100)},
            [[50, NAN], [NAN, 50]],
            {("ACC",): ["undefined (not measured)"] * 2, ("forgetting", "a"): ["undefined (not measured)"] * 2},
        ),
        ({"a": (0, 100), "b": (0, 100)}, [[50, NAN], [50 - 1e-9, 50]], {("BWT",): ["0.00", "0.00"]}),  # no "-0.00"
        (
            {"a": (0, 1), "b": (0, 1)},  # as in MiniGrid: 0.958 must not be shown as 1.0
            [[0.958, NAN], [0.5, 0.9127]],
            {
                ("learned a",): ["before consolidation", "0.958"],
                ("ACC",): ["0.706", "0.706"],
                ("BWT",): ["-0.458", "-0.458"],
            },
        ),
    ],
    ids=["one task", "no normalisers", "learned together", "missing score", "tiny change", "returns below 1"],
)
def test_a_metric_is_shown_or_the_reason_why_it_is_undefined(tasks, after, expected):
    lines = closing(tasks, after)
    assert {name: metric(lines, *name) for name in expected} == expected


def test_normalised_metrics_are_over_the_tasks_with_normalisers():
    lines = closing({"a": (0, 100), "b": None, "c": (-20, 0)}, AFTER)
    assert metric(lines, "ACC") == ["25.0", "0.525"]  # (0.3 + 0.75) / 2
    assert metric(lines, "ACC: worst game") == ["-5.00", "0.300"]
    assert metric(lines, "BWT") == ["-25.0", "-0.600"]
    assert metric(lines, "BWT: worst game") == ["-60.0", "-0.600"]
    assert metric(lines, "accumulated reward") == ["75.0", "1.05"]
    assert metric(lines, "forgetting", "a") == ["+60.0", "+0.600"]
    assert metric(lines, "forgetting", "b") == ["-10.0", "undefined (no normalisers)"]
    (note,) = [line for line in lines if line.startswith("not normalised")]
    assert "b, for which the recipe gives no random_score and reference_score; normalised metrics are over" in note
    lines = closing({"a": None, "b": (0, 100)}, [[50, NAN], [40, 50]])
    assert metric(lines, "BWT") == ["-10.0", "undefined (one normalised task)"]


def test_metrics_of_a_stage_by_hand():
    """Task a, from 0 to 10, comes back after b, from 0 to 10; c, which is visited last, has no normalisers."""
    data = make_config({"a": (0, 10), "b": (0, 10), "c": None}).model_dump()
    config = RunConfig.model_validate(data | {"order": ("a", "b", "a", "c")})
    scores = ScoreBook(config, RunFolder(Path("runs/x")), None, None, None, StopRequest(), None)
    found = [(1, "after", "a", 8), (2, "start", "b", 0), (2, "periodic", "a", 2), (2, "before", "a", 5)]
    found += [(2, "after", "a", 5), (2, "after", "b", 6), (3, "periodic", "b", 1), (3, "after", "a", 9)]
    found += [(3, "after", "b", 4), (4, "after", "a", 9), (4, "after", "b", 4), (4, "after", "c", 70)]
    scores.restore([ScoreRow(n, *where, 0, score, 9, False, None, "greedy") for n, (*where, score) in enumerate(found)])
    first, second, third, last = (scores.summary(stage) for stage in range(1, 5))
    assert first["acc"] == first["worst_task"] == 0.8
    assert np.isnan([first["bwt"], first["stability_gap"], second["forgetting_between_visits"]]).all()
    assert second["stability_gap"] == pytest.approx(0.8 - 0.2)
    assert third["stability_gap"] == pytest.approx(0.6 - 0.1)
    assert third["forgetting_between_visits"] == pytest.approx(0.8 - 0.5)
    assert (last["acc"], last["worst_task"]) == (pytest.approx(0.65), 0.4)
    assert (last["bwt"], last["worst_bwt"]) == (pytest.approx((0 - 0.2) / 2), pytest.approx(-0.2))
    assert last["stability_gap"] == 0


def test_last_cycle_sum_is_over_the_training_returns_of_last_visits(tmp_path):
    config = RunConfig.model_validate(make_config({"a": None, "b": None}).model_dump() | {"order": ("a", "b", "a")})
    folder = RunFolder(tmp_path)
    folder.begin_tables()
    folder.add_returns(ReturnRow(*row) for row in [(9, 1, "a", 1, 50), (9, 2, "b", 1, 4), (9, 2, "b", 3, 8)])
    scores = ScoreBook(config, folder, None, None, None, StopRequest(), None)
    assert np.isnan(scores.last_cycle_sum(1))
    assert scores.last_cycle_sum(2) == 50 + 7
    assert metric(closing_text(config, scores, tmp_path).splitlines(), "last-cycle sum") == [
        "undefined (no episode ended)"
    ]
    folder.add_returns([ReturnRow(9, 3, "a", 2, 5)])
    assert scores.last_cycle_sum(3) == 5 + 7
    assert metric(closing_text(config, scores, tmp_path).splitlines(), "last-cycle sum") == ["12.0"]


def test_the_line_of_a_boundary_keeps_three_digits():
    config = make_config({"a": (0, 1), "b": (0, 1)})
    scores = ScoreBook(config, None, None, None, None, StopRequest(), None)
    scores.before[0], scores.after[0] = [0.9127, NAN], [0.958, NAN]
    assert boundary_line(config, scores, 1, {}) == "after a: a 0.913 → 0.958"
    scores.before[0] = scores.after[0]
    assert boundary_line(config, scores, 1, {}) == "after a: a 0.958"


def test_the_commands_at_the_end_exist_and_can_be_pasted():
    lines = closing({"a": (0, 100)}, [[40]], path="runs/my run")
    commands = [shlex.split(line)[1:] for line in lines if "blip-rl " in line]
    assert [verb for _, verb, _ in commands] == ["report", "render", "inspect", "evaluate"]
    assert all(program == "blip-rl" and verb in cli.commands for program, verb, _ in commands)
    assert {path for *_, path in commands} == {"runs/my run"}


@pytest.mark.parametrize(
    ("tasks", "after"),
    [
        (THREE, AFTER),
        ({"a": None, "a-game-with-a-very-long-name": (0, 100)}, [[-12345.6, NAN], [7, 8]]),
        ({"a": (0, 100)}, [[40]]),
    ],
)
def test_numbers_are_aligned_with_their_headings(tasks, after):
    """In a table of right-aligned numbers, every full row ends where its heading ends."""
    lines = closing(tasks, after)
    start = next(number for number, line in enumerate(lines) if line.startswith("metric"))
    heading = lines[start]
    rows = [line for line in lines[start + 1 :] if line.startswith(("ACC", "BWT", "accumulated", "forgetting  "))]
    assert len(rows) == 5 + max(1, len(tasks) - 1)
    assert {len(line) for line in rows} == {len(heading)}
    gap = heading.index("raw return") + len("raw return")
    assert {line[gap : gap + 2] for line in rows} == {"  "}
    assert {line[gap - 1] == " " for line in rows} == {False}
