"""Evaluation plays whole games, one per environment, and does not change the state of training."""

from contextlib import contextmanager

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import AtariConfig, EvaluationConfig
from blip_rl.evaluation import episodes as module
from blip_rl.evaluation.episodes import Episode, evaluate_task, normalised
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import Method
from blip_rl.recipes import resolve
from blip_rl.tasks.make import make_evaluation_env
from tests.small_runs import small_config

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (4,), np.float32)


class ScriptedGames(VecEnv):
    """Game k lasts lengths[k % …] steps with reward 1 per step; a restarted game pays 100, not to be counted."""

    made: list["ScriptedGames"] = []  # noqa: RUF012

    def __init__(self, num_envs: int, seed: int, lengths: list[int]) -> None:
        self.first_seed = seed
        self.lengths = np.array([lengths[(seed + k) % len(lengths)] for k in range(num_envs)])
        self.render_mode = None
        self.taken: list[np.ndarray] = []
        super().__init__(num_envs, OBSERVATIONS, spaces.Discrete(2))
        ScriptedGames.made.append(self)

    def reset(self):
        self.clock = np.zeros(self.num_envs, dtype=int)
        self.over = np.zeros(self.num_envs, dtype=bool)
        return np.zeros((self.num_envs, 4), np.float32)

    def step_async(self, actions):
        self.taken.append(actions.copy())

    def step_wait(self):
        self.clock += 1
        rewards = np.where(self.over, 100.0, 1.0).astype(np.float32)
        dones = self.clock == self.lengths
        self.over |= dones
        return np.zeros((self.num_envs, 4), np.float32), rewards, dones, [{} for _ in dones]

    def close(self):
        self.closed = True

    def get_attr(self, attr_name, indices=None):
        return [None] * self.num_envs

    def set_attr(self, attr_name, value, indices=None): ...
    def env_method(self, method_name, *args, indices=None, **kwargs): ...
    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


@pytest.fixture
def config():
    return small_config()


@pytest.fixture
def policy(config):
    torch.manual_seed(0)
    policy = ContinualPolicy(OBSERVATIONS, spaces.Discrete(2), lambda _: 0.0, trunk=config.agent.trunk)
    for task in config.tasks:
        policy.add_task(task.name, spaces.Discrete(2))
    policy.use_task("cartpole-b")
    return policy


def play(monkeypatch, policy, config, lengths, budget=None, hooks=None, **settings):
    ScriptedGames.made = []
    settings.setdefault("seed", 0)
    monkeypatch.setattr(
        module, "make_evaluation_env", lambda task, atari, count, seed: ScriptedGames(count, seed, lengths)
    )
    return evaluate_task(
        policy, Method(), config.tasks[0], config, EvaluationConfig(**settings), budget, **(hooks or {})
    )


def test_short_games_are_not_counted_more_often_than_long_ones(monkeypatch, policy, config):
    """The first four games to finish would all be the short ones: mean 2 instead of 26."""
    played = play(monkeypatch, policy, config, [2, 50], episodes=4)
    assert [e.score for e in played] == [2.0, 50.0, 2.0, 50.0]
    assert [e.length_steps for e in played] == [2, 50, 2, 50]
    assert not any(e.truncated for e in played)


def test_more_episodes_than_environments_use_new_seeds(monkeypatch, policy, config):
    played = play(monkeypatch, policy, config, [3], episodes=40, seed=5)
    assert len(played) == 40
    assert [(env.first_seed - 2**30, env.num_envs) for env in ScriptedGames.made] == [(5, 32), (37, 8)]
    assert all(env.closed for env in ScriptedGames.made)


def test_the_callback_receives_the_actions_of_every_episode(monkeypatch, policy, config):
    """34 games in two batches with different lengths: the callback gets the actions that each environment got."""
    told: list[list[int]] = [[] for _ in range(34)]

    def note(playing, actions):
        for number, action in zip(playing, actions, strict=True):
            told[number].append(int(action))

    hooks = {"on_actions": note}
    played = play(monkeypatch, policy, config, [3, 8, 5], hooks=hooks, episodes=34, actions="stochastic")
    assert [len(actions) for actions in told] == [episode.length_steps for episode in played]
    environments = [(env, index) for env in ScriptedGames.made for index in range(env.num_envs)]
    for actions, (env, index) in zip(told, environments, strict=True):
        assert actions == [int(given[index]) for given in env.taken[: len(actions)]]
    assert len({tuple(actions) for actions in told}) > 10


def test_an_episode_longer_than_the_limit_is_truncated(monkeypatch, policy, config):
    played = play(monkeypatch, policy, config, [5, 1000], episodes=2, max_episode_steps=20)
    assert played == [Episode(5.0, 5, False), Episode(20.0, 20, True)]


def test_an_episode_that_ends_exactly_at_the_limit_is_not_truncated(monkeypatch, policy, config):
    assert play(monkeypatch, policy, config, [20], episodes=1, max_episode_steps=20) == [Episode(20.0, 20, False)]


def played_for_real(game, overrides=(), **settings):
    """One game of an untrained agent in the real environment."""
    small = ("trunk.image.conv=[[4, 8, 8]]", "trunk.image.hidden=[8]", "atari.noop_max=0", "atari.fire_on_reset=false")
    config = resolve(game, "finetune", overrides=[*small, *overrides])
    env = make_evaluation_env(config.tasks[0], config.atari, 1, 0)
    env.close()
    policy = ContinualPolicy(env.observation_space, env.action_space, lambda _: 0.0, trunk=config.agent.trunk)
    policy.add_task(config.tasks[0].name, env.action_space)
    (episode,) = evaluate_task(policy, Method(), config.tasks[0], config, EvaluationConfig(episodes=1, **settings))
    return episode


def test_a_time_limit_of_the_environment_is_no_truncation():
    """MountainCar-v0 ends itself after 200 steps, which an untrained agent always takes."""
    assert played_for_real("MountainCar-v0") == Episode(-200.0, 200, False)
    assert played_for_real("MountainCar-v0", max_episode_steps=200) == Episode(-200.0, 200, False)
    assert played_for_real("MountainCar-v0", max_episode_steps=199) == Episode(-199.0, 199, True)


@pytest.mark.parametrize(("own_limit", "truncated"), [(108_000, True), (40, False)])
def test_a_frame_limit_below_the_emulators_own_cuts_games_off(monkeypatch, own_limit, truncated):
    monkeypatch.setattr("blip_rl.tasks.make.ALE_EPISODE_FRAMES", own_limit)
    episode = played_for_real("boxing", ["atari.max_episode_frames=40"])
    assert (episode.length_steps, episode.truncated) == (10, truncated)


def test_the_default_frame_limit_is_the_emulators_own():
    specs = [spec for name, spec in gymnasium.registry.items() if name.startswith("ALE/") and name.endswith("-v5")]
    assert {spec.kwargs["max_num_frames_per_episode"] for spec in specs} == {AtariConfig().max_episode_frames}


def test_evaluation_stops_at_the_step_budget(monkeypatch, policy, config):
    played = play(monkeypatch, policy, config, [10, 10_000], budget=60, episodes=2)
    assert played[0] == Episode(10.0, 10, False)
    assert played[1].truncated
    assert sum(e.length_steps for e in played) == 60


def test_evaluation_leaves_the_task_and_the_random_state_alone(monkeypatch, policy, config):
    before = torch.get_rng_state()
    policy.set_training_mode(True)
    play(monkeypatch, policy, config, [5], episodes=2, actions="stochastic")
    assert torch.equal(torch.get_rng_state(), before)
    assert policy.training
    assert policy.current is policy.tasks[1]


def test_stochastic_evaluation_repeats_itself(policy, config):
    settings = EvaluationConfig(episodes=3, actions="stochastic")
    first = evaluate_task(policy, Method(), config.tasks[0], config, settings, None)
    torch.rand(7)
    assert evaluate_task(policy, Method(), config.tasks[0], config, settings, None) == first


class Recording(ScriptedGames):
    """Record the actions played in each task's game."""

    def __init__(self, num_envs, seed, lengths, task, played):
        super().__init__(num_envs, seed, lengths)
        self._task, self._played = task, played

    def step_async(self, actions):
        self._played.append((self._task, {int(action) for action in actions}))


class Swapping(Method):
    """Play each task with its own trunk, as a method with weights per task does."""

    def __init__(self, trunks):
        super().__init__()
        self.trunks, self.asked = trunks, []

    @contextmanager
    def playing(self, trunk, task):
        self.asked.append(task)
        before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
        trunk.load_state_dict(self.trunks[task])
        try:
            yield
        finally:
            trunk.load_state_dict(before)


def test_each_task_gets_its_head_its_game_and_its_trunk_at_once(monkeypatch, policy, config):
    """Each action identifies head and trunk: a head reads unit ``index``, which a trunk activates or not."""
    weights = policy.trunk.state_dict()
    last = max(name for name in weights if name.endswith("bias"))
    trunks = {}
    for task, lit in ((1, 5.0), (2, -5.0)):
        trunks[task] = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        trunks[task][last] = torch.full_like(weights[last], lit)
    for module_, sign in zip(policy.tasks, (1.0, -1.0), strict=True):
        torch.nn.init.zeros_(module_.actor.bias)
        module_.actor.weight.data = torch.stack([torch.zeros(16), torch.full((16,), sign)])
    played = []
    monkeypatch.setattr(
        module, "make_evaluation_env", lambda task, atari, n, seed: Recording(n, seed, [3], task.name, played)
    )
    before = {name: tensor.clone() for name, tensor in weights.items()}

    def actions(method):
        played.clear()
        for task in config.tasks:
            evaluate_task(policy, method, task, config, EvaluationConfig(episodes=2), None)
        return {(name, *actions) for name, actions in played}

    method = Swapping(trunks)
    assert actions(method) == {("cartpole-a", 1), ("cartpole-b", 1)}
    assert method.asked == [1, 2]
    assert actions(Swapping({1: trunks[2], 2: trunks[1]})) == {("cartpole-a", 0), ("cartpole-b", 0)}
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.trunk.state_dict().items())
    assert policy.current is policy.tasks[1]


def test_real_games_give_raw_whole_returns(policy, config):
    """CartPole pays 1 per step, so return equals length; equal seeds give equal games."""
    played = evaluate_task(policy, Method(), config.tasks[0], config, EvaluationConfig(episodes=5), None)
    assert [e.score for e in played] == [float(e.length_steps) for e in played]
    assert evaluate_task(policy, Method(), config.tasks[0], config, EvaluationConfig(episodes=5), None) == played


def test_normalised_uses_the_recipes_scores(config):
    task = config.tasks[0]
    assert normalised(task.random_score, task) == 0.0
    assert normalised(task.reference_score, task) == 1.0
    assert normalised(1.0, task.model_copy(update={"reference_score": None})) is None


def test_training_and_evaluation_seeds_are_disjoint():
    from blip_rl.run.train import training_seed

    seeds = [training_seed(seed, stage) for seed in (0, 1, 2**30 - 1) for stage in range(1, 50)]
    assert max(seeds) + 4096 < 2**30
    assert len(set(seeds)) == len(seeds)


def test_a_head_for_an_unseen_task_draws_from_no_gpu(monkeypatch):
    """torch.manual_seed seeds every GPU, whose generators training uses."""
    config = small_config()
    task = config.tasks[1]
    env = make_evaluation_env(task, config.atari, 1, 0)
    policy = ContinualPolicy(env.observation_space, env.action_space, lambda _: 0.0, trunk=config.agent.trunk)
    policy.add_task(config.tasks[0].name, env.action_space)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded all GPUs"))
    before = torch.get_rng_state()
    weights = [module.with_head_for(policy, task, config).module_of(1).actor.weight for _ in range(2)]
    assert torch.equal(*weights)
    assert torch.equal(torch.get_rng_state(), before)
