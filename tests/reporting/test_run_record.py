"""Tests of the progress of a run."""

from __future__ import annotations

import pytest
from stable_baselines3 import PPO

from blip_rl.reporting.page import write_report
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.text import status
from blip_rl.sb3.import_run import import_agent
from tests.reporting.report_runs import GAMES, make_run


@pytest.fixture
def imported(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu")
    model.num_timesteps = 500
    model.save(tmp_path / "agent.zip")
    return import_agent(tmp_path / "agent.zip", "CartPole-v1", out=tmp_path / "run")


def test_imported_agent_is_a_complete_run(sketches, imported):
    record = load_run(imported)
    assert (record.complete, record.env_steps) == (True, 500)
    assert status(record).share == 1
    assert status(record).text == "complete: one game, 500 steps; not scored yet (blip-rl evaluate scores it)"
    assert "running or stopped" not in write_report([imported]).page.read_text(encoding="utf-8")


def test_run_with_a_snapshot_is_not_complete(imported):
    """A run writes the last stage's checkpoint, then removes the snapshot that it could resume from."""
    (imported / "checkpoints" / "step-000000000400").mkdir()
    assert not load_run(imported).complete


@pytest.mark.parametrize(
    ("titles", "short"),
    [
        (("MinAtar Breakout", "MinAtar Space Invaders", "MinAtar Asterix"), ["Breakout", "Space Invaders", "Asterix"]),
        (("CartPole, mix 1", "CartPole, mix 2", "CartPole, mix 3"), ["mix 1", "mix 2", "mix 3"]),
        (("Space Invaders", "Space", "Boxing"), ["Space Invaders", "Space", "Boxing"]),
        (("Space", "Space Invaders", "Space Race"), ["Space", "Space Invaders", "Space Race"]),
    ],
)
def test_short_titles_leave_out_a_first_word_that_all_have(titles, short, tmp_path):
    run = load_run(make_run(tmp_path / "run", titles=dict(zip(GAMES, titles, strict=True))))
    assert [run.short_title(stage) for stage in (1, 2, 3)] == short
