"""Multitask training: every head learns; one consolidation and one checkpoint at the end."""

import contextlib
import csv
import io

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.learner.multitask import TaskSchedule, learn_interleaved
from blip_rl.recipes import load_run_config
from blip_rl.run.train import train
from blip_rl.storage.checkpoint import load_stage
from tests.learner.small_agents import ROLLOUT, Lines, agent, cartpole, same, vectorised, weights
from tests.small_runs import small_config


@pytest.fixture(scope="module")
def printed():
    return io.StringIO()


@pytest.fixture(scope="module")
def run(printed, tmp_path_factory):
    with contextlib.redirect_stdout(printed):
        return train(small_config("multitask"), out=tmp_path_factory.mktemp("runs") / "run", threads=1)


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
    table = evaluate_run(run).text
    assert sorted(map(str, rows(run))) == sorted(map(str, before))
    assert "learned all at once" in table


def test_tensorboard_keeps_the_games_apart_and_the_learning_rate_falls_once(run):
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    rates = [event.value for event in events.Scalars("train/learning_rate")]
    first = small_config("multitask").agent.ppo.learning_rate
    assert rates == pytest.approx([first * (1 - k / 16) for k in range(len(rates))])
    assert len(rates) >= 15
    for task, turn in (("cartpole-a", 0), ("cartpole-b", 1)):
        steps = [event.step for event in events.Scalars(f"rollout/{task}/ep_rew_mean")]
        assert {step // 128 % 2 for step in steps} == {1 - turn}
    assert "rollout/ep_rew_mean" not in events.Tags()["scalars"]


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


def test_the_summary_has_no_undefined_numbers(run, printed):
    assert "ACC" in printed.getvalue()
    assert "nan" not in printed.getvalue().lower()


class Watch(BaseCallback):
    """Records whose rollouts end when, and stops after ``most`` steps."""

    def __init__(self, most=10**9):
        super().__init__()
        self.rollouts, self.begun, self.ended, self._most = [], 0, 0, most

    def _on_training_start(self):
        self.begun += 1

    def _on_step(self):
        return self.num_timesteps < self._most

    def _on_rollout_end(self):
        self.rollouts.append((self.model.policy.current_name, self.num_timesteps))

    def _on_training_end(self):
        self.ended += 1


def interleaved(*steps, envs=None, watch=None, prepare=lambda model, envs: None, **settings):
    """Train tasks a and b together for so many steps each; return the agent."""
    envs = envs or [cartpole(), cartpole(mix=2)]
    model = agent("a", envs[0], **settings)
    model.set_logger(Logger(None, []))
    schedule = TaskSchedule(model, [(name, env, count) for name, env, count in zip("ab", envs, steps, strict=True)])
    prepare(model, envs)
    learn_interleaved(model, schedule, watch or Watch())
    return model


def test_all_tasks_improve_each_by_its_own_head():
    envs = [vectorised(lambda pays=pays: Wanted(pays)) for pays in (0, 2)]
    model = interleaved(20 * ROLLOUT, 20 * ROLLOUT, envs=envs, learning_rate=1e-2, epochs=4)
    for name, pays in (("a", 0), ("b", 2)):
        model.policy.use_task(name)
        observations = torch.full((1, 4), 0.5)
        with torch.no_grad():
            assert model.policy.head(model.policy.trunk(observations)).probs[0, pays] > 0.8


def test_tasks_take_turns_until_each_has_had_its_steps():
    """Steps are rounded up to whole rollouts; the longest task continues alone."""
    watch = Watch()
    model = interleaved(ROLLOUT + 1, 4 * ROLLOUT, watch=watch)
    assert watch.rollouts == [(name, (k + 1) * ROLLOUT) for k, name in enumerate("ababbb")]
    assert (watch.begun, watch.ended) == (1, 1)
    assert model.num_timesteps == 6 * ROLLOUT


def test_each_task_continues_where_it_was():
    """No environment is reset between rollouts, and each gets its own observations."""
    resets, first, last = [], [], []

    def prepare(model, envs):
        for env in envs:
            env.reset = lambda: resets.append(1)
        collect = model.collect_rollouts

        def collected(*arguments):
            first.append(model._last_obs.copy())
            more = collect(*arguments)
            last.append(model._last_obs.copy())
            return more

        model.collect_rollouts = collected

    interleaved(3 * ROLLOUT, 3 * ROLLOUT, prepare=prepare)
    assert resets == []
    assert len(first) == 6
    assert all(np.array_equal(first[turn], last[turn - 2]) for turn in range(2, 6))
    assert not any(np.array_equal(first[turn], last[turn - 1]) for turn in range(1, 6))


def test_an_update_moves_the_head_of_its_task_and_the_trunk_but_no_other_head():
    """Adam's momentum must not move the other heads either. One optimizer holds all parameters for the whole run."""
    moved, optimizers = [], []

    def prepare(model, envs):
        parts, update = (
            {"trunk": model.policy.trunk, "a": model.policy.tasks[0], "b": model.policy.tasks[1]},
            model.train,
        )

        def watched():
            before = {name: weights(part) for name, part in parts.items()}
            optimizers.append(model.policy.optimizer)
            update()
            moved.append({name for name, part in parts.items() if not same(before[name], weights(part))})

        model.train = watched

    model = interleaved(2 * ROLLOUT, 2 * ROLLOUT, prepare=prepare, modulation=True)
    assert moved == [{"trunk", "a"}, {"trunk", "b"}] * 2
    (optimizer,) = set(optimizers)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for module in (model.policy.trunk, model.policy.tasks) for p in module.parameters()}
    steps = {float(optimizer.state[p]["step"]) for p in model.policy.trunk.parameters()}
    assert steps == {4 * model.n_epochs * ROLLOUT / model.batch_size}


def test_tasks_with_different_kinds_of_actions_are_learned_together():
    box = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)
    envs, before = [vectorised(lambda space=space: Lines(space)) for space in (gymnasium.spaces.Discrete(4), box)], []
    model = interleaved(
        2 * ROLLOUT, 2 * ROLLOUT, envs=envs, prepare=lambda model, _: before.append(weights(model.policy.tasks[1]))
    )
    assert not same(before[0], weights(model.policy.tasks[1]))


def test_a_callback_can_stop_the_training():
    watch = Watch(most=ROLLOUT)
    assert interleaved(9999, 9999, watch=watch).num_timesteps == ROLLOUT
    assert watch.ended == 1, "as in stable-baselines3"
