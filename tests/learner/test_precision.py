"""Compute settings: GAE by parallel scan, compiled trunks, reduced precision."""

import copy

import numpy as np
import pytest
import torch

from blip_rl.learner.advantages import gae_loop, gae_scan
from blip_rl.learner.diagnostics import _explained_variance
from blip_rl.learner.precision import Compiled, _switches
from blip_rl.methods.blip import Blip
from blip_rl.recipes import dump_run_config, load_run_config, resolve
from tests.learner.small_agents import Pixels, agent, learn, same, vectorised, weights


@pytest.mark.parametrize("steps", [1, 2, 3, 16, 125, 128])
@pytest.mark.parametrize("ends", [0.0, 0.1, 1.0])
def test_gae_by_scan_equals_gae_by_loop(steps, ends):
    rng = np.random.default_rng(steps)
    rewards, values = rng.standard_normal((2, steps, 5)).astype(np.float32)
    last = rng.standard_normal(5).astype(np.float32)
    continues = (rng.random((steps, 5)) >= ends).astype(np.float32)
    expected = gae_loop(rewards, values, last, continues, 0.99, 0.95)
    found = gae_scan(*map(torch.from_numpy, (rewards, values, last, continues)), 0.99, 0.95)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_explained_variance_on_the_device_equals_stable_baselines3s():
    from stable_baselines3.common.utils import explained_variance

    values, returns = torch.randn(2, 16, 4)
    expected = explained_variance(values.flatten().numpy(), returns.flatten().numpy())
    assert _explained_variance(values, returns).item() == pytest.approx(expected, rel=1e-5)
    assert _explained_variance(values, torch.ones_like(values)).isnan().all()


# --- precision


def update_and_fisher(precision, **settings):
    """An agent after one update, dtypes of the trunk's output in update and Fisher, and the Fisher."""
    model = agent(env=vectorised(lambda: Pixels((2, 36, 36))), compute={"precision": precision}, **settings)
    start = weights(model.policy)
    seen = []
    model.policy.trunk.fc1.register_forward_hook(lambda layer, given, output: seen.append(output.dtype))
    blip = Blip(first_task_bits=4, fisher_samples=16)
    with model.protected_by(blip):
        learn(model, 1)
        fisher_from = len(seen)
        fisher = model.finished_task(16, torch.Generator().manual_seed(0)).fisher("sampled")
    return model, start, seen[:fisher_from], seen[fisher_from:], fisher


def test_bfloat16_is_used_for_the_trunks_products_alone():
    model, start, seen, at_fisher, fisher = update_and_fisher("bfloat16")
    assert set(seen) == {torch.bfloat16}
    assert at_fisher[-1] == torch.float32
    assert {parameter.dtype for parameter in model.policy.parameters()} == {torch.float32}
    assert {t.dtype for s in model.policy.optimizer.state.values() for t in s.values()} == {torch.float32}
    assert {tensor.dtype for tensor in fisher.values()} == {torch.float32}
    assert not same(start, weights(model.policy))
    frames = torch.randint(0, 256, (8, 2, 36, 36), dtype=torch.uint8)
    assert model.policy.extract_features(frames).dtype == torch.float32
    exact = model.policy.trunk(model.policy.preprocess(frames))
    torch.testing.assert_close(model.policy.extract_features(frames), exact, rtol=0.03, atol=0.03)
    assert not torch.equal(model.policy.extract_features(frames), exact)


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_other_precisions_are_float32_on_a_cpu(precision):
    _, _, seen, _, _ = update_and_fisher(precision)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(("precision", "value"), [("float32", "ieee"), ("bfloat16", "ieee"), ("tf32", "tf32")])
def test_torch_accepts_the_precision_settings_for_cuda(precision, value):
    switches = _switches(precision)
    assert [(name, told) for _, name, told in switches] == [("fp32_precision", value)] * 2
    before = [getattr(module, name) for module, name, _ in switches]
    try:
        for module, name, told in switches:
            setattr(module, name, told)
            assert getattr(module, name) == told
    finally:
        for (module, name, _), old in zip(switches, before, strict=True):
            setattr(module, name, old)


# --- compiled


def traced_only(function):
    """torch.compile without code generation: the tracing, which could fail, is the same."""
    return torch._dynamo.optimize("aot_eager", nopython=True)(function)


def test_a_compiled_trunk_learns_the_same_and_is_compiled_once_for_all_tasks(monkeypatch):
    monkeypatch.setattr(torch, "compile", traced_only)
    graphs = torch._dynamo.utils.counters["stats"]

    def learned(compile_):
        model = agent(env=vectorised(Pixels), compute={"compile": compile_}, modulation=True)
        learn(model, 1)
        for task in "bcdefghijk":
            before = graphs["unique_graphs"]
            model.switch_task(task, vectorised(Pixels))
        learn(model, 1)
        return weights(model.policy), graphs["unique_graphs"] - before

    plain, _ = learned(False)
    found, more = learned(True)
    assert graphs["unique_graphs"] > 0
    assert more == 0
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_copy_of_a_compiled_trunk_uses_its_own_weights(monkeypatch):
    monkeypatch.setattr(torch, "compile", traced_only)
    policy = agent(env=vectorised(Pixels), compute={"compile": True}, modulation=True).policy
    frames = torch.randint(0, 255, (2, *policy.observation_space.shape), dtype=torch.uint8)
    before = policy.extract_features(frames)
    other = copy.deepcopy(policy)
    assert torch.equal(other.extract_features(frames), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    assert not torch.equal(other.extract_features(frames), before)
    assert torch.equal(policy.extract_features(frames), before)


def test_a_failed_compilation_warns_once_and_training_continues(monkeypatch):
    def broken(function):
        def compiled(inputs):
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nmore of it")

        return compiled

    monkeypatch.setattr(torch, "compile", broken)
    plain = weights(learn(agent(), 2).policy)
    model = agent(compute={"compile": True})
    with pytest.warns(UserWarning, match=r"torch.compile failed \(RuntimeError: InvalidCxx[^\n]*found\)") as w:
        learn(model, 2)
    assert len(w) == 1
    assert same(plain, weights(model.policy))


def test_trying_a_compiled_function_leaves_no_gradients():
    weight = torch.ones(3, requires_grad=True)
    function = Compiled(lambda x: x * weight, [weight])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda f: f)
        assert function(torch.ones(2, 3)).shape == (2, 3)
    assert weight.grad is None


# --- settings


def test_compute_settings_are_saved_with_a_run_and_have_defaults(tmp_path):
    config = resolve("pong", "blip", overrides=["compute.precision=tf32", "compute.environment_groups=2"])
    assert (config.compute.precision, config.compute.environment_groups) == ("tf32", 2)
    (tmp_path / "config.toml").write_text(dump_run_config(config))
    assert load_run_config(tmp_path) == config
    old = dump_run_config(config).split("[compute]")[0]
    (tmp_path / "config.toml").write_text(old)
    assert load_run_config(tmp_path).compute == resolve("pong", "blip").compute
