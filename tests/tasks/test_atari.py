"""What AtariVecEnv promises beyond the frames themselves (for those see test_atari_frames.py).

A random player of Space Invaders with seed 0 and no no-ops is the main instrument: it loses lives and games early.
"""

import time
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor

from blip_rl.config import AtariConfig
from blip_rl.errors import UserError
from blip_rl.tasks.atari import AtariVecEnv

EXACT_START = {"noop_max": 0, "fire_on_reset": False}


def make(game="space_invaders", num_envs=2, seed=0, *, training=False, num_threads=0, **config):
    return AtariVecEnv(game, num_envs, seed, AtariConfig(**config), training=training, num_threads=num_threads)


def play(env, steps, action_seed=0):
    """Reset, then act at random; one (observations, rewards, dones, infos, lives) for each step."""
    env.reset()
    rng = np.random.default_rng(action_seed)
    actions = rng.integers(env.action_space.n, size=(steps, env.num_envs))
    return [(*env.step(action), env.lives.copy()) for action in actions]


@pytest.fixture(scope="module")
def raw_play():
    return play(make(**EXACT_START), steps=560)


@pytest.fixture(scope="module")
def training_play():
    return play(make(training=True, **EXACT_START), steps=560)


def test_spaces_follow_the_configuration():
    env = make("riverraid", num_envs=3)
    observations = env.reset()
    assert env.observation_space.shape == (4, 84, 84)
    assert env.observation_space.dtype == observations.dtype == np.uint8
    assert observations.shape == (3, 4, 84, 84)
    assert env.action_space.n == 18
    small = make("space_invaders", frame_stack=3, frame_size=42)
    assert small.reset().shape == (2, 3, 42, 42)
    assert small.action_space.n == 6
    assert make("space_invaders", full_action_space=True).action_space.n == 18


def test_a_gymnasium_id_plays_the_same_game():
    by_rom, by_id = play(make("pong"), 5), play(make("ALE/Pong-v5"), 5)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(by_rom, by_id, strict=True))


def test_training_shows_signs_of_rewards(raw_play, training_play):
    raw = np.stack([step[1] for step in raw_play])
    shown = np.stack([step[1] for step in training_play])
    assert raw.max() > 1
    assert shown.dtype == raw.dtype == np.float32
    np.testing.assert_array_equal(shown, np.sign(raw))


def test_training_shows_losses_as_minus_one_and_raw_rewards_when_asked():
    rewards = {reward for step in play(make("boxing", num_envs=8, training=True), 150) for reward in step[1].tolist()}
    assert rewards == {-1.0, 0.0, 1.0}
    raw = np.stack([step[1] for step in play(make(), 150)])
    kept = np.stack([step[1] for step in play(make(training=True, clip_rewards=False), 150)])
    assert raw.max() > 1
    np.testing.assert_array_equal(kept, raw)


def test_a_lost_life_ends_the_learners_episode_but_not_the_game(raw_play, training_play):
    lost = 0
    for t, (raw, shown) in enumerate(zip(raw_play, training_play, strict=True)):
        np.testing.assert_array_equal(raw[0], shown[0], err_msg=f"the game does not play on after step {t}")
        for i in np.flatnonzero(shown[2] & ~raw[2]):
            lost += 1
            assert shown[4][i] == training_play[t - 1][4][i] - 1
            assert set(shown[3][i]) == {"terminal_observation"}
            np.testing.assert_array_equal(shown[3][i]["terminal_observation"], shown[0][i])
        assert not (raw[2] & ~shown[2]).any()
    assert lost == 4


def test_evaluation_and_the_switch_ignore_lost_lives(raw_play):
    kept = play(make(training=True, lost_life_ends_episode=False, **EXACT_START), steps=560)
    for raw, shown in zip(raw_play, kept, strict=True):
        np.testing.assert_array_equal(raw[2], shown[2])
    ends = np.stack([step[2] for step in raw_play])
    lives = np.stack([step[4] for step in raw_play])
    lost = np.diff(lives, axis=0) < 0
    assert lost.sum() == 4
    assert not ends[1:][lost].any()


def test_a_games_report_is_its_raw_return_and_length(raw_play, training_play):
    for steps in (raw_play, training_play):
        returns, lengths, games = np.zeros(2), np.zeros(2), 0
        for raw, step in zip(raw_play, steps, strict=True):
            returns, lengths = returns + raw[1], lengths + 1
            for i, info in enumerate(step[3]):
                assert ("episode" in info) == raw[2][i]
                if "episode" in info:
                    games += 1
                    assert info["episode"]["r"] == returns[i] > 0
                    assert info["episode"]["l"] == lengths[i]
                    assert 0 < info["episode"]["t"] < 600
                    returns[i] = lengths[i] = 0
        assert games == 2


def test_the_next_game_begins_within_the_step(raw_play):
    for observations, _, dones, infos, lives in raw_play:
        for i in np.flatnonzero(dones):
            assert not observations[i, :3].any(), "older frames of the stack belong to the game before"
            assert observations[i, 3].any()
            assert lives[i] == 3
            assert infos[i]["terminal_observation"].all(axis=(1, 2)).sum() == 0
            assert infos[i]["terminal_observation"].any(axis=(1, 2)).all()
            assert infos[i]["TimeLimit.truncated"] is False


@pytest.mark.parametrize("training", [False, True])
def test_the_frame_cap_truncates(training):
    steps = play(make("boxing", training=training, max_episode_frames=40, **EXACT_START), steps=25)
    for t, (observations, _, dones, infos, _) in enumerate(steps, start=1):
        assert dones.all() == dones.any() == (t % 10 == 0)
        if dones.any():
            assert [info["TimeLimit.truncated"] for info in infos] == [True, True]
            assert [info["episode"]["l"] for info in infos] == [10, 10]
            assert not observations[:, :3].any()


def frames_until(steps, index, event):
    """Decisions until the first event(step, step before) of one game."""
    return next(t for t in range(1, len(steps)) if event(steps[t], steps[t - 1])[index]) + 1


def test_a_life_lost_at_the_frame_cap_ends_the_game(raw_play):
    decisions = frames_until(raw_play, 0, lambda now, before: now[4] < before[4])
    cap = {"max_episode_frames": 4 * decisions, **EXACT_START}
    *_, dones, infos, lives = play(make(training=True, **cap), decisions)[-1]
    assert dones.tolist() == [True, True]
    assert lives.tolist() == [3, 3]
    assert [info["episode"]["l"] for info in infos] == [decisions, decisions]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    *_, infos, _ = play(make(training=False, **cap), decisions)[-1]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, True]


def test_a_game_over_at_the_frame_cap_is_no_truncation(raw_play):
    decisions = frames_until(raw_play, 1, lambda now, _: now[2])
    last_frames = []
    for frames in range(4 * decisions - 3, 4 * decisions + 1):
        *_, dones, infos, _ = play(make(max_episode_frames=frames, **EXACT_START), decisions)[-1]
        assert dones[1]
        last_frames.append(infos[1]["TimeLimit.truncated"])
    assert last_frames == sorted(last_frames, reverse=True), "truncated up to the frame before the end, then over"
    assert last_frames[-1] is False


def test_games_shorter_than_the_noops_of_the_next_are_counted():
    steps = play(make("breakout", num_envs=8, max_episode_frames=4), steps=30)
    assert all(info["episode"]["l"] == 1 for step in steps for info in step[3])


def test_later_steps_do_not_touch_what_was_returned():
    env = make(training=True, max_episode_frames=20)
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for t in range(30):
        observations, rewards, dones, infos = env.step(np.full(2, t % 6))
        arrays = [observations, rewards, dones, env.lives, *(x["terminal_observation"] for x in infos if x)]
        kept += arrays
        copies += [array.copy() for array in arrays]
    env.reset()
    env.close()
    assert len(kept) > 1 + 4 * 30
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


RANDOM_GAMES = {"sticky_action_probability": 0.25, "max_episode_frames": 120}


def same_play(left, right):
    for a, b in zip(left, right, strict=True):
        for x, y in zip((a[0], a[1], a[2], a[4]), (b[0], b[1], b[2], b[4]), strict=True):
            if not np.array_equal(x, y):
                return False
    return True


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 3])
def test_a_seed_decides_all_games_to_come(seed):
    first, second = (play(make("breakout", 3, seed, num_threads=n, **RANDOM_GAMES), 100) for n in (1, 2))
    assert sum(step[2].sum() for step in first) >= 9
    assert same_play(first, second)


def test_seeds_and_games_differ():
    steps = play(make("breakout", 3, seed=0, **RANDOM_GAMES), 60)
    assert not same_play(steps, play(make("breakout", 3, seed=3, **RANDOM_GAMES), 60))
    env = make("breakout", 3, seed=0, **RANDOM_GAMES)
    env.reset()
    observations = np.stack([env.step(np.zeros(3, dtype=int))[0] for _ in range(60)])
    assert not np.array_equal(observations[:, 0], observations[:, 1])
    assert not np.array_equal(observations[:, 1], observations[:, 2])


def test_game_i_is_seeded_with_seed_plus_i():
    env, neighbour = make("breakout", 3, seed=5, **RANDOM_GAMES), make("breakout", 1, seed=7, **RANDOM_GAMES)
    np.testing.assert_array_equal(env.reset()[2], neighbour.reset()[0])
    for t in range(90):
        action = t // 5 % 4
        np.testing.assert_array_equal(env.step(np.full(3, action))[0][2], neighbour.step(np.array([action]))[0][0])


def test_seed_takes_effect_at_the_next_reset_and_once():
    env = make("breakout", 3, seed=1, **RANDOM_GAMES)
    first = play(env, 60)
    assert not same_play(first, play(env, 60)), "without a new seed the random numbers go on"
    assert list(env.seed(1)) == [1, 2, 3]
    assert same_play(first, play(env, 60))


def test_a_random_seed_is_one_the_emulator_takes():
    env = make("breakout", 3)
    drawn = [env.seed() for _ in range(20)]
    assert len({seeds[0] for seeds in drawn}) > 1
    assert all(0 <= seeds[0] < seeds[2] < 2**31 for seeds in drawn)
    env.reset()


@pytest.mark.parametrize("seed", [-1, 2**31 - 1])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(UserError, match=f"seed {seed}: expected 0 to 2147483646"):
        make(seed=seed)


def test_unknown_games_are_refused():
    with pytest.raises(UserError, match=r"'spaceinvaders': did you mean space_invaders?"):
        make("spaceinvaders")
    with pytest.raises(UserError, match="'CartPole-v1' is no Atari game"):
        make("CartPole-v1")


def test_a_rom_folder_without_the_rom_is_a_users_mistake(monkeypatch, tmp_path):
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"'boxing': cannot read its ROM: .*unset ALE_ROMS_DIR"):
        make("boxing")


@pytest.mark.parametrize("action", [-1, 6, 2**20])
def test_actions_outside_the_set_are_refused_instead_of_hanging(action):
    env = make()
    env.reset()
    with pytest.raises(ValueError, match="expected 0 to 5"):
        env.step(np.array([0, action]))
    env.step(np.array([0, 5]))


def test_reset_abandons_a_step_under_way():
    env, fresh = make(**EXACT_START), make(**EXACT_START)
    env.reset()
    env.step_async(np.zeros(2, dtype=int))
    np.testing.assert_array_equal(env.reset(), fresh.reset())
    np.testing.assert_array_equal(env.step(np.ones(2, dtype=int))[0], fresh.step(np.ones(2, dtype=int))[0])
    assert (env._lengths == 1).all()


def test_close_ends_the_threads_and_may_be_called_twice():
    before = len(list(Path("/proc/self/task").iterdir()))
    env = make(num_threads=2)
    env.reset()
    assert len(list(Path("/proc/self/task").iterdir())) == before + 2
    env.step_async(np.zeros(2, dtype=int))
    env.close()
    env.close()
    deadline = time.monotonic() + 5
    while len(list(Path("/proc/self/task").iterdir())) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list(Path("/proc/self/task").iterdir())) == before


def test_attributes_are_shared_by_all_games():
    env = make(num_envs=3)
    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("num_envs", indices=[0, 2]) == [3, 3]
    assert env.get_attr("num_envs", indices=iter([1])) == [3]
    assert not env.has_attr("no_such_attribute")
    env.set_attr("label", "x")
    assert env.get_attr("label", indices=1) == ["x"]
    with pytest.raises(AttributeError, match="cannot be set for some"):
        env.set_attr("label", "y", indices=[0])
    with pytest.raises(AttributeError, match=r"'render': .* no Python methods"):
        env.env_method("render")


def test_only_monitor_is_said_to_wrap_the_games():
    env = make(num_envs=3)
    assert env.env_is_wrapped(Monitor) == [True] * 3
    assert env.env_is_wrapped(VecMonitor, indices=0) == [False]


def test_stable_baselines3_learns_and_evaluates_with_raw_returns_of_whole_games():
    config = {"max_episode_frames": 800, **EXACT_START}
    env = make("space_invaders", 2, training=True, **config)
    model = PPO("CnnPolicy", env, n_steps=210, batch_size=210, n_epochs=1, seed=3, device="cpu")
    model.learn(420)
    returns = [episode["r"] for episode in model.ep_info_buffer]
    assert len(returns) == 2
    assert max(returns) > 20, "clipped returns would not reach this"
    assert all(episode["l"] == 200 for episode in model.ep_info_buffer)
    scores, lengths = evaluate_policy(
        model, make(training=True, **config), n_eval_episodes=2, return_episode_rewards=True
    )
    assert lengths == [200, 200]
    assert all(score == round(score) for score in scores)
