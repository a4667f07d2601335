"""Plasticity metrics: values, rows at every evaluation, no influence on training."""

import csv

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from blip_rl.agent_config import ImageTrunkConfig, TrunkConfig, VectorTrunkConfig
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.base import FinishedTask, Method
from blip_rl.methods.packnet import Packnet
from blip_rl.run import plasticity
from blip_rl.run.plasticity import STATES, PlasticityRecorder, evenly_spaced_states, measure
from blip_rl.run.train import train
from tests.small_runs import small_config

COLUMNS = ["env_steps", "stage", "phase", "layer", "dormant_share", "effective_rank", "gradient_norm", "free_bits"]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def image_policy(modulation=False, activation="relu"):
    torch.manual_seed(0)
    trunk = TrunkConfig(
        image=ImageTrunkConfig(conv=((3, 4, 2), (5, 3, 1)), hidden=(7,), activation=activation),
        vector=VectorTrunkConfig(hidden=(4,), activation="tanh"),
        task_modulation=modulation,
    )
    policy = ContinualPolicy(spaces.Box(0, 255, (2, 16, 16), np.uint8), spaces.Discrete(4), lambda _: 1e-3, trunk=trunk)
    policy.add_task("one", spaces.Discrete(4))
    policy.add_task("two", spaces.Discrete(3))
    policy.use_task("one")
    if modulation:
        for parameter in policy.tasks[0].modulations.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return policy


def states(count=12):
    return torch.randint(0, 256, (count, 2, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def slow_activations(policy, observations):
    """Compute the activations layer by layer, without the trunk's forward."""
    x, found = observations.float() / 255, {}
    modulations = list(policy.current.modulations)
    for index, name in enumerate(policy.trunk.layer_names):
        layer = policy.trunk.get_submodule(name)
        x = (
            F.linear(x.flatten(1), layer.weight, layer.bias)
            if name == "fc1"
            else F.conv2d(x, layer.weight, layer.bias, layer.stride)
        )
        if modulations:
            shape = (1, -1) + (1,) * (x.dim() - 2)
            x = x * modulations[index].scale.view(shape) + modulations[index].shift.view(shape)
        x = x.relu()
        found[name] = x.detach().clone()
    return found


@pytest.mark.parametrize("modulation", [False, True])
def test_metrics_equal_those_computed_layer_by_layer(modulation):
    policy = image_policy(modulation)
    figures, expected = measure(policy, Method(), "one", states()), slow_activations(policy, states())
    assert list(figures) == ["conv1", "conv2", "fc1"]
    for name, activations in expected.items():
        sizes = activations.abs().movedim(1, -1).flatten(0, -2).mean(0)
        assert figures[name].dormant_share == pytest.approx((sizes <= 0.025 * sizes.mean()).float().mean().item())
        matrix = activations.movedim(1, -1).flatten(0, -2).double().numpy()
        singular = np.linalg.svd(matrix, compute_uv=False)
        shares = singular[singular > 0] / singular.sum()
        assert figures[name].effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
        assert figures[name].free_bits is None


def test_gradient_norm_is_the_root_mean_square_over_states():
    policy, observations = image_policy(), states(64)
    squares, used = dict.fromkeys(policy.trunk.layer_names, 0.0), observations[::4]
    log_probs = policy.head(policy.trunk(policy.preprocess(used))).logits
    taken = torch.multinomial(log_probs.detach().exp(), 1, generator=torch.Generator().manual_seed(0))
    for log_prob in log_probs.gather(1, taken):
        policy.zero_grad()
        log_prob.backward(retain_graph=True)
        for name in squares:
            squares[name] += sum(p.grad.square().sum().item() for p in policy.trunk.get_submodule(name).parameters())
    figures = measure(policy, Method(), "one", observations)
    for name, total in squares.items():
        assert figures[name].gradient_norm == pytest.approx((total / 16) ** 0.5, rel=1e-4)


def test_states_are_spread_evenly_and_copied():
    observations = torch.arange(2_000)
    chosen = evenly_spaced_states(observations)
    assert len(chosen) == STATES == len(set(chosen.tolist()))
    assert (chosen[0], chosen[-1]) == (0, 1_999)
    assert set(chosen.diff().tolist()) <= {7, 8}
    observations.fill_(0)
    assert chosen[-1] == 1_999
    assert evenly_spaced_states(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_metrics_are_those_of_the_weights_that_play_the_task():
    policy, method = image_policy(), Packnet(tasks=2)
    method.start_task(policy.trunk)
    method.end_task(FinishedTask(policy.trunk, policy.head, states(), policy.preprocess, torch.Generator()))
    with torch.no_grad():  # what later tasks write into the weights that the first does not own
        for name, parameter in policy.trunk.named_parameters():
            if parameter.dim() > 1:
                parameter.add_((method.state().tensors[f"{name}.owner"] == 0) * 3.0)
    weights = {name: p.detach().clone() for name, p in policy.trunk.named_parameters()}
    with method.playing(policy.trunk, 1):
        expected = measure(policy, Method(), "one", states())
    assert measure(policy, method, "one", states()) == expected
    assert measure(policy, Method(), "one", states()) != expected
    assert all(torch.equal(p, weights[name]) for name, p in policy.trunk.named_parameters())


def test_measuring_changes_no_state_of_training():
    policy = image_policy(modulation=True)
    policy.use_task("two")
    for parameter in policy.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    random, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    weights = {name: p.detach().clone() for name, p in policy.named_parameters()}
    first = measure(policy, Method(), "one", states())
    assert measure(policy, Method(), "one", states()) == first
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert policy.current is policy.tasks[1]
    assert not policy.trunk._activation._forward_hooks
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert torch.equal(parameter.grad, torch.full_like(parameter, 0.5))


def test_every_evaluation_has_a_row_for_each_layer(finished_run):
    found = rows(finished_run / "plasticity.csv")
    assert list(found[0]) == COLUMNS
    assert [(int(r["env_steps"]), int(r["stage"]), r["phase"], r["layer"]) for r in found] == [
        (steps, stage, phase, layer)
        for steps, stage, phase in (
            (512, 1, "periodic"),
            (1024, 1, "before"),
            (1024, 1, "after"),
            (1536, 2, "periodic"),
            (2048, 2, "before"),
            (2048, 2, "after"),
        )
        for layer in ("fc1", "fc2")
    ]
    for row in found:
        assert 0 <= float(row["dormant_share"]) <= 1
        assert 1 <= float(row["effective_rank"]) <= 16
        assert float(row["gradient_norm"]) > 0


def test_free_bits_are_those_of_the_current_stage(finished_run):
    bits = rows(finished_run / "bits.csv")
    for row in rows(finished_run / "plasticity.csv"):
        learned = int(row["stage"]) - (row["phase"] != "after")
        counted = [
            (int(b["frozen_bits"]), int(b["count"]))
            for b in bits
            if (int(b["stage"]), b["layer"], b["parameter"]) == (learned, row["layer"], "weight")
        ]
        mean = sum(b * c for b, c in counted) / max(1, sum(c for _, c in counted))
        assert float(row["free_bits"]) == pytest.approx(20 - mean)


def test_speed_is_written_at_every_evaluation_and_at_the_end_of_a_task(finished_run):
    found = rows(finished_run / "speed.csv")
    assert [(int(r["env_steps"]), int(r["stage"])) for r in found] == [(512, 1), (1024, 1), (1536, 2), (2048, 2)]
    assert all(0 < float(r["steps_per_second"]) < 1e6 for r in found)
    assert all(50 < float(r["peak_memory_mb"]) < 1e5 for r in found)


def test_tensorboard_has_the_metrics_of_each_layer(finished_run):
    events = EventAccumulator(str(finished_run), size_guidance={"scalars": 0})
    events.Reload()
    last = rows(finished_run / "plasticity.csv")[-1]
    for name in COLUMNS[4:]:
        shown = events.Scalars(f"plasticity/fc2/{name}")
        assert [point.step for point in shown] == [512, 1024, 1536, 2048]
        assert shown[-1].value == pytest.approx(float(last[name]), rel=1e-5)


@pytest.mark.parametrize("agent", ["blip", "finetune"])
def test_measuring_does_not_change_training(tmp_path, monkeypatch, agent):
    config = small_config(agent)
    train(config, out=tmp_path / "with", threads=1, quiet=True)
    monkeypatch.setattr(PlasticityRecorder, "measure_on", lambda *_: None)
    monkeypatch.setattr(plasticity, "measure", lambda *_: pytest.fail("measured"))
    train(config, out=tmp_path / "without", threads=1, quiet=True)
    found = rows(tmp_path / "with" / "plasticity.csv")
    assert len(found) == 12
    assert ("" in {row["free_bits"] for row in found}) == (agent == "finetune")  # a method without bits
    assert rows(tmp_path / "without" / "plasticity.csv") == []
    assert (tmp_path / "with" / "scores.csv").read_bytes() == (tmp_path / "without" / "scores.csv").read_bytes()
    for name in ("policy.safetensors", "method.safetensors"):
        one, other = (tmp_path / run / "checkpoints" / "stage-02" / name for run in ("with", "without"))
        assert one.read_bytes() == other.read_bytes()


def test_states_are_moved_to_the_device_of_the_policy(tmp_path):
    """Observations restored from a snapshot are on the CPU."""
    policy = image_policy().to("meta")
    recorder = PlasticityRecorder(None, None, Method())
    recorder.measure_on(policy, states())
    assert recorder.states_of("one").device.type == "meta"
