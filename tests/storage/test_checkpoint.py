"""Stage checkpoints are restored bit for bit; damaged ones are refused with the reason."""

import json
import shutil

import numpy as np
import pytest
import torch
from gymnasium import spaces

from blip_rl.errors import UserError
from blip_rl.evaluation.episodes import evaluate_task
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods import make_method
from blip_rl.methods.base import Method
from blip_rl.methods.blip import Blip
from blip_rl.recipes import load_run_config
from blip_rl.storage.checkpoint import load_stage, read_tensors, save_stage, save_tensors
from tests.small_runs import small_config

IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
VECTORS = spaces.Box(np.array([-1.0, -2.0], np.float32), np.array([np.inf, 2.0], np.float32))


def make_policy(config, observations, actions):
    policy = ContinualPolicy(observations, actions[0], lambda _: 0.0, trunk=config.agent.trunk, normalization=config)
    for index, space in enumerate(actions):
        policy.add_task(f"task.{index}", space)
    policy.use_task("task.0")
    return policy


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (IMAGES, [spaces.Discrete(14), spaces.Discrete(6)]),
        (VECTORS, [spaces.Discrete(3), spaces.Box(-2.0, 2.0, (2,), np.float32)]),
    ],
)
@pytest.mark.parametrize("modulation", ["true", "false"])
def test_a_stage_round_trips_bit_for_bit(tmp_path, observations, actions, modulation):
    config = small_config(overrides=(f"trunk.task_modulation={modulation}", "trunk.image.hidden=[32]"))
    policy = make_policy(config, observations, actions)
    blip = Blip(first_task_bits=4)
    blip.start_task(policy.trunk)
    save_stage(tmp_path / "stage-02", 2, 1234, policy, blip)
    loaded = load_stage(tmp_path / "stage-02", config)
    assert (loaded.number, loaded.env_steps) == (2, 1234)
    assert loaded.policy.task_names == policy.task_names
    assert loaded.policy.observation_space == observations
    assert [task.action_space for task in loaded.policy.tasks] == actions
    want, got = policy.state_dict(), loaded.policy.state_dict()
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)
    state = blip.state()
    assert loaded.method_state.values == state.values
    assert all(torch.equal(loaded.method_state.tensors[name], state.tensors[name]) for name in state.tensors)


def test_a_saved_stage_plays_every_task_learned_so_far(finished_run):
    config = load_run_config(finished_run)
    for number in (1, 2):
        stage = load_stage(finished_run / "checkpoints" / f"stage-{number:02d}", config)
        assert stage.policy.task_names == [task.name for task in config.tasks[:number]]
        for task in config.tasks[:number]:
            assert len(evaluate_task(stage.policy, Method(), task, config, config.evaluation, None)) == 3


def test_nothing_in_a_checkpoint_is_pickled(finished_run):
    for path in (finished_run / "checkpoints").rglob("*"):
        assert path.is_dir() or path.suffix in {".safetensors", ".json"}
        if path.suffix == ".json":
            json.loads(path.read_text())


def test_a_stage_has_the_methods_description_of_its_state(tmp_path, finished_run):
    config, packnet = load_run_config(finished_run), make_method({"name": "packnet", "tasks": 4})
    policy = load_stage(finished_run / "checkpoints" / "stage-01", config).policy
    packnet.start_task(policy.trunk)
    save_stage(tmp_path / "stage-01", 1, 0, policy, packnet)
    facts = json.loads((tmp_path / "stage-01" / "stage.json").read_text())
    assert facts["description"] == ["weights owned: free 100.0%"]


def test_a_finished_run_has_only_stage_checkpoints(finished_run):
    assert sorted(p.name for p in (finished_run / "checkpoints").iterdir()) == ["stage-01", "stage-02"]


@pytest.mark.parametrize("name", ["stage.json", "policy.safetensors", "method.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_stage_is_refused_with_its_name(finished_run, tmp_path, name, damage):
    stage = tmp_path / "stage-01"
    shutil.copytree(finished_run / "checkpoints" / "stage-01", stage)
    if damage == "missing":
        (stage / name).unlink()
    else:
        whole = (stage / name).read_bytes()
        (stage / name).write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"\x80\x04garbage" * 9)
    with pytest.raises(UserError, match="stage-01"):
        load_stage(stage, load_run_config(finished_run))


def test_a_stage_of_another_network_is_refused(finished_run):
    other = small_config(overrides=("trunk.vector.hidden=[16, 32]",))
    with pytest.raises(UserError, match="size mismatch"):
        load_stage(finished_run / "checkpoints" / "stage-01", other)


def test_tensors_that_cannot_be_written_raise_oserror(tmp_path):
    """safetensors raises an error of its own, which does not name the file."""
    with pytest.raises(OSError, match="nowhere"):
        save_tensors({"a": torch.arange(3)}, tmp_path / "nowhere" / "t")


def test_tensors_are_read_into_aligned_memory(tmp_path):
    """As where they are in a run: the rounding of a matrix product depends on where its operands begin."""
    saved = {"a": torch.arange(3.0), "b": torch.ones(5, 7), "c": torch.arange(9, dtype=torch.uint8), "d": torch.eye(3)}
    save_tensors(saved, tmp_path / "x.safetensors")
    read = read_tensors(tmp_path / "x.safetensors")
    assert read.keys() == saved.keys()
    for name, tensor in read.items():
        torch.testing.assert_close(tensor, saved[name], rtol=0, atol=0)
        assert tensor.data_ptr() % 64 == 0, name
