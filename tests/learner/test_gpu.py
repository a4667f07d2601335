"""The captured path equals the eager one on a GPU, and files of a CPU resume there. Run with ``pytest -m gpu``."""

import gc

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList

from blip_rl.agent_config import DistilConfig
from blip_rl.learner import state as snapshot
from blip_rl.learner.collector import StagingBuffer
from blip_rl.learner.cuda_graph import CapturedFunction
from blip_rl.learner.distil import distil
from blip_rl.learner.distributions import evaluate_actions
from blip_rl.learner.precision import matmul_precision
from blip_rl.learner.separate_trunk import LearnApart
from blip_rl.methods import method_names
from blip_rl.methods.base import MethodState
from blip_rl.methods.blip import Blip
from blip_rl.methods.ewc import Ewc
from blip_rl.methods.ewc_kronecker import EwcKronecker
from blip_rl.methods.finetune import Finetune
from blip_rl.tasks.groups import GroupedVecEnv
from tests.learner.separate_trunk_agents import inner_method
from tests.learner.small_agents import (
    ENVIRONMENTS,
    PAPER_IMAGE,
    ROLLOUT,
    Pixels,
    agent,
    cartpole,
    same,
    through_a_file,
    vectorised,
    weights,
)

pytestmark = pytest.mark.gpu

KINDS = ENVIRONMENTS | {"frames": lambda: vectorised(lambda: Pixels((4, 84, 84), actions=6))}
METHODS = {
    "finetune": Finetune,
    "blip": lambda: Blip(first_task_bits=4, fisher_samples=32),
    "ewc": lambda: Ewc(fisher_samples=32),
    "ewc_kronecker": lambda: EwcKronecker(fisher_samples=32),
}


def gpu_agent(kind, **compute):
    """An agent on the GPU; frames get the paper's trunk."""
    return agent(env=KINDS[kind](), compute=compute, modulation=True, image=PAPER_IMAGE, device="cuda")


def learned(model, method, rollouts=4):
    with model.protected_by(method):
        model.learn_task(rollouts * ROLLOUT, CallbackList([]))
        method.end_task(model.finished_task(method.samples_wanted, torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_captured_updates_equal_eager_ones(kind, method):
    """On the same rollout: random numbers of a replay need not equal those of an eager step."""
    rollout_from = gpu_agent(kind, capture="off")
    rollout_from.train = lambda: None
    rollout_from.learn_task(ROLLOUT, CallbackList([]))
    after = []
    for capture in ("off", "auto"):
        model, protection = gpu_agent(kind, capture=capture), METHODS[method]()
        model.policy.load_task_state(rollout_from.policy.task_state())
        model.rollout_buffer, model.num_timesteps = rollout_from.rollout_buffer, ROLLOUT
        model._setup_learn(8 * ROLLOUT, CallbackList([]), reset_num_timesteps=False)
        start = weights(model.policy)
        with model.protected_by(protection):
            for _ in range(3):
                np.random.seed(1)  # noqa: NPY002
                model.train()
            assert (model._captured is not None) == (capture == "auto")
            if capture == "auto":
                assert model._captured._function._graph is not None, "nothing was captured"
        after.append(weights(model.policy))
    for name, value in after[0].items():
        moved = (value - start[name]).abs().max()
        assert (after[1][name] - value).abs().max() <= 1e-4 * moved + 1e-7, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [1, 2])
def test_captured_actions_follow_the_current_policy(kind, groups):
    parts = [KINDS[kind]() for _ in range(groups)]
    env = GroupedVecEnv(parts)
    model = agent(env=env, environments=env.num_envs, image=PAPER_IMAGE, device="cuda")
    with model.protected_by(Finetune()):
        model.learn_task(3 * 16 * env.num_envs, CallbackList([]))
        model.train = lambda: None
        model.learn_task(16 * env.num_envs, CallbackList([]))
        assert all(actor._captured._graph is not None for actor in model._collector._actors)
    rollout = model.rollout_buffer
    with torch.no_grad(), model.policy.matmul_precision():
        values, log_probs, _ = evaluate_actions(model.policy, rollout.all_observations(), rollout.actions.flatten(0, 1))
    torch.testing.assert_close(rollout.values.flatten(), values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rollout.log_probs.flatten(), log_probs, rtol=1e-4, atol=1e-5)
    assert len(rollout.actions.flatten(0, 1).unique(dim=0)) > 1
    assert len({tuple(row.flatten().tolist()) for row in rollout.actions}) > 1, "each replay draws new random numbers"


def test_an_earlier_graph_that_becomes_garbage_does_not_disturb_a_capture():
    """CUDA does not permit destroying a graph during a capture."""

    def captured(work):
        function = CapturedFunction(work, torch.device("cuda"))
        for _ in range(3):
            function.run()
        return function

    def work():
        holder.clear()
        for _ in range(10_000):  # enough objects for automatic collections
            [].append([])
        return total.add_(torch.rand((), device="cuda"))

    total, holder = torch.zeros((), device="cuda"), []
    earlier = captured(lambda: total.mul_(1))
    earlier.run()
    earlier.itself = earlier
    function = captured(work)
    holder.append(earlier)
    del earlier
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        function.run()
    finally:
        gc.set_threshold(*thresholds)
    assert function._graph is not None
    assert torch.rand((), device="cuda") < 1, "the generator still works"


@pytest.mark.parametrize("method", METHODS)
def test_learning_two_tasks_is_deterministic(method):
    def run():
        model, protection = gpu_agent("frames"), METHODS[method]()
        learned(model, protection)
        model.switch_task("b", KINDS["frames"]())
        return weights(learned(model, protection).policy)

    assert same(run(), run())


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_features_in_lower_precision_are_close(precision):
    model = gpu_agent("frames", precision=precision)
    frames = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8, device="cuda")
    with torch.no_grad(), model.policy.matmul_precision():
        coarse = model.policy.extract_features(frames)
    with torch.no_grad(), matmul_precision("float32", model.device):
        exact = model.policy.trunk(model.policy.preprocess(frames))
    torch.testing.assert_close(coarse, exact, rtol=0.03, atol=0.03)
    learned(model, Finetune())


def test_staging_copies_every_frame():
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    staging = StagingBuffer(16, space, torch.device("cuda"))
    rng = np.random.default_rng(0)
    for _ in range(50):
        frames = rng.integers(0, 256, (16, *space.shape), dtype=np.uint8)
        np.testing.assert_array_equal(staging.put(frames).cpu().numpy(), frames)


def test_an_update_does_not_synchronise():
    model = gpu_agent("frames")
    learned(model, Finetune())
    with model.protected_by(Finetune()):
        model.learn_task(2 * ROLLOUT, CallbackList([]))
        batch = next(model.rollout_buffer.minibatches(model.batch_size, model._captured.batch))
        torch.cuda.set_sync_debug_mode("error")
        try:
            model._captured(batch)
            model._update(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_trunk_learns():
    learned(gpu_agent("frames", compile=True), Blip(first_task_bits=4, fisher_samples=32))


@pytest.mark.parametrize("name", [name for name in method_names() if name != "multitask"])
def test_a_task_resumed_from_files_is_learned_bit_identically(name):
    """Tensors of files are on the CPU; each method must move its own to the device."""
    model, method = gpu_agent("vectors", capture="off"), inner_method(name)
    learned(model, method)
    model.switch_task("b", cartpole())
    model.restart_games(5)
    with model.protected_by(method):
        model.learn_task(ROLLOUT, CallbackList([]))
        taken, state = snapshot.take(model), method.state()
        model.restart_games(6)
        model.learn(ROLLOUT, reset_num_timesteps=False)

    other, again = gpu_agent("vectors", capture="off"), inner_method(name)
    other.switch_task("b", cartpole())
    snapshot.restore(other, snapshot.Snapshot(through_a_file(taken.tensors), taken.values))
    again.load_state(MethodState(through_a_file(state.tensors), state.values))
    other.restart_games(6)
    snapshot.restore_random(other, taken)
    with other.protected_by(again, resume=True):
        other.learn(ROLLOUT, reset_num_timesteps=False)
        assert same(weights(other.policy), weights(model.policy))
        for number, task in enumerate(("a", "b"), start=1):
            with other.policy.using_task(task), again.playing(other.policy.trunk, number):
                other.policy.act(other._last_obs, greedy=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["blip", "clear", "freeze"])
def test_a_task_learned_apart_is_distilled(name, kind):
    """With updates and actions captured, and the shared trunk restored from a file in the middle."""
    model, method = gpu_agent(kind), LearnApart(inner_method(name), first_task=False)
    learned(model, method)
    shared = weights(model.policy.trunk)
    model.switch_task("b", KINDS[kind]())
    with model.protected_by(method):
        model.learn_task(4 * ROLLOUT, CallbackList([]))
        assert model._captured._function._graph is not None
        own = weights(model.policy.trunk)
        with method.playing(model.policy.trunk, 1):
            model.policy.act(model._last_obs, greedy=True)
        assert same(weights(model.policy.trunk), own)
    state, method = method.state(), LearnApart(inner_method(name), first_task=False)
    method.load_state(MethodState(through_a_file(state.tensors), state.values))
    with model.protected_by(method, resume=True):
        model.learn(ROLLOUT, reset_num_timesteps=False)
    found = distil(model, method, DistilConfig(teacher_states=64, student_states=64, updates=40, minibatch=32))
    method.end_task(model.finished_task(method.samples_wanted, torch.Generator().manual_seed(0)))
    assert np.isfinite([found.divergence, found.value_error]).all()
    assert same(weights(model.policy.trunk), shared) == (name == "freeze")


def test_distilling_repeats_bit_for_bit(monkeypatch):
    """Also where the states do not fit into the GPU's memory, with a minibatch as large as that of the recipes."""
    found = []
    for free in (None, None, 0):
        if free is not None:
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 0))
        model, method = gpu_agent("frames"), LearnApart(inner_method("finetune"))
        with model.protected_by(method):
            model.learn_task(2 * ROLLOUT, CallbackList([]))
            distil(model, method, DistilConfig(teacher_states=512, student_states=64, updates=20))
        found.append(weights(model.policy))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_random_numbers_of_the_first_replay_are_those_of_an_eager_run(monkeypatch):
    """Also if the GPU is busy: a capture resets the offset of torch's random generator, on a stream of its own."""
    out = torch.empty(4, device="cuda")
    torch.manual_seed(0)
    expected = [out.uniform_().clone() for _ in range(5)]
    kept = CapturedFunction(lambda: torch.rand(1, device="cuda"), out.device)
    for _ in range(5):
        kept.run()  # graphs share the offset's memory, which exists now
    begin = torch.cuda.CUDAGraph.capture_begin

    def late(self, *args, **kwargs):
        torch.cuda._sleep(500_000_000)
        begin(self, *args, **kwargs)

    def draw():
        torch.cuda._sleep(2_000_000_000)  # longer than the delay above: about a second
        return out.uniform_()

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", late)
    function = CapturedFunction(draw, out.device)
    torch.manual_seed(0)
    assert [function.run().tolist() for _ in range(5)] == [one.tolist() for one in expected]
