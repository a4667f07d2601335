"""Multitask training: every head learns; one consolidation and one checkpoint at the end."""

import csv
import math

import gymnasium
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from stable_baselines3.common.callbacks import BaseCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from blip_rl import cli
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.learner.multitask import TaskSchedule, learn_interleaved
from blip_rl.recipes import load_run_config
from blip_rl.run.train import train
from blip_rl.storage.checkpoint import load_stage
from tests.learner.small_agents import ROLLOUT, Lines, agent, cartpole, same, vectorised, weights
from tests.small_runs import SMALL


def multitask_config(**options):
    from blip_rl.recipes import resolve

    games = options.pop("games", "cartpole-a,cartpole-b")
    return resolve(games, "multitask", steps=options.pop("steps", "1024"), overrides=SMALL, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(multitask_config(), out=tmp_path_factory.mktemp("runs") / "run", threads=1, quiet=True)


def rows(run):
    with (run / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_periodic_and_one_last_row_of_all_tasks(run):
    found = {}
    for row in rows(run):
        key = (int(row["env_steps"]), int(row["stage"]), row["phase"], row["task"])
        found[key] = found.get(key, 0) + 1
    moments = [
        (0, "start"),
        (512, "periodic"),
        (1024, "periodic"),
        (1536, "periodic"),
        (2048, "before"),
        (2048, "after"),
    ]
    assert found == {(s, 2, phase, task): 3 for s, phase in moments for task in ("cartpole-a", "cartpole-b")}


def test_the_one_checkpoint_plays_every_task_as_the_run_did(run):
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["stage-02"]
    stage = load_stage(run / "checkpoints" / "stage-02", load_run_config(run))
    assert (stage.number, stage.env_steps, stage.policy.task_names) == (2, 2048, ["cartpole-a", "cartpole-b"])
    before = rows(run)
    table = evaluate_run(run)
    assert sorted(map(str, rows(run))) == sorted(map(str, before))
    assert "learned all at once" in table


def test_tensorboard_keeps_the_games_apart_and_the_learning_rate_falls_once(run):
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    rates = [event.value for event in events.Scalars("train/learning_rate")]
    first = multitask_config().agent.ppo.learning_rate
    assert rates == pytest.approx([first * (1 - k / 16) for k in range(len(rates))])
    assert len(rates) >= 15
    for task, turn in (("cartpole-a", 0), ("cartpole-b", 1)):
        steps = [event.step for event in events.Scalars(f"rollout/{task}/ep_rew_mean")]
        assert {step // 128 % 2 for step in steps} == {1 - turn}
    assert "rollout/ep_rew_mean" not in events.Tags()["scalars"]


def test_the_same_seed_makes_the_same_run(run, tmp_path):
    again = train(multitask_config(), out=tmp_path / "again", threads=1, quiet=True)
    name = "checkpoints/stage-02/policy.safetensors"
    assert (again / name).read_bytes() == (run / name).read_bytes()


def test_the_command_copes_with_a_matrix_of_one_row(tmp_path):
    arguments = ["train", "--games", "cartpole-a,cartpole-b", "--agent", "multitask", "--steps", "256"]
    settings = [part for setting in SMALL for part in ("--set", setting)]
    result = CliRunner().invoke(cli.cli, [*arguments, *settings, "--out", str(tmp_path / "r")])
    assert result.exit_code == 0, result.output
    assert "ACC" in result.output
    assert "nan" not in result.output.lower()


class Wanted(gymnasium.Env):
    """Episodes of one step. The observation does not show the rewarded action, so each task needs its own head."""

    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, pays):
        self.pays = pays

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(4, 0.5, np.float32), {}

    def step(self, action):
        return np.full(4, 0.5, np.float32), float(action == self.pays), True, False, {}


def wanted(pays):
    return vectorised(lambda: Wanted(pays))


def quiet(model):
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(None, []))
    return model


class Watch(BaseCallback):
    """Records the calls to a callback."""

    def __init__(self):
        super().__init__()
        self.seen, self.begun, self.ended = [], 0, 0

    def _on_training_start(self):
        self.begun += 1

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        model = self.model
        self.seen.append((model.policy.task_names[model.policy._current], self.num_timesteps))

    def _on_training_end(self):
        self.ended += 1


def test_all_tasks_improve_each_by_its_own_head():
    envs = [wanted(0), wanted(2)]
    model = quiet(agent("a", envs[0], learning_rate=1e-2, epochs=4))
    schedule = TaskSchedule(model, [(name, env, 20 * ROLLOUT) for name, env in zip("ab", envs, strict=True)])
    learn_interleaved(model, schedule, Watch())
    for name, pays in (("a", 0), ("b", 2)):
        model.policy.use_task(name)
        observations = torch.full((1, 4), 0.5)
        with torch.no_grad():
            assert model.policy.head(model.policy.trunk(observations)).probs[0, pays] > 0.8


def test_tasks_take_turns_until_each_has_had_its_steps():
    """Steps are rounded up to whole rollouts; the longest task continues alone."""
    envs = [cartpole(), cartpole(mix=2)]
    model, watch = quiet(agent("a", envs[0])), Watch()
    schedule = TaskSchedule(model, [("a", envs[0], ROLLOUT + 1), ("b", envs[1], 4 * ROLLOUT)])
    learn_interleaved(model, schedule, watch)
    assert watch.seen == [(name, (k + 1) * ROLLOUT) for k, name in enumerate("ababbb")]
    assert (watch.begun, watch.ended) == (1, 1)
    assert model.num_timesteps == 6 * ROLLOUT


def test_each_task_continues_where_it_was():
    """No environment is reset between rollouts, and each gets its own observations and actions."""
    envs = [cartpole(), cartpole(mix=2)]
    model = quiet(agent("a", envs[0]))
    schedule = TaskSchedule(model, [("a", envs[0], 3 * ROLLOUT), ("b", envs[1], 3 * ROLLOUT)])
    resets, played, met = [], [], []
    for name, env in zip("ab", envs, strict=True):
        reset, wait = env.reset, env.step_wait
        env.reset = lambda name=name, reset=reset: resets.append(name) or reset()
        env.step_wait = lambda name=name, wait=wait: _noting(played, name, wait())
    collect = model.collect_rollouts
    model.collect_rollouts = lambda *arguments: met.append(model._last_obs.copy()) or collect(*arguments)
    learn_interleaved(model, schedule, Watch())
    assert resets == []
    last = {}
    steps = ROLLOUT // 2
    for turn, first in enumerate(met):
        name = "ab"[turn % 2]
        if name in last:
            assert np.array_equal(first, last[name])
        mine = [observations for who, observations in played[turn * steps : (turn + 1) * steps] if who == name]
        assert len(mine) == steps
        last[name] = mine[-1]


def _noting(played, name, result):
    played.append((name, result[0].copy()))
    return result


def test_a_turn_moves_its_own_head_and_the_trunk_but_no_other_head():
    """Adam's momentum must not move the other heads either."""
    envs = [cartpole(), cartpole(mix=2)]
    model = quiet(agent("a", envs[0], modulation=True))
    schedule = TaskSchedule(model, [("a", envs[0], 2 * ROLLOUT), ("b", envs[1], 2 * ROLLOUT)])
    parts = {"trunk": model.policy.trunk, "a": model.policy.tasks[0], "b": model.policy.tasks[1]}
    update, moved = model.train, []

    def watched():
        before = {name: weights(part) for name, part in parts.items()}
        update()
        moved.append({name for name, part in parts.items() if not same(before[name], weights(part))})

    model.train = watched
    learn_interleaved(model, schedule, Watch())
    assert moved == [{"trunk", "a"}, {"trunk", "b"}] * 2


def test_one_optimizer_holds_every_parameter_for_the_whole_run():
    envs = [cartpole(), cartpole(mix=2)]
    model = quiet(agent("a", envs[0]))
    schedule = TaskSchedule(model, [("a", envs[0], 2 * ROLLOUT), ("b", envs[1], 2 * ROLLOUT)])
    optimizer = model.policy.optimizer
    learn_interleaved(model, schedule, Watch())
    assert model.policy.optimizer is optimizer
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for module in (model.policy.trunk, model.policy.tasks) for p in module.parameters()}
    steps = {float(optimizer.state[p]["step"]) for p in model.policy.trunk.parameters()}
    assert steps == {4 * model.n_epochs * ROLLOUT / model.batch_size}


def test_kinds_of_actions_may_differ():
    box = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)
    envs = [vectorised(lambda: Lines(gymnasium.spaces.Discrete(4))), vectorised(lambda: Lines(box))]
    model = quiet(agent("a", envs[0]))
    schedule = TaskSchedule(model, [("a", envs[0], 2 * ROLLOUT), ("b", envs[1], 2 * ROLLOUT)])
    before = weights(model.policy.tasks[1])
    learn_interleaved(model, schedule, Watch())
    assert not same(before, weights(model.policy.tasks[1]))


def test_a_callback_can_stop_it():
    class Stop(Watch):
        def _on_step(self):
            return self.num_timesteps < ROLLOUT

    envs = [cartpole(), cartpole(mix=2)]
    model, stop = quiet(agent("a", envs[0])), Stop()
    learn_interleaved(model, TaskSchedule(model, [("a", envs[0], 9999), ("b", envs[1], 9999)]), stop)
    assert model.num_timesteps == ROLLOUT


def test_reports_read_the_one_row(run):
    from blip_rl.report.scores import load_scores

    scores = load_scores(run)
    assert np.isnan(scores.after[0]).all()
    assert not np.isnan(scores.after[1]).any()
    assert not math.isnan(scores.after_normalised[1].mean())


def test_every_head_learned_in_a_run(run):
    untrained = agent_of_the_run_before_training()
    trained = load_file(run / "checkpoints" / "stage-02" / "policy.safetensors")
    for task in (0, 1):
        for part in ("actor", "critic"):
            assert not torch.equal(trained[f"tasks.{task}.{part}.weight"], untrained[f"tasks.{task}.{part}.weight"])


def agent_of_the_run_before_training():
    from blip_rl.learner.ppo import ContinualPPO

    config = multitask_config()
    model = ContinualPPO(config.agent, "cartpole-a", cartpole(environments=4), seed=0, device="cpu")
    model.switch_task("cartpole-b", cartpole(mix=2, environments=4))
    return model.policy.task_state()
