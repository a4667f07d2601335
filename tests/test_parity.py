"""The parity study compares two agents that play the same game, counts every game, and can be killed at any time."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnvWrapper

from blip_rl.config import AtariConfig
from blip_rl.core.intervals import student_interval
from blip_rl.recipes import resolve
from blip_rl.tasks.atari import AtariVecEnv

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SMALL = ["ppo.environments=2", "ppo.rollout_steps=128", "ppo.minibatches=2", "ppo.epochs=1"]
SMALL += ["trunk.image.conv=[[4,8,8]]", "trunk.image.hidden=[16]"]
AS_OPTIONS = [part for change in SMALL for part in ("--set", change)]


@pytest.fixture
def parts(monkeypatch):
    """The modules behind the script."""
    monkeypatch.syspath_prepend(SCRIPTS)
    import _parity_report
    import _parity_runs
    import _stock_sb3

    return _stock_sb3, _parity_runs, _parity_report


# game: what stable-baselines3's wrappers play unasked when a game begins; lives that the random player below loses
GAMES = {"kung_fu_master": ([], 3), "space_invaders": ([1, 2], 2)}


@pytest.mark.parametrize("game", GAMES)
def test_both_environments_play_the_same_game(parts, game):
    """A whole game and the beginning of the next: rewards, ends and raw returns are equal, and frames all but equal."""
    stock, _, _ = parts
    unasked, lives_to_lose = GAMES[game]
    theirs = stock.stock_env(resolve(game, "finetune", overrides=["atari.noop_max=0"]), games=1)
    ours = AtariVecEnv(game, 1, 0, AtariConfig(noop_max=0, fire_on_reset=False), training=True)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space.shape == theirs.observation_space.shape
    frames, their_frames = ours.reset(), theirs.reset()
    frames = _play(ours, unasked, frames)
    rng, lives, left = np.random.default_rng(0), 0, None
    while left != 0:
        np.testing.assert_allclose(frames[0, -1].astype(int), their_frames[0, -1], atol=15)
        assert np.abs(frames[0, -1].astype(int) - their_frames[0, -1]).mean() < 0.5
        action = [rng.integers(ours.action_space.n)]
        frames, rewards, dones, infos = ours.step(np.array(action))
        their_frames, their_rewards, their_dones, their_infos = theirs.step(np.array(action))
        assert (rewards[0], dones[0]) == (their_rewards[0], their_dones[0])
        assert infos[0].get("episode", {}).get("r") == their_infos[0].get("episode", {}).get("r")
        if "episode" in infos[0]:
            left = 60
            frames = _play(ours, unasked, frames)
        elif dones[0]:
            lives += left is None
            frames = _play(ours, [0, *unasked], frames)
        left = None if left is None else left - 1
    assert lives == lives_to_lose
    theirs.close()


def _play(env, actions, frames):
    for action in actions:
        frames = env.step(np.array([action]))[0]
    return frames


class Noting(VecEnvWrapper):
    """Notes the return of every game that ends, below everything that learns."""

    def __init__(self, venv):
        super().__init__(venv)
        self.returns = []

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        result = self.venv.step_wait()
        self.returns += [info["episode"]["r"] for info in result[3] if "episode" in info]
        return result


def test_both_agents_do_the_same_work_and_every_game_is_counted(parts, monkeypatch):
    stock, runs, _ = parts
    config = resolve("breakout", "finetune", steps="1024", overrides=["trunk.task_modulation=false", *SMALL])
    made, work = {}, {}
    for function in ("make_training_env", "stock_env"):
        original = getattr(runs, function)

        def noting(*arguments, original=original, function=function, **options):
            made.setdefault(function, Noting(original(*arguments, **options)))
            return made[function] if not made[function].returns else original(*arguments, **options)

        monkeypatch.setattr(runs, function, noting)
    for name, function in (("ours", "make_training_env"), ("stock", "stock_env")):
        with runs.CONTESTANTS[name](config) as contestant:
            games = runs.Games(lambda text: None)
            contestant.agent.learn(config.tasks[0].steps, callback=games)
            work[name] = stock.work_of(contestant.agent)
        assert [score for _, score in games.ended] == made[function].returns
        assert len(games.ended) > 2
        assert {step % 256 for step, _ in games.ended} == {0}  # ends of rollouts
    assert work["ours"] == work["stock"]


def made_run(training, evaluation=(1.0,), steps=100):
    return {
        "steps": steps,
        "training_games": [[(index + 1) * steps / len(training), value] for index, value in enumerate(training)],
        "evaluation_games": list(evaluation),
        "steps_per_second": 50.0,
        "cpu_seconds": 3.0,
    }


def test_the_verdict_by_hand(parts):
    _, _, report = parts
    ours = {seed: made_run([value]) for seed, value in enumerate((10.0, 14.0, 12.0))}
    close = {seed: made_run([value]) for seed, value in enumerate((9.0, 9.0, 7.5))}
    far = {seed: made_run([value]) for seed, value in enumerate((7.0, 8.0, 7.0))}
    first = next(iter(report.MEASURES))
    near = report.compare({"ours": ours, "stock": close})[first]
    assert (near.difference, near.spread, near.within) == (pytest.approx(3.5), 4, True)  # ours: 10 to 14
    assert near.interval == student_interval([1, 5, 4.5])
    text = report.report({"easy": {"ours": ours, "stock": close}, "hard": {"ours": ours, "stock": far}})
    assert "easy: within the spread of the seeds: yes" in text
    assert "hard: within the spread of the seeds: no" in text  # 4.67 against 4
    assert (
        "| 12.0 ± 2.0 (10.0 14.0 12.0) | 8.5 ± 0.9 (9.0 9.0 7.5) | +3.5 [-1.9, +8.9] (Student interval) | 4.0 | yes |"
        in text
    )


def test_only_seeds_of_both_are_compared_and_one_seed_gives_no_verdict(parts):
    _, _, report = parts
    runs = {"ours": {0: made_run([1.0]), 1: made_run([50.0])}, "stock": {0: made_run([2.0])}}
    found = report.compare(runs)[next(iter(report.MEASURES))]
    assert (found.ours, found.stock, found.spread, found.within) == ((1.0,), (2.0,), None, None)
    assert "g: within the spread of the seeds: not known yet" in report.report({"g": runs})


def test_measures_and_the_curve_by_hand(parts):
    _, _, report = parts
    run = made_run([0.0] * 100 + [float(value) for value in range(100)], steps=1000)
    last, every, _ = (measure(run) for measure in report.MEASURES.values())
    assert (last, every) == (49.5, 24.75)
    steps, values = report.curve(run)
    assert steps.tolist() == list(np.linspace(40, 1000, 25))
    assert values[:12].tolist() == [0] * 12  # 8 games in each of 25 windows
    assert values[-1] == pytest.approx(np.mean(range(92, 100)))


@pytest.fixture
def parity(parts, monkeypatch, tmp_path, capsys):
    """Call the script in an empty folder: exit code, what it printed, errors."""
    import parity

    monkeypatch.chdir(tmp_path)

    def call(*options):
        command = ["parity.py", "--games", "breakout", "--episodes", "2", "--out", "study", *AS_OPTIONS, *options]
        monkeypatch.setattr(sys, "argv", command)
        code = 0
        try:
            parity.main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_runs_are_made_once_and_only_compared_with_runs_of_the_same_settings(parity):
    code, text, errors = parity("--steps", "768", "--seeds", "1")
    assert code == 0, errors
    assert "breakout: within the spread of the seeds: " in text
    files = sorted(Path("study").glob("*.json"))
    assert [file.stem for file in files] == ["breakout-seed0-ours", "breakout-seed0-stock"]
    made = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    assert all(run["steps"] == 768 and len(run["evaluation_games"]) == 2 for run in made)
    assert Path("study/parity.png").stat().st_size > 5_000
    assert Path("study/parity.md").read_text(encoding="utf-8") == text
    kept = files[0].stat().st_mtime_ns
    files[1].rename("study/breakout-seed0-stock.json.1.part")  # as a kill would leave it
    assert "not known yet" in parity("--steps", "768", "--seeds", "1", "--show")[1]
    _, again, _ = parity("--steps", "768", "--seeds", "1")
    assert again.split("\n\n")[0] == text.split("\n\n")[0]  # all but speeds
    assert files[0].stat().st_mtime_ns == kept
    code, _, errors = parity("--steps", "512", "--seeds", "1")
    assert code == 2
    assert "made with another tasks: give these settings their own --out" in errors
    files[0].write_text("{", encoding="utf-8")
    code, _, errors = parity("--steps", "768", "--seeds", "1")
    assert code == 2
    assert "cannot be read" in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--games", "CartPole-v1"], "expected an Atari game that stable-baselines3 can play"),
        (["--set", "atari.fire_on_reset=false"], "stable-baselines3 always presses fire"),
        (["--steps", "many"], "expected a whole number of steps"),
    ],
)
def test_invalid_options_are_refused(parity, options, message):
    code, _, errors = parity(*options)
    assert code == 2
    assert message in errors
    assert not Path("study").exists()
