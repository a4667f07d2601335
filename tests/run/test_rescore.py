"""``blip-rl evaluate``: scores from checkpoints equal the run's own, and replace instead of doubling."""

import csv
import shutil

import pytest

from blip_rl.errors import UserError
from blip_rl.run.rescore import evaluate_run


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def rows(run):
    with (run / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def after(run, actions="greedy"):
    chosen = [r for r in rows(run) if r["phase"] == "after" and r["actions"] == actions]
    return sorted((r["stage"], r["task"], int(r["seed"]) - 1_000_003, r["return"]) for r in chosen)


def test_the_checkpoints_play_exactly_as_the_run_did(run):
    before, count = after(run), len(rows(run))
    table = evaluate_run(run)
    assert after(run) == before
    assert len(rows(run)) == count
    assert "learned cartpole-a" in table
    assert "learned cartpole-b" in table


def test_more_episodes_extend_the_matrix(run):
    evaluate_run(run, episodes=5, games=("cartpole-a",))
    episodes = [e for stage, task, e, _ in after(run) if (stage, task) == ("2", "cartpole-a")]
    assert episodes == [0, 1, 2, 3, 4]
    assert [e for stage, task, e, _ in after(run) if task == "cartpole-b"] == [0, 1, 2]


def test_other_seeds_add_episodes_and_take_none_away(run):
    before = after(run)
    evaluate_run(run, episodes=1, seed=7)
    assert set(before) < set(after(run))
    assert {seed + 1_000_003 for _, _, seed, _ in set(after(run)) - set(before)} == {7}


def test_fewer_episodes_take_none_away(run):
    before = after(run)
    evaluate_run(run, episodes=1)
    assert after(run) == before


def test_a_stage_that_is_not_the_runs_is_refused(run):
    shutil.copytree(run / "checkpoints" / "stage-01", run / "checkpoints" / "stage-07")
    with pytest.raises(UserError, match="stage-07"):
        evaluate_run(run)


def test_stochastic_scores_stand_beside_greedy_ones(run):
    greedy = after(run)
    evaluate_run(run, actions="stochastic")
    assert after(run) == greedy
    assert len(after(run, "stochastic")) == len(greedy)


def test_zero_shot_fills_the_upper_triangle(run):
    evaluate_run(run, zero_shot=True)
    assert ("1", "cartpole-b") in {(stage, task) for stage, task, _, _ in after(run)}


def test_what_cannot_be_evaluated_is_said(run, tmp_path):
    with pytest.raises(UserError, match=r"never saw 'cartpole-x'.*cartpole-a"):
        evaluate_run(run, games=("cartpole-x",))
    with pytest.raises(UserError, match="not a run folder"):
        evaluate_run(tmp_path)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="no stage checkpoint"):
        evaluate_run(run)


def test_damaged_scores_are_not_overwritten(run):
    (run / "scores.csv").write_text("nonsense\n1\n")
    with pytest.raises(UserError, match="scores"):
        evaluate_run(run)
    assert (run / "scores.csv").read_text() == "nonsense\n1\n"
