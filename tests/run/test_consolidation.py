"""The end of a task that was learned apart: scores before and after, steps, files."""

import contextlib
import io
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3.common.callbacks import BaseCallback

from blip_rl.errors import UserError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.recipes import load_run_config
from blip_rl.run import consolidation
from blip_rl.run import train as train_module
from blip_rl.run.train import train
from blip_rl.storage import atomic, snapshot
from blip_rl.storage.checkpoint import load_stage
from blip_rl.storage.run_folder import RunFolder
from tests.run.broken_off import curves, killed_at, settings, small_run

AGENT = "blip-distil"

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


@pytest.fixture(scope="module")
def printed():
    return io.StringIO()


@pytest.fixture(scope="module")
def run(printed, tmp_path_factory):
    with contextlib.redirect_stdout(printed):
        return train(small_run(AGENT), out=tmp_path_factory.mktemp("apart") / "run", threads=1)


@pytest.fixture(scope="module")
def _killed(tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "run"
    with killed_at(train_module, "consolidate", call=2):
        train(small_run(AGENT), out=path, threads=1, quiet=True)
    return path


@pytest.fixture
def learned(_killed, tmp_path):
    """A run that was killed after its second task was learned, before it was distilled."""
    return shutil.copytree(_killed, tmp_path / "run")


def test_the_states_of_the_last_rollouts_are_distilled_on(tmp_path, monkeypatch):
    played, kept, distil = [], [], consolidation.distil

    class Look(BaseCallback):
        def _on_rollout_end(self):
            played.append(self.model.rollout_buffer.all_observations().clone())

        def _on_step(self):
            return True

    def look(*arguments, rollouts, **options):
        kept.append((rollouts.all().clone(), len(played)))
        return distil(*arguments, rollouts=rollouts, **options)

    monkeypatch.setattr(consolidation, "distil", look)
    config = small_run(AGENT, overrides=(*settings(AGENT), "distil.rollout_states=200"))
    train(config, out=tmp_path / "run", threads=1, quiet=True, callback=Look())
    assert len(kept) == 2
    for observations, rollouts in kept:
        assert torch.equal(observations, torch.cat(played[rollouts - 2 : rollouts]))  # 2 rollouts of 128 states


def scores(run):
    """(stage, phase, task) → (env_steps, scores by seed)."""
    found = {}
    for row in RunFolder(run).read_scores():
        steps, games = found.setdefault((row.stage, row.phase, row.task), (row.env_steps, {}))
        assert steps == row.env_steps
        games[row.seed] = row.score
    return found


def test_earlier_tasks_are_scored_with_the_shared_trunk_while_another_is_learned_apart(run):
    """Greedy actions and equal seeds give identical episodes."""
    found = scores(run)
    learned = found[1, "after", "cartpole-a"][1]
    steps, periodic = found[2, "periodic", "cartpole-a"]
    assert steps == 576 + 384
    assert periodic.items() <= learned.items()
    assert found[2, "before", "cartpole-a"][1] == learned


def test_steps_played_to_distil_are_steps_of_the_task(run):
    """512 steps: 448 for learning, in 4 rollouts of 128, and 64 for distilling."""
    found = scores(run)
    assert {key[:2]: steps for key, (steps, _) in found.items() if key[2] == f"cartpole-{'ab'[key[0] - 1]}"} == {
        (1, "start"): 0,
        (1, "periodic"): 384,
        (1, "before"): 512,
        (1, "after"): 576,
        (2, "start"): 576,
        (2, "periodic"): 960,
        (2, "before"): 1088,
        (2, "after"): 1152,
    }
    assert load_stage(RunFolder(run).stage_path(2), load_run_config(run)).env_steps == 1152


def test_how_well_it_was_distilled_is_logged(run):
    logged = {name: values for name, values in curves(run).items() if name.startswith("distil/")}
    assert logged.keys() == {"distil/divergence", "distil/value_error", "distil/agreement"}
    assert all([step for step, _ in values] == [576, 1152] for values in logged.values())
    assert 0 <= logged["distil/agreement"][0][1] <= 1


def test_a_line_says_how_well_it_was_distilled(run, printed):
    out = printed.getvalue()
    _, line = [line for line in out.splitlines() if line.startswith("distilled")]
    assert line.startswith("distilled cartpole-b: ")
    assert ": KL to the teacher " in line
    assert " nats, same greedy action in " in line
    assert "each rounded up to whole rollouts of 128" in out, "448 learning steps are not"


def test_a_stage_keeps_no_trunk_of_a_task(run):
    for stage in (1, 2):
        folder = RunFolder(run).stage_path(stage)
        assert not any(name.startswith("shared.") for name in load_file(folder / "method.safetensors"))
        values = json.loads((folder / "stage.json").read_text())["method"]
        assert values["learned_apart"] == {"tasks_seen": stage, "apart": False}
        assert values["tasks_seen"] == stage, "the method's own, where readers of a run look for it"


def test_evaluating_a_finished_run_reproduces_its_scores(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    before = scores(copy)
    evaluate_run(copy, workers=1)
    assert scores(copy) == before


def test_a_task_of_one_rollout_and_the_steps_for_distilling_is_learned(tmp_path):
    options = (*settings(AGENT), "evaluation.episodes=1")
    path = train(small_run(AGENT, steps="192", overrides=options), out=tmp_path / "run", threads=1, quiet=True)
    assert scores(path)[2, "after", "cartpole-b"][0] == 2 * (128 + 64)


# --- snapshots


def newest(run):
    return RunFolder(run).snapshots()[-1]


def test_a_snapshot_of_a_task_learned_apart_has_the_shared_trunk(learned):
    saved = snapshot.load(newest(learned))
    stage = load_stage(RunFolder(learned).stage_path(1), load_run_config(learned))
    trunk = dict(stage.policy.trunk.named_parameters())
    found = {name[7:]: t for name, t in saved.method.tensors.items() if name.startswith("shared.")}
    assert found.keys() == trunk.keys()
    # Not equal: BLIP puts the weights into the intervals of the first task when the second begins.
    assert all(torch.allclose(found[name], parameter, atol=1e-5) for name, parameter in trunk.items())


@pytest.mark.parametrize("tensor", [torch.zeros(3, 3), torch.full((16,), torch.nan)], ids=["shape", "numbers"])
def test_a_shared_trunk_that_does_not_fit_is_refused(tensor, learned):
    folder = newest(learned)
    tensors = load_file(folder / "method.safetensors") | {"shared.fc1.bias": tensor}
    save_file(tensors, folder / "method.safetensors")
    digests = json.loads((folder / "digests.json").read_text())
    digests["method.safetensors"] = atomic.file_digest(folder / "method.safetensors")
    (folder / "digests.json").write_text(json.dumps(digests))
    with pytest.raises((atomic.DamagedError, UserError), match=r"shared\.fc1\.bias"):
        snapshot.load(folder)
