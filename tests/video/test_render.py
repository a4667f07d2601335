"""``blip-rl render``: videos show the evaluated episodes; every file is decoded again."""

import csv
import math
import shutil
import statistics

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageSequence

from blip_rl import cli
from blip_rl.config import EvaluationConfig
from blip_rl.errors import UserError
from blip_rl.evaluation.cells import Cell
from blip_rl.evaluation.episodes import Episode
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.formatting import score_text
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods import make_method
from blip_rl.recipes import dump_run_config, load_run_config
from blip_rl.storage.checkpoint import save_stage
from blip_rl.storage.run_folder import RunFolder
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.tasks.pictures import make_screen
from blip_rl.video import render
from blip_rl.video.grid import Grid
from blip_rl.video.options import RenderOptions
from blip_rl.video.recorder import RecordedCell, shown_moments, still_decisions
from blip_rl.video.render import render_run, render_versus
from blip_rl.video.scored import of_seeds
from tests.small_runs import small_config

FIRST_SEED = 1_000_003
SHORT = RenderOptions(seconds=2)


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def grids(monkeypatch):
    """Every grid that is saved: (name of the file, labels, cells, scale)."""
    saved, laid_out, save = [], {}, render.save

    class Watched(Grid):
        def __init__(self, cells, labels, fps, scale=1.0):
            super().__init__(cells, labels, fps, scale)
            laid_out[id(self)] = labels, cells, scale

    def saving(grid, path):
        saved.append((path.name, *laid_out[id(grid)]))
        save(grid, path)

    monkeypatch.setattr(render, "Grid", Watched)
    monkeypatch.setattr(render, "save", saving)
    return saved


def untrained(path, config, stages=(1,)):
    """A run folder with checkpoints of an untrained agent."""
    folder = RunFolder(path)
    folder.create(dump_run_config(config), "cpu", {})
    for stage in stages:
        envs = [make_evaluation_env(task, config.atari, 1, 0) for task in config.tasks[:stage]]
        policy = ContinualPolicy(
            envs[0].observation_space,
            envs[0].action_space,
            lambda _: 0.0,
            trunk=config.agent.trunk,
            normalization=config,
        )
        for task, env in zip(config.tasks, envs, strict=False):
            policy.add_task(task.name, env.action_space)
            env.close()
        policy.use_task(policy.task_names[-1])
        save_stage(folder.stage_path(stage), stage, 0, policy, make_method(config.agent.method))
    return path


def decoded(path):
    with Image.open(path) as image:
        frames = [(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]
    return [frame for frame, _ in frames], sum(duration for _, duration in frames)


def cell(run, stage, task, **options):
    return render._Source(run, RenderOptions(**options))._player.play(Cell(stage, task), lambda count: None)


def evaluated(run, stage, task, actions="greedy"):
    """The returns in the run's table for a cell, by seed."""
    with (run / "scores.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if (r["phase"], r["stage"], r["task"]) == ("after", str(stage), task)]
    return {int(r["seed"]): float(r["return"]) for r in rows if r["actions"] == actions}


def nearest(scores):
    """Reference implementation: the lowest seed among the returns nearest to the mean."""
    mean = statistics.mean(scores.values())
    return min(scores, key=lambda seed: (abs(scores[seed] - mean), seed))


def test_render_writes_a_video_of_each_cell_and_a_grid(run):
    before = (run / "scores.csv").read_bytes()
    paths = render_run(run, SHORT)
    names = ["grid.gif", "stage-01-cartpole-a.gif", "stage-02-cartpole-a.gif", "stage-02-cartpole-b.gif"]
    assert paths == [run / "gifs" / name for name in names]
    assert sorted(p.name for p in (run / "gifs").iterdir()) == names
    assert (run / "scores.csv").read_bytes() == before
    for path in paths:
        frames, milliseconds = decoded(path)
        assert len({frame.tobytes() for frame in frames}) > 3  # they move
        assert milliseconds <= 3000  # two seconds, and one in which the end is held
        assert np.ptp(frames[0].astype(int), axis=2).max() > 60  # the pole is brown
    (single,), (wide,) = ({f.shape for f in decoded(p)[0]} for p in (paths[1], paths[0]))
    assert single[1] == 320 + 2 * 20
    assert wide[1] > 2 * 160


def test_new_episodes_of_scored_seeds_are_the_scored_ones(run):
    """A CartPole's return is its length: a clip with every step has one frame more."""
    scores = []
    for seed in range(FIRST_SEED, FIRST_SEED + 4):
        recorded = cell(run, 2, "cartpole-b", episodes=4, episode=str(seed), actions="greedy", fps=50, seconds=60)
        assert len(recorded.clip.frames) == recorded.score + 1
        assert recorded.clip.over == (recorded.score < 500)
        scores.append(recorded.score)
    assert len(set(scores)) > 1
    assert scores[:3] == list(evaluated(run, 2, "cartpole-b").values())


def test_a_clip_shows_the_scored_episode_nearest_to_the_mean(run):
    stage, task = 2, "cartpole-a"
    scores = evaluated(run, stage, task)
    recorded = cell(run, stage, task, fps=50, seconds=60)
    assert recorded.score == scores[nearest(scores)] == len(recorded.clip.frames) - 1
    assert (recorded.mean, recorded.episodes, recorded.scored) == (statistics.mean(scores.values()), 3, True)
    assert recorded.expected is None
    assert cell(run, stage, task, episode="best").score == max(scores.values())
    assert cell(run, stage, task, episode=str(FIRST_SEED + 2)).score == scores[FIRST_SEED + 2]


@pytest.mark.parametrize("actions", ["greedy", "stochastic"])
def test_episodes_of_later_batches_are_repeated_exactly(run, actions):
    """Episodes are evaluated in batches of 32; sampled actions depend on all earlier random numbers."""
    evaluate_run(run, games=["cartpole-a"], stages=[1], episodes=35, actions=actions, workers=1)
    scores = evaluated(run, 1, "cartpole-a", actions)
    assert len(scores) == 35
    for seed in (FIRST_SEED + 1, FIRST_SEED + 33):
        recorded = cell(run, 1, "cartpole-a", actions=actions, episode=str(seed), fps=50, seconds=60)
        assert recorded.score == scores[seed] == len(recorded.clip.frames) - 1
        assert (recorded.expected, recorded.mean) == (None, statistics.mean(scores.values()))


def test_a_clip_that_differs_from_the_scored_episode_is_reported(run, capsys, grids):
    """Simulates training on another device by changing the table."""
    text = (run / "scores.csv").read_text().splitlines()
    rows = [line.split(",") for line in text]
    for row in rows:
        if row[1:4] == ["1", "after", "cartpole-a"]:
            row[5] = "1234.5"
    (run / "scores.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    recorded = cell(run, 1, "cartpole-a")
    assert (recorded.expected, recorded.mean) == (1234.5, 1234.5)
    assert recorded.score < 1000
    render_run(run, SHORT, stages=[1], quiet=False)
    assert "return 1,234 in scores.csv is not repeatable" in capsys.readouterr().out
    ((_, labels, _, _),) = grids
    assert labels.footer.endswith("(some differ from scores.csv)")


def test_one_kind_of_actions_is_shown_and_named(run, grids):
    """The kind of the recipe, else the only one available."""
    evaluate_run(run, stages=[1], games=["cartpole-a"], episodes=2, actions="stochastic", workers=1)
    render_run(run, SHORT, stages=[1])
    assert grids[-1][1].footer == "nearest to the mean of 3 scored greedy games"
    rows = [line for line in (run / "scores.csv").read_text().splitlines() if ",greedy" not in line]
    (run / "scores.csv").write_text("\n".join(rows) + "\n")
    render_run(run, SHORT, stages=[1])
    assert grids[-1][1].footer == "nearest to the mean of 2 scored stochastic games"


def test_without_scores_new_games_are_played_and_the_footer_says_so(run, grids):
    (run / "scores.csv").unlink()
    render_run(run, SHORT, stages=[1])
    assert grids[-1][1].footer == "nearest to the mean of 3 new greedy games"


@pytest.mark.parametrize(
    ("scores", "which", "chosen"),
    [
        ([3, 1, 2], "mean", 2),
        ([0, 0, 90, 30], "mean", 3),  # the median would be 0 or 30, of a mean of 30
        ([5, 5, 5], "mean", 0),
        ([1, 9, 9], "best", 1),
        ([1, 2], str(FIRST_SEED + 1), 1),
        ([7], "mean", 0),
    ],
)
def test_the_requested_episode_is_selected(scores, which, chosen):
    episodes = {FIRST_SEED + number: Episode(float(score), 1, False) for number, score in enumerate(scores)}
    assert of_seeds(episodes).chosen(which) == chosen


@pytest.mark.parametrize(
    ("seeds", "index", "actions", "first", "count"),
    [
        (range(10), 4, "greedy", 0, 10),
        (range(100), 40, "greedy", 32, 32),
        (range(100), 99, "greedy", 96, 4),
        (range(100), 40, "stochastic", 0, 64),
        ([*range(3), *range(50, 53)], 4, "greedy", 50, 3),  # two evaluations with seeds of their own
        ([*range(3), *range(50, 53)], 1, "stochastic", 0, 3),
    ],
)
def test_a_replay_repeats_the_batch_of_its_episode(seeds, index, actions, first, count):
    of = of_seeds({seed: Episode(0.0, 1, False) for seed in seeds})
    replay = of.replay(index, EvaluationConfig(actions=actions))
    assert (replay.seed, replay.episodes, replay.actions) == (first, count, actions)


@pytest.mark.parametrize(("per_second", "fps", "seconds"), [(15, 15, 10), (15, 10, 10), (50, 15, 2), (15, 30, 3)])
def test_long_episodes_are_cut_and_run_at_game_speed(per_second, fps, seconds):
    shown = shown_moments(10_000, per_second, fps, seconds)
    assert len(shown) == fps * seconds
    for number, moment in enumerate(shown):
        assert 0 <= number / fps - moment / per_second < 1 / per_second
    steps = np.diff(shown)
    assert steps.max() - steps.min() <= 1


def test_short_episodes_end_with_their_last_frame():
    assert shown_moments(4, 15, 15, 10) == [0, 1, 2, 3, 4]
    assert shown_moments(5, 30, 15, 10) == [0, 2, 4, 5]
    assert shown_moments(1, 15, 15, 0.01) == [0]
    shown = shown_moments(37, 50, 15, 10)
    assert shown[-1] == 37
    assert shown.count(37) == 1
    assert len(shown) == math.ceil(37 / 50 * 15) + 1


def test_unchanged_frames_at_the_start_are_counted():
    still, moved = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    assert still_decisions([moved, still, still]) == 0
    assert still_decisions([still, still, still, moved, still]) == 2
    assert still_decisions([still, still]) == 0


def test_a_clip_skips_a_still_title_screen_up_to_half_a_second(tmp_path):
    """Kung-Fu Master starts with a still frame for four seconds."""
    small = ("trunk.image.conv=[[4, 8, 8]]", "trunk.image.hidden=[8]", "evaluation.max_episode_steps=150")
    run = untrained(tmp_path / "run", small_config("finetune", games="kungfu", overrides=small))
    film = cell(run, 1, "kungfu", episodes=1, seconds=2, actions="stochastic").clip
    same = [np.array_equal(picture, film.frames[0]) for picture in film.frames]
    assert len(same) == 30
    assert 7 <= same.index(False) <= 9  # 15 pictures a second


def test_videos_do_not_depend_on_the_number_of_workers(run):
    options = {"stages": [2], "games": ["cartpole-a", "cartpole-b"]}
    chosen = RenderOptions(episodes=2, seconds=1, actions="stochastic")
    first = render_run(run, chosen, workers=1, **options)
    bytes_of = [path.read_bytes() for path in first]
    first[0].write_bytes(b"old")
    assert render_run(run, chosen, workers=2, **options) == first
    assert [path.read_bytes() for path in first] == bytes_of


def test_agents_play_with_the_weights_their_method_selects(run, monkeypatch):
    from blip_rl.methods.blip import Blip

    asked, playing = [], Blip.playing
    monkeypatch.setattr(Blip, "playing", lambda self, trunk, task: asked.append(task) or playing(self, trunk, task))
    render_run(run, SHORT)
    assert asked == [1, 1, 2]


@pytest.mark.parametrize(
    ("episode", "games", "words"),
    [
        ("mean", 3, "nearest to the mean of 3 scored greedy games"),
        ("mean", 1, "nearest to the mean of 1 scored greedy game"),
        ("best", 3, "best of 3 scored greedy games"),
        ("7", 3, "game with seed 7, of 3 scored greedy games"),
    ],
)
def test_the_footer_names_the_shown_games(episode, games, words):
    recorded = RecordedCell(Cell(1, "a"), None, 1.0, 2.0, games, True)
    assert render._footer(RenderOptions(seconds=2, episode=episode), [recorded], {"greedy"}) == f"{words}, first 2 s"


def test_the_grid_has_a_row_per_stage_and_a_column_per_game(run, grids):
    render_run(run, SHORT)
    name, labels, cells, scale = grids[-1]
    assert (name, scale) == ("grid.gif", 1)
    assert labels.columns == ("CartPole, mix 1", "CartPole, mix 2")
    assert labels.rows == (("after learning", "CartPole, mix 1"), ("after learning", "CartPole, mix 2"))
    assert labels.corner == ("blip",)
    assert labels.footer == "nearest to the mean of 3 scored greedy games, first 2 s"
    wanted = [(0, 0, 1, "cartpole-a"), (1, 0, 2, "cartpole-a"), (1, 1, 2, "cartpole-b")]
    assert [(c.row, c.column) for c in cells] == [(row, column) for row, column, *_ in wanted]
    for shown, (*_, stage, task) in zip(cells, wanted, strict=True):
        scores = evaluated(run, stage, task)
        assert shown.left == f"score {score_text(scores[nearest(scores)])}"
        assert shown.right == f"mean {score_text(statistics.mean(scores.values()))}"
    singles = [(file, labels.columns) for file, labels, _, _ in grids[:-1]]
    assert singles[1] == ("stage-02-cartpole-a.gif", ("CartPole, mix 1 after 2 games",))
    assert singles[0][1] == ("CartPole, mix 1 after 1 game",)


def test_a_selection_has_a_smaller_grid_and_a_single_cell_none(run, grids):
    render_run(run, SHORT, games=["cartpole-a"])
    assert grids[-1][1].columns == ("CartPole, mix 1",)
    assert [(c.row, c.column) for c in grids[-1][2]] == [(0, 0), (1, 0)]
    shutil.rmtree(run / "gifs")
    assert [p.name for p in render_run(run, SHORT, stages=[1])] == ["stage-01-cartpole-a.gif"]


def test_two_runs_are_compared_with_the_higher_mean_highlighted(run, tmp_path, grids):
    other = untrained(tmp_path / "other", small_config("finetune"), stages=(1, 2))
    chosen = RenderOptions(episodes=2, seconds=1, actions="greedy")
    path = render_versus(run, other, chosen)
    assert path == run / "gifs" / "versus-other.gif"
    frames, milliseconds = decoded(path)
    assert len({frame.tobytes() for frame in frames}) > 3
    assert milliseconds <= 2000
    ((_, labels, cells, _),) = grids
    assert labels.rows == (("after 2 games", "blip"), ("after 2 games", "finetune"))
    assert [(c.row, c.column) for c in cells] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for ours, theirs in zip(cells[:2], cells[2:], strict=True):
        means = [float(c.right.removeprefix("mean ")) for c in (ours, theirs)]
        assert (ours.bright, theirs.bright) == (means[0] > means[1], means[1] > means[0])
    assert any(c.bright for c in cells)


def test_two_runs_of_one_agent_are_labelled_by_seed(run, tmp_path, grids):
    config = small_config("blip", games="cartpole-b,cartpole-c", seed=5)
    other = untrained(tmp_path / "other", config, stages=(1,))
    out = tmp_path / "pair.webp"
    assert render_versus(run, other, RenderOptions(episodes=1, seconds=1, file_format="webp"), out=out) == out
    ((_, labels, _, _),) = grids
    assert labels.columns == ("CartPole, mix 2",)
    assert [name for _, name in labels.rows] == ["blip seed 0", "blip seed 5"]
    with pytest.raises(UserError, match="have not both learned cartpole-a"):
        render_versus(run, other, games=["cartpole-a", "cartpole-b"])
    with pytest.raises(UserError, match="have not both learned"):
        render_versus(run, untrained(tmp_path / "third", small_config(games="cartpole-c")))
    with pytest.raises(UserError, match=r"pair\.webp': expected a name that ends in \.gif"):
        render_versus(run, other, out=out)


def test_multitask_runs_have_one_row(tmp_path, grids):
    run = untrained(tmp_path / "run", small_config("multitask", overrides=()), stages=(2,))
    render_run(run, RenderOptions(episodes=1, seconds=0.5))
    assert grids[-1][1].rows == (("after learning", "all at once"),)
    assert [(c.row, c.column) for c in grids[-1][2]] == [(0, 0), (0, 1)]
    assert grids[0][1].columns == ("CartPole, mix 1 all at once",)


def test_atari_frames_are_shown_in_colour_at_native_size(tmp_path):
    small = ("trunk.image.conv=[[4, 8, 8]]", "trunk.image.hidden=[8]", "evaluation.max_episode_steps=40")
    run = untrained(tmp_path / "run", small_config("finetune", games="boxing", overrides=small))
    seed = FIRST_SEED + 1
    (path,) = render_run(run, RenderOptions(episodes=2, episode=str(seed), seconds=2, scale=1, actions="stochastic"))
    frames, milliseconds = decoded(path)
    assert milliseconds == 3000
    assert len({frame.tobytes() for frame in frames}) > 10
    config = load_run_config(run)
    screen = make_screen(config.tasks[0], config.atari, 2**30 + seed)
    first = screen.reset()
    assert np.ptp(first.astype(int), axis=2).max() > 80
    offsets = [y for y in range(frames[0].shape[0] - 210) if (frames[0][y : y + 210, 10:170] == first).all()]
    assert len(offsets) == 1
    assert path.stat().st_size < 200_000


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--fps", "0"], ["--fps 0", "more than 0"]),
        (["--fps", "nan"], ["--fps nan"]),
        (["--fps", "51"], ["at most 50"]),
        (["--seconds", "0"], ["--seconds 0", "at most 60"]),
        (["--fps", "0.001"], ["fps 0.001", "at least 0.1"]),
        (["--episodes", "0"], ["--episodes 0", "1 to 32"]),
        (["--episode", "worst"], ["'worst'", "mean, best"]),
        (["--episode", "9" * 5_000], ["'9999", "from 0 to 536,870,911"]),
        (["--episode", str(2**29)], ["from 0 to 536,870,911"]),
        (["--format", "avi"], ["'avi'", "gif, mp4, webp"]),
        (["--games", "cartpole-z"], ["never saw 'cartpole-z'", "did you mean cartpole-"]),
        (["--games", "cartpole-b", "--stage", "1"], ["nothing to render", "cartpole-b", "stage 1"]),
        (["--out", "scores.csv"], ["scores.csv", "is a file"]),
    ],
)
def test_invalid_options_are_refused_and_nothing_is_written(run, options, wanted):
    options = [str(run / "scores.csv") if option == "scores.csv" else option for option in options]
    before = sorted(run.rglob("*"))
    result = CliRunner().invoke(cli.cli, ["render", str(run), *options])
    assert result.exit_code == 2
    assert all(part in result.stderr for part in wanted), result.stderr
    assert sorted(run.rglob("*")) == before


def test_folders_without_a_finished_stage_are_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, wanted in (
        ([tmp_path / "empty"], "not a run folder"),
        ([run, tmp_path / "empty"], "not a run folder"),
        ([run, run, "--stage", "1"], "leave --stage out"),
    ):
        result = CliRunner().invoke(cli.cli, ["render", *map(str, arguments)])
        assert (result.exit_code, wanted in result.stderr) == (2, True), result.stderr
    shutil.rmtree(run / "checkpoints")
    result = CliRunner().invoke(cli.cli, ["render", str(run)])
    assert (result.exit_code, "no stage checkpoint" in result.stderr) == (2, True)


def test_the_command_passes_its_options_on_and_prints_the_files(run, tmp_path):
    options = "--stage 1 --games cartpole-a --episodes 2 --episode best --seconds 1 --fps 5 --scale 1 --format webp"
    out = tmp_path / "out"
    result = CliRunner().invoke(
        cli.cli, ["render", str(run), *options.split(), "--stochastic", "--workers", "1", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    path = out / "stage-01-cartpole-a.webp"
    assert result.stdout.split()[0] == str(path)
    assert path.is_file()
    frames, _ = decoded(path)
    assert frames[0].shape[1] == 180
