"""``br.train`` and ``br.resume``: the same runs as from the command line, with callbacks of stable-baselines3."""

import numpy as np
import pytest
from click.testing import CliRunner
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback

import blip_rl as br
from blip_rl.cli import cli
from blip_rl.run.interruption import StopRequest
from blip_rl.tasks.control import make_control_env
from tests.small_runs import SMALL

GAMES = ["cartpole-a", "cartpole-b"]
SETTINGS = {
    "ppo.environments": 4,
    "ppo.rollout_steps": np.int64(32),
    "ppo.minibatches": 4,
    "trunk.vector.hidden": (16, 16),
    "normalize_rewards": False,
    "evaluation.episodes": 3,
    "evaluation.every_steps": 512,
    "method.fisher_samples": 64,
    "evaluation.gifs": False,
}


def tables(run):
    return [(run.path / name).read_bytes() for name in ("scores.csv", "returns.csv", "bits.csv")]


class Counting(BaseCallback):
    """Counts calls."""

    def __init__(self):
        super().__init__()
        self.starts, self.steps, self.rewards, self.ends = 0, 0, 0.0, 0

    def _on_training_start(self):
        self.starts += 1

    def _on_step(self):
        self.steps += len(self.locals["dones"])
        self.rewards += self.locals["rewards"].sum()
        return True

    def _on_training_end(self):
        self.ends += 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run and what its callbacks saw."""
    counting, seen = Counting(), []

    def function(local, _global):
        seen.append(local["self"].num_timesteps)

    out = tmp_path_factory.mktemp("runs") / "run"
    run = br.train(
        games=GAMES, steps=1024, seed=3, out=out, settings=SETTINGS, threads=1, callback=[counting, function]
    )
    return run, counting, seen


def test_it_trains_as_the_command_line_does(trained, tmp_path):
    run, _, _ = trained
    settings = [*SMALL, "method.fisher_samples=64", "evaluation.gifs=false"]
    words = ["train", "--games", ",".join(GAMES), "--steps", "1024", "--seed", "3", "--threads", "1", "--quiet"]
    words += [word for text in settings for word in ("--set", text)]
    assert CliRunner().invoke(cli, [*words, "--out", str(tmp_path / "run")]).exit_code == 0
    other = br.load(tmp_path / "run")
    assert other.config == run.config
    assert tables(other) == tables(run)


def test_callbacks_are_called_in_every_game(trained):
    _, counting, seen = trained
    assert (counting.starts, counting.ends) == (2, 2)
    assert counting.steps == 2 * 1024
    assert counting.rewards == 2 * 1024  # of CartPole, 1 a step
    assert seen == list(range(4, 2049, 4))


def test_nothing_is_printed_unless_asked(capfd, tmp_path):
    br.train(games=["CartPole-v1"], steps=128, out=tmp_path / "quiet", settings=SETTINGS, threads=1)
    assert capfd.readouterr() == ("", "")
    br.train(games=["CartPole-v1"], steps=128, out=tmp_path / "log", settings=SETTINGS, threads=1, progress="log")
    assert "blip learns CartPole-v1" in capfd.readouterr().out


@pytest.mark.filterwarnings("ignore:Training and eval env are not of the same type")
def test_evaluation_and_checkpoint_callbacks_of_stable_baselines3_work(tmp_path):
    env = make_control_env("CartPole-v1", 1, 0)
    evaluating = EvalCallback(env, n_eval_episodes=2, eval_freq=32, verbose=0, warn=False)
    saving = CheckpointCallback(save_freq=32, save_path=str(tmp_path / "saved"))
    same = []

    def predict_and_act(local, _global):
        model, observations = local["self"], np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
        chosen, _ = model.predict(observations, deterministic=True)
        same.append((chosen == model.policy.act(observations, greedy=True)).all())

    settings = SETTINGS | {"normalize_observations": True}
    callbacks = [evaluating, saving, predict_and_act]
    br.train(games=["CartPole-v1"], steps=256, out=tmp_path / "run", settings=settings, callback=callbacks)
    assert evaluating.last_mean_reward > 5
    assert len(list((tmp_path / "saved").iterdir())) == 2
    assert len(same) == 64
    assert all(same)


@pytest.mark.parametrize("agent", ["finetune", "multitask"])
def test_a_callback_that_returns_false_ends_the_training_of_the_game(agent, tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if not key.startswith("method.")}

    def callback(local, _global):
        return local["self"].num_timesteps % 1024 != 512

    run = br.train(games=GAMES, agent=agent, steps=1024, out=tmp_path / "run", settings=settings, callback=callback)
    assert run.stages == ([2] if agent == "multitask" else [1, 2])
    last = {row.stage: row.env_steps for row in run.scores if row.phase == "after"}
    assert last == ({2: 512} if agent == "multitask" else {1: 512, 2: 1536})


def test_a_stopped_run_resumes_exactly(trained, tmp_path, monkeypatch):
    whole, _, _ = trained
    stops = []
    monkeypatch.setattr(
        StopRequest, "__init__", lambda self, say: (stops.append(self), setattr(self, "signal_number", None))[0]
    )

    def stop(local, _global):
        if local["self"].num_timesteps == 1536:
            stops[0].signal_number = 15

    out = tmp_path / "run"
    with pytest.raises(br.InterruptedRunError, match="resume with: blip-rl train --resume"):
        br.train(games=GAMES, steps=1024, seed=3, out=out, callback=stop, settings=SETTINGS, threads=1)
    counting = Counting()
    resumed = br.resume(out, callback=counting)
    assert tables(resumed) == tables(whole)
    assert 0 < counting.steps < 1024
    with pytest.raises(br.UserError, match="is finished: there is nothing to resume"):
        br.resume(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"games": "kungfu,boxing"},
            r"games = 'kungfu,boxing': expected a list of names, such as \[\"kungfu\", \"boxing\"\]",
        ),
        ({"games": []}, r"games = \[\]: expected a list of names"),
        ({"games": [1]}, r"games = \[1\]: expected a list of names"),
        ({"games": ["kungfu,boxing"]}, "has the item 'kungfu,boxing': expected one name for each item"),
        ({"games": ["kungfoo"]}, "unknown game 'kungfoo': did you mean kungfu"),
        ({"agent": 3}, "agent = 3: expected a path"),
        ({"agent": "blop"}, "'blop': did you mean blip"),
        ({"steps": 0}, "--steps 0: .*expected a whole number of steps"),
        ({"steps": [1]}, r"--steps \[1\]: "),
        ({"seed": "one"}, "--seed 'one': input should be a valid integer"),
        ({"cycles": -1}, "--cycles -1: "),
        ({"device": "gpu"}, "--device 'gpu': expected auto, cpu, cuda or cuda:N"),
        ({"device": None}, "--device None: "),
        ({"out": 1}, "out = 1: expected a path"),
        ({"settings": "ppo.epochs=1"}, "settings = 'ppo.epochs=1': expected values by key"),
        ({"settings": {1: 2}}, "settings = {1: 2}: expected values by key"),
        ({"settings": {"ppo.epoch": 1}}, "--set ppo.epoch=1: unknown key: did you mean epochs"),
        ({"settings": {"ppo.epochs": "many"}}, '--set ppo.epochs="many": input should be a valid integer'),
        (
            {"settings": {"ppo.epochs": object}},
            r"settings\['ppo.epochs'\] = <class 'object'>: expected a number, a text",
        ),
        ({"settings": {"ppo.epochs": None}}, "--set ppo.epochs=none"),
        ({"callback": 3}, "callback = '3': expected a stable-baselines3 callback object, a function"),
        ({"callback": [Counting]}, "expected a stable-baselines3 callback object, a function"),
        ({"threads": -1}, "threads = -1: expected a whole number from 0 to 1,024"),
        ({"trust": "yes"}, "trust = 'yes': expected True or False"),
        ({"progress": True}, "progress = True: expected one of 'auto', 'bar', 'log', 'off', None"),
        ({"progress": "logs"}, "progress = 'logs': did you mean log"),
    ],
)
def test_wrong_arguments_are_one_message_and_nothing_is_written(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(br.UserError, match=message) as caught:
        br.train(**{"games": ["CartPole-v1"], "steps": 10_000} | arguments)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_messages_are_those_of_the_command_line():
    with pytest.raises(br.UserError) as caught:
        br.train(games=["kungfoo"], agent="blop", steps="0", settings={"ppo.epochs": 0})
    words = ["train", "--games", "kungfoo", "--agent", "blop", "--steps", "0", "--set", "ppo.epochs=0"]
    assert CliRunner().invoke(cli, words).output == f"Error: {caught.value}\n"
