"""Rewards, lives, episode ends and episode reports of AtariVecEnv; test_atari_frames.py compares its frames.

Most tests use a random player of Space Invaders with seed 0 and no no-ops, which loses lives and games early.
"""

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy

from blip_rl.errors import UserError
from tests.tasks.atari_play import EXACT_START, make, play

STEPS = 910  # both games end around step 500, and their successors lose lives before the last step


@pytest.fixture(scope="module")
def raw_play():
    return play(make(**EXACT_START), STEPS)


@pytest.fixture(scope="module")
def training_play():
    return play(make(training=True, **EXACT_START), STEPS)


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


def test_fire_on_reset_starts_games_that_wait_for_fire():
    lives = {}
    for fire in (False, True):
        env = make("breakout", num_envs=1, fire_on_reset=fire)
        env.reset()
        for _ in range(60):
            env.step(np.zeros(1, dtype=int))
        lives[fire] = env.lives.tolist()
    assert lives == {False: [5], True: [4]}, "the ball is only served, and lost, after FIRE"


def test_a_step_lasts_frame_skip_frames():
    steps = play(make(frame_skip=2, max_episode_frames=12, **EXACT_START), 12)
    assert [step[2].all() for step in steps] == [False] * 5 + [True] + [False] * 5 + [True]


def test_training_rewards_are_signs_unless_clipping_is_off():
    rewards = {reward for step in play(make("boxing", num_envs=8, training=True), 150) for reward in step[1].tolist()}
    assert rewards == {-1.0, 0.0, 1.0}
    raw = np.stack([step[1] for step in play(make(), 150)])
    kept = np.stack([step[1] for step in play(make(training=True, clip_rewards=False), 150)])
    assert raw.max() > 1
    np.testing.assert_array_equal(kept, raw)


def test_a_lost_life_ends_the_training_episode_but_not_the_game(raw_play, training_play):
    lost = 0
    for t, (raw, shown) in enumerate(zip(raw_play, training_play, strict=True)):
        np.testing.assert_array_equal(raw[0], shown[0], err_msg=f"the game did not continue after step {t}")
        for i in np.flatnonzero(shown[2] & ~raw[2]):
            lost += 1
            assert shown[4][i] == training_play[t - 1][4][i] - 1
            assert set(shown[3][i]) == {"terminal_observation"}
            np.testing.assert_array_equal(shown[3][i]["terminal_observation"], shown[0][i])
        assert not (raw[2] & ~shown[2]).any()
    assert lost == 8


def test_lost_lives_do_not_end_episodes_in_evaluation_or_when_switched_off(raw_play):
    kept = play(make(training=True, lost_life_ends_episode=False, **EXACT_START), STEPS)
    for raw, shown in zip(raw_play, kept, strict=True):
        np.testing.assert_array_equal(raw[2], shown[2])
    ends = np.stack([step[2] for step in raw_play])
    lives = np.stack([step[4] for step in raw_play])
    lost = np.diff(lives, axis=0) < 0
    assert lost.sum() == 8
    assert not ends[1:][lost].any()


def test_episode_reports_start_at_zero_in_every_game():
    reports, since = [], np.zeros(2)
    for _, rewards, dones, infos, _ in play(make(max_episode_frames=480, **EXACT_START), steps=360):
        since += rewards
        if dones.all():
            reports.append([(info["episode"]["r"], info["episode"]["l"]) for info in infos])
            assert reports[-1] == [(since[0], 120), (since[1], 120)]
            since[:] = 0
    assert len(reports) == 3
    assert sum(r for report in reports[:2] for r, _ in report) > 0, "the next report must not hold these"


def test_the_next_game_starts_within_the_step_that_ends_one(raw_play):
    for observations, _, dones, infos, lives in raw_play:
        for i in np.flatnonzero(dones):
            assert not observations[i, :3].any(), "older frames of the stack belong to the game before"
            assert observations[i, 3].any()
            assert lives[i] == 3
            assert infos[i]["terminal_observation"].any(axis=(1, 2)).all()
            assert infos[i]["TimeLimit.truncated"] is False


@pytest.mark.parametrize("training", [False, True])
def test_the_frame_limit_truncates(training):
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


def test_a_life_lost_at_the_frame_limit_ends_the_game(raw_play):
    decisions = frames_until(raw_play, 0, lambda now, before: now[4] < before[4])
    cap = {"max_episode_frames": 4 * decisions, **EXACT_START}
    *_, dones, infos, lives = play(make(training=True, **cap), decisions)[-1]
    assert dones.tolist() == [True, True]
    assert lives.tolist() == [3, 3]
    assert [info["episode"]["l"] for info in infos] == [decisions, decisions]
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    *_, infos, _ = play(make(training=False, **cap), decisions)[-1]
    assert [info["TimeLimit.truncated"] for info in infos] == [True, True]


def test_a_game_over_at_the_frame_limit_is_not_a_truncation(raw_play):
    decisions = frames_until(raw_play, 1, lambda now, _: now[2])
    last_frames = []
    for frames in range(4 * decisions - 3, 4 * decisions + 1):
        *_, dones, infos, _ = play(make(max_episode_frames=frames, **EXACT_START), decisions)[-1]
        assert dones[1]
        last_frames.append(infos[1]["TimeLimit.truncated"])
    assert last_frames == sorted(last_frames, reverse=True), "truncated up to the frame before the end, then over"
    assert last_frames[-1] is False


def test_games_shorter_than_the_no_ops_of_the_next_are_reported():
    steps = play(make("breakout", num_envs=8, max_episode_frames=4), steps=30)
    assert all(info["episode"]["l"] == 1 for step in steps for info in step[3])


def test_evaluate_policy_scores_whole_games_even_if_lost_lives_end_episodes(raw_play):
    """stable-baselines3 uses the episode reports because env_is_wrapped(Monitor) is True."""
    actions = iter(np.random.default_rng(0).integers(6, size=(STEPS, 2)))

    class Player:
        def predict(self, observations, state=None, episode_start=None, deterministic=True):
            return next(actions), state

    returns, lengths = evaluate_policy(
        Player(), make(training=True, **EXACT_START), n_eval_episodes=2, return_episode_rewards=True
    )
    episodes = [info["episode"] for step in raw_play for info in step[3] if info]
    assert returns == [episode["r"] for episode in episodes]
    assert lengths == [episode["l"] for episode in episodes]


def test_games_that_cannot_be_loaded_are_rejected(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="'CartPole-v1' is no Atari game"):
        make("CartPole-v1")
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"'boxing': cannot read its ROM: .*unset ALE_ROMS_DIR"):
        make("boxing")
