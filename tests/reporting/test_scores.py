"""Tests of reading scores: matrices and curves of hand-written run folders, and messages about damaged ones."""

import csv

import numpy as np
import pytest

from blip_rl.core import metrics
from blip_rl.errors import UserError
from blip_rl.reporting.scores import load_scores

HEADER = "env_steps,stage,phase,task,seed,return,length_steps,truncated,normalised,actions"
CONFIG = """agent_name = "blip"
seed = 7
[evaluation]
actions = "greedy"
[[tasks]]
name = "a"
[[tasks]]
name = "b"
"""

# Two tasks, two episodes each; the normalised score is the return over 100.
RUN = [
    (50, 1, "periodic", "a", (10, 30)),
    (100, 1, "before", "a", (80, 90)),
    (100, 1, "after", "a", (60, 80)),
    (150, 2, "periodic", "a", (40, 50)),
    (150, 2, "periodic", "b", (0, 10)),
    (200, 2, "before", "a", (30, 40)),
    (200, 2, "before", "b", (50, 50)),
    (200, 2, "after", "a", (20, 40)),
    (200, 2, "after", "b", (50, 70)),
]


def lines(evaluations, actions="greedy", normalised=True):
    for steps, stage, phase, task, returns in evaluations:
        for seed, score in enumerate(returns):
            yield f"{steps},{stage},{phase},{task},{seed},{score},9,0,{score / 100 if normalised else ''},{actions}"


def write(folder, rows, config=CONFIG, header=HEADER):
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(config, encoding="utf-8")
    (folder / "scores.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path):
    return write(tmp_path, lines(RUN))


def refused(folder):
    with pytest.raises(UserError) as caught:
        load_scores(folder)
    return str(caught.value)


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_matrices_are_means_over_episodes(run):
    scores = load_scores(run)
    assert (scores.agent, scores.seed, scores.tasks) == ("blip", 7, ("a", "b"))
    same(scores.before, [[85, np.nan], [35, 50]])
    same(scores.after, [[70, np.nan], [30, 60]])
    same(scores.before_normalised, [[0.85, np.nan], [0.35, 0.5]])
    same(scores.after_normalised, [[0.7, np.nan], [0.3, 0.6]])


def test_curves_hold_periodic_scores_and_scores_after_consolidation(run):
    first, second = load_scores(run).curves
    np.testing.assert_array_equal(first.env_steps, [50, 100, 150, 200])
    np.testing.assert_array_equal(first.stages, [1, 1, 2, 2])
    same(first.mean_return, [20, 70, 45, 30])
    same(first.normalised, [0.2, 0.7, 0.45, 0.3])
    np.testing.assert_array_equal(second.env_steps, [150, 200])
    same(second.mean_return, [5, 60])


def test_since_leaves_out_scores_before_a_tasks_training(tmp_path):
    second = load_scores(write(tmp_path, lines([(100, 1, "after", "b", (7, 7)), *RUN]))).curves[1]
    assert second.env_steps.tolist() == [100, 150, 200]
    assert second.since(2).env_steps.tolist() == [150, 200]
    same(second.since(2).mean_return, [5, 60])


def test_score_after_consolidation_replaces_a_periodic_score_at_the_same_step(tmp_path):
    extra = [(100, 1, "periodic", "a", (0, 0))]
    curve = load_scores(write(tmp_path, lines(RUN + extra))).curves[0]
    assert curve.env_steps.tolist() == [50, 100, 150, 200]
    same(curve.mean_return, [20, 70, 45, 30])


def test_score_before_consolidation_is_not_on_the_curve(tmp_path):
    curve = load_scores(write(tmp_path, lines(RUN[:2]))).curves[0]  # scored before consolidation, and never after
    assert curve.env_steps.tolist() == [50]


def test_scores_with_other_actions_are_left_out(tmp_path):
    others = lines([(200, 2, "after", "a", (1000, 1000))], actions="stochastic")
    scores = load_scores(write(tmp_path, [*lines(RUN), *others]))
    same(scores.after, [[70, np.nan], [30, 60]])
    same(scores.curves[0].mean_return, [20, 70, 45, 30])
    stochastic = CONFIG.replace("greedy", "stochastic")
    scores = load_scores(write(tmp_path, [*lines(RUN), *lines(RUN, "stochastic")], config=stochastic))
    same(scores.after, [[70, np.nan], [30, 60]])


def test_other_actions_are_used_if_no_episode_has_the_recipes(tmp_path):
    scores = load_scores(
        write(tmp_path / "greedy", [*lines(RUN), *lines([(200, 2, "after", "a", (1,))], "stochastic")])
    )
    assert (scores.actions, scores.episodes, scores.other_episodes) == ("greedy", len(list(lines(RUN))), 1)
    only = load_scores(write(tmp_path / "stochastic", lines(RUN, "stochastic")))
    same(only.after, [[70, np.nan], [30, 60]])
    assert (only.actions, only.other_episodes) == ("stochastic", 0)


def test_scores_before_training_are_on_curves_but_not_in_the_matrix(tmp_path):
    start = [(0, 0, "periodic", "a", (5, 5)), (0, 0, "after", "b", (3, 3)), (100, 2, "start", "b", (3,))]
    scores = load_scores(write(tmp_path, lines(RUN + start)))
    same(scores.after, [[70, np.nan], [30, 60]])
    assert scores.curves[0].env_steps.tolist() == [0, 50, 100, 150, 200]
    assert scores.curves[1].since(2).env_steps.tolist() == [100, 150, 200]


def test_tasks_learned_together_fill_the_last_row_of_the_matrix(tmp_path):
    scores = load_scores(write(tmp_path, lines([(200, 2, "after", "a", (20, 40)), (200, 2, "after", "b", (50, 70))])))
    same(scores.after_normalised, [[np.nan, np.nan], [0.3, 0.6]])
    same(metrics.average_performance(scores.after_normalised), 0.45)


def test_normalised_scores_are_nan_without_normalisers(tmp_path):
    scores = load_scores(write(tmp_path, lines(RUN, normalised=False)))
    same(scores.after, [[70, np.nan], [30, 60]])
    assert np.isnan(scores.after_normalised).all()
    assert np.isnan(scores.curves[0].normalised).all()


def test_run_without_scores_is_empty(tmp_path):
    scores = load_scores(write(tmp_path, []))
    assert np.isnan(scores.after).all()
    assert [len(curve.env_steps) for curve in scores.curves] == [0, 0]


def test_folder_without_config_is_refused(run):
    (run / "config.toml").unlink()
    message = refused(run)
    assert f"'{run}' is not a run folder: it has no config.toml" in message
    assert "blip-rl train" in message
    assert "config.toml" in refused(run / "nowhere")


@pytest.mark.parametrize(
    "text",
    [b"agent_name = ", b"tasks = 3\n", b'agent_name = "blip"\nseed = 0\n', b"evaluation = 3\n", b"\xff\xfe\x00"],
)
def test_invalid_config_is_refused(run, text):
    (run / "config.toml").write_bytes(text)
    message = refused(run)
    assert str(run / "config.toml") in message
    assert "restore" in message


def test_missing_scores_are_refused(run):
    (run / "scores.csv").unlink()
    message = refused(run)
    assert f"'{run / 'scores.csv'}' is missing" in message
    assert "train again" in message


def test_missing_columns_are_named(tmp_path):
    message = refused(write(tmp_path, [], header="env_steps,stage,phase,task"))
    assert "scores.csv' has no column seed, return, length_steps, truncated, normalised, actions" in message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01", b'env_steps,"stage\n'])
def test_file_that_is_no_table_is_refused(run, content):
    (run / "scores.csv").write_bytes(content)
    assert "scores.csv" in refused(run)


def test_truncated_last_line_is_named_wherever_it_was_cut(run):
    """An interrupted write may cut the last row anywhere."""
    text = (run / "scores.csv").read_text(encoding="utf-8").rstrip("\n")
    expected = load_scores(run)
    last = len(text.splitlines())
    for cut in range(1, len(text.splitlines()[-1])):
        (run / "scores.csv").write_text(text[:-cut], encoding="utf-8")
        message = refused(run)
        assert f"scores.csv', line {last}: " in message
        assert "correct or delete this line" in message or "not one of config.toml's" in message
    (run / "scores.csv").write_text(text, encoding="utf-8")
    same(load_scores(run).after, expected.after)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("stage", ""),
        ("stage", "3"),  # of two
        ("phase", "sometimes"),
        ("return", "ten"),
        ("seed", "1,2"),
    ],
)
def test_damaged_line_is_named(run, column, value):
    rows = list(csv.reader((run / "scores.csv").read_text(encoding="utf-8").splitlines()))
    rows[4][rows[0].index(column)] = value
    (run / "scores.csv").write_text("\n".join(map(",".join, rows)) + "\n", encoding="utf-8")
    message = refused(run)
    assert "scores.csv', line 5: " in message
    assert "correct or delete this line" in message


def test_unknown_task_is_named_with_the_known_ones(tmp_path):
    message = refused(write(tmp_path, lines([(100, 1, "after", "pong", (1, 2))])))
    assert "line 2: task 'pong' is not one of config.toml's (a, b)" in message
    assert "of the same run" in message
