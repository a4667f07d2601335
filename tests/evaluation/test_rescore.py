"""``blip-rl evaluate``: scores from checkpoints equal those of the run and replace its rows."""

import csv
import dataclasses
import errno
import os
import shutil

import pytest
import torch
from click.testing import CliRunner

from blip_rl import cli
from blip_rl.errors import RunError, UserError
from blip_rl.evaluation import cells
from blip_rl.evaluation import episodes as evaluation
from blip_rl.evaluation.cells import Cell, play_here
from blip_rl.evaluation.pool import play_in_workers
from blip_rl.evaluation.rescore import ScoringPlayer, evaluate_run
from blip_rl.formatting import score_text
from blip_rl.recipes import load_run_config
from blip_rl.storage import checkpoint
from blip_rl.storage.run_folder import RunFolder


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def rows(run):
    with (run / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def after(run, actions="greedy"):
    chosen = [r for r in rows(run) if r["phase"] == "after" and r["actions"] == actions]
    return sorted((r["stage"], r["task"], int(r["seed"]) - 1_000_003, r["return"]) for r in chosen)


def test_scores_of_the_checkpoints_equal_those_of_the_run(run):
    before, count = after(run), len(rows(run))
    table = evaluate_run(run).text
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


def test_invalid_requests_are_refused_with_the_reason(run, tmp_path):
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


def test_the_table_has_raw_and_normalised_means_of_what_was_played(run):
    table = evaluate_run(run, episodes=4, zero_shot=True).text.splitlines()
    played = [r for r in rows(run) if r["phase"] == "after" and int(r["seed"]) - 1_000_003 < 4]

    def mean(stage, task, column):
        values = [float(r[column]) for r in played if (r["stage"], r["task"]) == (stage, task)]
        assert len(values) == 4
        return sum(values) / 4

    for first_line, column in ((0, "return"), (4, "normalised")):
        assert table[first_line].split()[-2:] == ["cartpole-a", "cartpole-b"]
        for stage, name in (("1", "cartpole-a"), ("2", "cartpole-b")):
            means = [score_text(mean(stage, task, column)) for task in ("cartpole-a", "cartpole-b")]
            assert table[first_line + int(stage)].split() == ["learned", name, "stage", stage, *means]
    assert "(0 = random play, 1 = the highest return)" in table


def test_one_stage_alone_can_be_scored(run, monkeypatch):
    loaded = []
    monkeypatch.setattr(cells, "load_stage", lambda path, config: loaded.append(path.name) or load(path, config))
    load = checkpoint.load_stage
    table = evaluate_run(run, stages=[2], episodes=4).text
    assert loaded == ["stage-02"]
    assert "stage 2" in table
    assert "stage 1" not in table
    assert {stage for stage, _, episode, _ in after(run) if episode == 3} == {"2"}


def test_each_stage_is_loaded_once_for_all_its_games(run, monkeypatch):
    loaded, load = [], checkpoint.load_stage
    monkeypatch.setattr(cells, "load_stage", lambda path, config: loaded.append(path.name) or load(path, config))
    evaluate_run(run, zero_shot=True)
    assert loaded == ["stage-01", "stage-02"]


def test_evaluation_goes_through_the_methods_playing(run, monkeypatch):
    """``playing`` gets the number of the task for every task and stage."""
    from blip_rl.methods.blip import Blip

    asked = []
    playing = Blip.playing
    monkeypatch.setattr(Blip, "playing", lambda self, trunk, task: asked.append(task) or playing(self, trunk, task))
    evaluate_run(run)
    assert asked == [1, 1, 2]


def test_each_game_is_played_in_itself_with_its_own_saved_head(run, monkeypatch):
    """Modified heads in the checkpoint: the first game's always goes left, the second's always right."""
    config = load_run_config(run)
    stage = checkpoint.load_stage(run / "checkpoints" / "stage-02", config)
    for head, action in zip(stage.policy.tasks, (0, 1), strict=True):
        torch.nn.init.zeros_(head.actor.weight)
        head.actor.bias.data = torch.eye(2)[action] * 100.0
    shutil.rmtree(run / "checkpoints" / "stage-02")
    method = cells.build_method(config.agent)
    method.load_state(stage.method_state)
    checkpoint.save_stage(run / "checkpoints" / "stage-02", 2, stage.env_steps, stage.policy, method)
    played, make = set(), evaluation.make_evaluation_env

    def watched(task, atari, count, seed):
        env = make(task, atari, count, seed)
        step = env.step
        env.step = lambda actions: played.update((task.name, int(action)) for action in actions) or step(actions)
        return env

    monkeypatch.setattr(evaluation, "make_evaluation_env", watched)
    evaluate_run(run, stages=[2])
    assert played == {("cartpole-a", 0), ("cartpole-b", 1)}


def test_workers_give_the_scores_of_one_process(run, tmp_path):
    """Stochastic actions and an untrained head: all random numbers must be the same."""
    alone = shutil.copytree(run, tmp_path / "alone")
    threads = torch.get_num_threads()
    options = {"actions": "stochastic", "zero_shot": True, "episodes": 4, "seed": 5}
    table = evaluate_run(alone, workers=1, **options).text
    assert evaluate_run(run, workers=2, **options).text == table
    assert sorted(map(str, rows(run))) == sorted(map(str, rows(alone)))
    assert torch.get_num_threads() == threads


class Dying(ScoringPlayer):
    """A player whose process is killed by one cell and raises an error at another."""

    def __init__(self, *args, deadly=None, failing=None):
        super().__init__(*args)
        self._deadly, self._failing = deadly, failing

    def play(self, cell, on_games_over):
        if cell == self._deadly:
            os._exit(9)
        if cell == self._failing:
            raise ZeroDivisionError("a bug")
        return super().play(cell, on_games_over)


ALL = [Cell(1, "cartpole-a"), Cell(2, "cartpole-a"), Cell(2, "cartpole-b")]


def play(run, cells, on_games_over=lambda count: None, **faults):
    config = load_run_config(run)
    return play_in_workers(Dying(run, config, config.evaluation, **faults), cells, 1, on_games_over)


def test_a_worker_that_dies_names_its_cell_after_giving_what_was_done(run):
    games, done = [], []
    results = play(run, ALL, games.append, deadly=ALL[2])
    with pytest.raises(RunError, match=r"cartpole-b after stage 2 \(seeds 1000003 to 1000005\) died \(exit code 9\)"):
        done.extend(Cell(found[0].stage, found[0].task) for found in results)
    assert done == ALL[:2]
    assert sum(games) == 6


def test_a_worker_that_fails_names_its_cell_and_the_error(run):
    with pytest.raises(
        RunError,
        match=r"playing cartpole-a after stage 1 \(seeds 1000003 to 1000005\) failed: ZeroDivisionError: a bug$",
    ):
        list(play(run, ALL[:1], failing=ALL[0]))


def test_a_damaged_checkpoint_is_refused_alike_by_workers_and_here(run):
    (run / "checkpoints" / "stage-02" / "method.safetensors").write_bytes(b"rubbish")
    config = load_run_config(run)
    player = ScoringPlayer(run, config, config.evaluation)
    for play_them in (lambda: play(run, ALL[1:2]), lambda: play_here(player, ALL[1:], lambda count: None)):
        with pytest.raises(UserError, match=r"stage-02.*not a safetensors file"):
            list(play_them())


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--stage", "3"], ["stage 3", "1, 2"]),
        (["--stage", "0"], ["--stage 0: expected a whole number of at least 1"]),
        (["--games", "cartpole-b", "--stage", "1"], ["cartpole-b", "stage 1", "--zero-shot"]),
        (["--games", "cartpole-z"], ["never saw 'cartpole-z'", "did you mean cartpole-", "cartpole-b"]),
        (["--workers", "0"], ["--workers", "0"]),
    ],
)
def test_bad_input_is_one_message(run, options, wanted):
    before = (run / "scores.csv").read_bytes()
    result = CliRunner().invoke(cli.cli, ["evaluate", str(run), *options])
    assert result.exit_code == 2
    assert all(part in result.stderr for part in wanted), result.stderr
    assert (run / "scores.csv").read_bytes() == before


def test_the_table_of_a_read_only_run_is_printed(run, monkeypatch):
    before, opening = (run / "scores.csv").read_bytes(), os.open

    def refusing(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(run)):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opening(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refusing)
    result = CliRunner().invoke(cli.cli, ["evaluate", str(run), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "learned cartpole-b" in result.stdout
    assert "not written to scores.csv" in result.stdout
    assert "Read-only file system" in result.stdout
    assert (run / "scores.csv").read_bytes() == before


def test_scores_stored_by_another_process_at_the_same_time_are_kept(run, monkeypatch):
    """The table is read again when it is written, after playing."""
    play = ScoringPlayer.play

    def played(self, cell, on_games_over):
        found = play(self, cell, on_games_over)
        other = RunFolder(run)
        other.replace_scores([dataclasses.replace(found[0], seed=77)])
        return found

    monkeypatch.setattr(ScoringPlayer, "play", played)
    count = len(rows(run))
    evaluate_run(run, episodes=1, seed=9, workers=1)
    assert len(rows(run)) == count + 2 * 3
    assert len([row for row in rows(run) if row["seed"] == "77"]) == 3
