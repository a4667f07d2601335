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
    import _stock

    return _stock, _parity_runs, _parity_report


# game: what stable-baselines3's wrappers play unasked when a game begins; lives that the random player below loses
GAMES = {"boxing": ([1, 2], 0), "kung_fu_master": ([], 3), "space_invaders": ([1, 2], 2)}


@pytest.mark.parametrize("game", GAMES)
def test_both_play_the_same_game(parts, game):
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


def test_both_do_the_same_work_and_every_game_is_counted(parts, monkeypatch):
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


def test_each_environment_plays_one_game(parts):
    """Returns 5, 7 and 9 after 3, 1 and 2 decisions; later games of the quick ones do not count."""
    _, runs, _ = parts

    class Clockwork:
        num_envs = 3

        def reset(self):
            self.decisions = 0
            return np.zeros(3)

        def step(self, actions):
            self.decisions += 1
            lengths, returns = (3, 1, 2), (5, 7, 9)
            infos = [
                {"episode": {"r": value + 100 * (self.decisions > length)}} if self.decisions % length == 0 else {}
                for length, value in zip(lengths, returns, strict=True)
            ]
            return np.zeros(3), np.zeros(3), np.zeros(3, dtype=bool), infos

        def close(self):
            pass

    assert runs._first_games(Clockwork(), lambda observations: np.zeros(3)) == [5, 7, 9]


def made_run(training, evaluation=(1.0,), steps=100):
    return {
        "steps": steps,
        "training_games": [[(index + 1) * steps / len(training), value] for index, value in enumerate(training)],
        "evaluation_games": list(evaluation),
        "steps_per_second": 50.0,
        "cpu_seconds": 3.0,
    }


def test_verdict_by_hand(parts):
    _, _, report = parts
    ours = {seed: made_run([value]) for seed, value in enumerate((10.0, 14.0, 12.0))}
    close = {seed: made_run([value]) for seed, value in enumerate((9.0, 9.0, 7.5))}
    far = {seed: made_run([value]) for seed, value in enumerate((7.0, 8.0, 7.0))}
    first = next(iter(report.MEASURES))
    near = report.compare({"ours": ours, "stock": close})[first]
    assert near.difference == pytest.approx(3.5)
    assert near.spread == 4  # ours: 10 to 14
    assert near.interval == student_interval([1, 5, 4.5])
    assert near.within is True
    text = report.report({"easy": {"ours": ours, "stock": close}, "hard": {"ours": ours, "stock": far}})
    assert "easy: within the spread of the seeds: yes" in text
    assert "hard: within the spread of the seeds: no" in text  # 4.67 against 4
    assert "they differ by 4.7, two seeds of one of them by up to 4.0; the interval holds 0: no" in text
    assert (
        "| 12.0 ± 2.0 (10.0 14.0 12.0) | 8.5 ± 0.9 (9.0 9.0 7.5) | +3.5 [-1.9, +8.9] (Student interval) | 4.0 | yes |"
        in text
    )
    assert "| easy | blip-rl | 3 | 50 | 30.00 |" in text


def test_only_seeds_of_both_are_compared_and_one_seed_gives_no_verdict(parts):
    _, _, report = parts
    runs = {"ours": {0: made_run([1.0]), 1: made_run([50.0])}, "stock": {0: made_run([2.0])}}
    values = report.compare(runs)[next(iter(report.MEASURES))]
    assert (values.ours, values.stock) == ((1.0,), (2.0,))
    assert (values.spread, values.interval, values.within) == (None, None, None)
    assert "g: within the spread of the seeds: not known yet" in report.report({"g": runs})
    assert "not known yet" in report.report({"g": {"ours": {}, "stock": {}}})
    without_games = {who: {seed: made_run([]) for seed in range(3)} for who in ("ours", "stock")}
    assert "not known yet" in report.report({"g": without_games})


def test_the_last_hundred_games_and_the_curve(parts):
    _, _, report = parts
    run = made_run([0.0] * 100 + [float(value) for value in range(100)], steps=1000)
    last, every, _ = (measure(run) for measure in report.MEASURES.values())
    assert (last, every) == (49.5, 24.75)
    steps, values = report.curve(run)
    assert steps.tolist() == list(np.linspace(40, 1000, 25))
    assert values[:12].tolist() == [0] * 12  # 8 games in each of 25 windows
    assert values[-1] == pytest.approx(np.mean(range(92, 100)))
    assert np.isnan(report.curve(made_run([1.0]))[1][:-1]).all()


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


def test_runs_are_made_once_and_only_with_the_same_settings(parity):
    code, text, errors = parity("--steps", "768", "--seeds", "2")
    assert code == 0, errors
    assert "breakout: within the spread of the seeds: " in text
    files = sorted(Path("study").glob("*.json"))
    assert [file.stem for file in files] == [f"breakout-seed{s}-{who}" for s in (0, 1) for who in ("ours", "stock")]
    made = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    assert all(run["steps"] == 768 and len(run["evaluation_games"]) == 2 for run in made)
    assert made[0]["training_games"] != made[2]["training_games"]  # another seed
    assert made[0]["command"].startswith("python scripts/parity.py ")
    assert Path("study/parity.png").stat().st_size > 5_000
    assert Path("study/parity.md").read_text(encoding="utf-8") == text
    kept = [file.stat().st_mtime_ns for file in files]
    files[3].rename("study/breakout-seed1-stock.json.1.part")  # as a kill would leave it
    code, shown, _ = parity("--steps", "768", "--seeds", "2", "--show")
    assert code == 0
    assert "not known yet" in shown
    assert parity("--steps", "768", "--seeds", "2", "--only", "ours")[0] == 0
    assert not files[3].exists()
    code, again, _ = parity("--steps", "768", "--seeds", "2")
    assert code == 0
    assert files[3].exists()
    assert table_without_costs(again) == table_without_costs(text)
    assert [file.stat().st_mtime_ns for file in files[:3]] == kept[:3]


def table_without_costs(text):
    return text.split("\n\n")[0]


def test_runs_of_other_settings_and_broken_files_are_refused(parity):
    assert parity("--steps", "256", "--seeds", "1", "--only", "ours")[0] == 0
    for options, differs in ((["--steps", "512"], "tasks"), (["--steps", "256", "--episodes", "3"], "episodes")):
        code, _, errors = parity("--seeds", "1", *options)
        assert code == 2
        assert f"made with another {differs}: give these settings their own --out" in errors
    Path("study/breakout-seed0-ours.json").write_text("{", encoding="utf-8")
    code, _, errors = parity("--steps", "256", "--seeds", "1")
    assert code == 2
    assert "cannot be read" in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--games", "CartPole-v1"], "expected an Atari game that stable-baselines3 can play"),
        (["--games", "boxin"], "did you mean boxing?"),
        (["--set", "atari.fire_on_reset=false"], "stable-baselines3 always presses fire"),
        (["--steps", "many"], "expected a whole number of steps"),
        (["--device", "cuda:99"], "--device cuda:99: "),
        (["--seeds", "0"], "expected a whole number of at least 1"),
    ],
)
def test_what_cannot_work_is_refused(parity, options, message):
    code, _, errors = parity(*options)
    assert code == 2
    assert message in errors
    assert not Path("study").exists()
