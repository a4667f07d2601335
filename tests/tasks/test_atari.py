"""What AtariVecEnv promises beyond the frames themselves (for those see test_atari_frames.py).

A random player of Space Invaders with seed 0 and no no-ops is the main instrument: it loses lives and games early.
"""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
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


def test_noops_vary_the_start_of_games():
    different = {}
    for noop_max in (0, 30):
        observations = make("boxing", num_envs=4, noop_max=noop_max).reset()
        different[noop_max] = len({observation.tobytes() for observation in observations})
    assert different[0] == 1
    assert different[30] > 1


def test_fire_begins_a_game_that_waits_for_it():
    lives = {}
    for fire in (False, True):
        env = make("breakout", num_envs=1, fire_on_reset=fire)
        env.reset()
        for _ in range(60):
            env.step(np.zeros(1, dtype=int))
        lives[fire] = env.lives.tolist()
    assert lives == {False: [5], True: [4]}, "the ball is only served, and lost, after FIRE"


def test_a_decision_lasts_frame_skip_frames():
    steps = play(make(frame_skip=2, max_episode_frames=12, **EXACT_START), 12)
    assert [step[2].all() for step in steps] == [False] * 5 + [True] + [False] * 5 + [True]


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
    assert lost == 8


def test_evaluation_and_the_switch_ignore_lost_lives(raw_play):
    kept = play(make(training=True, lost_life_ends_episode=False, **EXACT_START), STEPS)
    for raw, shown in zip(raw_play, kept, strict=True):
        np.testing.assert_array_equal(raw[2], shown[2])
    ends = np.stack([step[2] for step in raw_play])
    lives = np.stack([step[4] for step in raw_play])
    lost = np.diff(lives, axis=0) < 0
    assert lost.sum() == 8
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


def test_every_games_report_starts_from_nothing():
    reports, since = [], np.zeros(2)
    for _, rewards, dones, infos, _ in play(make(max_episode_frames=480, **EXACT_START), steps=360):
        since += rewards
        if dones.all():
            reports.append([(info["episode"]["r"], info["episode"]["l"]) for info in infos])
            assert reports[-1] == [(since[0], 120), (since[1], 120)]
            since[:] = 0
    assert len(reports) == 3
    assert sum(r for report in reports[:2] for r, _ in report) > 0, "the next report must not hold these"


def test_the_next_game_begins_within_the_step(raw_play):
    for observations, _, dones, infos, lives in raw_play:
        for i in np.flatnonzero(dones):
            assert not observations[i, :3].any(), "older frames of the stack belong to the game before"
            assert observations[i, 3].any()
            assert lives[i] == 3
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


def test_unknown_games_are_refused():
    with pytest.raises(UserError, match=r"'space_invader': did you mean space_invaders?"):
        make("space_invader")
    with pytest.raises(UserError, match="'CartPole-v1' is no Atari game"):
        make("CartPole-v1")


def test_a_rom_folder_without_the_rom_is_a_users_mistake(monkeypatch, tmp_path):
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"'boxing': cannot read its ROM: .*unset ALE_ROMS_DIR"):
        make("boxing")


@pytest.fixture
def one_torch_thread():
    """On a busy machine several threads wait for each other far longer than this little work takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_torch_thread")
def test_stable_baselines3_learns_and_evaluates_with_raw_returns_of_whole_games():
    config = {"max_episode_frames": 800, "frame_size": 36, **EXACT_START}
    env = make("space_invaders", 2, training=True, **config)
    model = PPO("CnnPolicy", env, n_steps=210, batch_size=70, n_epochs=1, seed=3, device="cpu")
    model.learn(420)
    returns = [episode["r"] for episode in model.ep_info_buffer]
    assert len(returns) == 2
    assert max(returns) > 20, "clipped returns would not reach this"
    assert all(episode["l"] == 200 for episode in model.ep_info_buffer)


def test_stable_baselines3_scores_whole_games_even_if_lost_lives_end_episodes(raw_play):
    """evaluate_policy trusts the reports of whole games because Monitor is said to be there."""
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
