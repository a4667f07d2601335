"""Real games one after another through the whole run: other action counts, every file, memory within bounds."""

import resource
from itertools import pairwise

from safetensors.numpy import load_file

from blip_rl.recipes import load_run_config, resolve
from blip_rl.reporting.scores import load_scores
from blip_rl.run.train import train
from blip_rl.storage.checkpoint import load_stage

SMALL = (
    "trunk.image.conv=[[8, 8, 4], [8, 4, 2]]",
    "trunk.image.hidden=[32]",
    "ppo.environments=4",
    "ppo.rollout_steps=32",
    "method.fisher_samples=100",
    "evaluation.episodes=2",
    "evaluation.max_episode_steps=30",
)


def test_three_games_with_14_18_and_6_actions_in_sequence(tmp_path):
    config = resolve("kungfu,boxing,spaceinvaders", "blip", steps="256", device="cpu", overrides=SMALL)
    path = train(config, out=tmp_path / "run", threads=1, quiet=True)
    scores = load_scores(path)
    assert [int((row == row).sum()) for row in scores.after] == [1, 2, 3]
    stage = load_stage(path / "checkpoints" / "stage-03", load_run_config(path))
    assert [task.actor.out_features for task in stage.policy.tasks] == [14, 18, 6]
    bits = [load_file(path / "checkpoints" / f"stage-{n:02d}" / "method.safetensors") for n in (1, 2, 3)]
    for earlier, later in pairwise(bits):
        assert all((later[k] >= earlier[k]).all() for k in later if k.endswith("frozen_bits"))


def test_the_papers_network_learns_within_memory(tmp_path):
    """One update of the real thing; the whole process, all earlier tests in it included, stays under 2.5 GB."""
    overrides = (
        "evaluation.episodes=1",
        "evaluation.max_episode_steps=20",
        "ppo.epochs=1",
        "method.fisher_samples=200",
    )
    config = resolve("boxing", "blip", steps="2000", device="cpu", overrides=overrides)
    path = train(config, out=tmp_path / "run", threads=1, quiet=True)
    saved = load_file(path / "checkpoints" / "stage-01" / "method.safetensors")
    parameters = sum(v.size for k, v in saved.items() if k.endswith("frozen_bits"))
    assert parameters == 32 * 256 + 32 + 64 * 512 + 64 + 128 * 576 + 128 + 1024 * 6272 + 1024
    assert sum(v.nbytes for v in saved.values()) == 13 * parameters
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 2.5e9
