"""``protect`` used in the wrong way: one message each, and nothing learned without protection."""

import copy

import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO

from blip_rl.errors import UserError
from blip_rl.methods import load_method
from blip_rl.methods.blip import Blip
from blip_rl.sb3.protect import protect
from tests.learner.small_agents import NUMBERS, Lines, vectorised
from tests.sb3.test_protect import nothing_attached, vector_model


def blip():
    return Blip(first_task_bits=4, fisher_samples=20)


@pytest.fixture(scope="module")
def shared_model():
    """A model that no test changes."""
    return vector_model()


def weights(model):
    return copy.deepcopy(model.policy.state_dict())


def test_without_with_the_model_refuses_to_learn_until_a_block_is_entered(tmp_path):
    model, method = vector_model(), blip()
    before = weights(model)
    unused = protect(model, method)
    with pytest.raises(UserError, match=r"called without 'with', so nothing is protected: expected with protect\("):
        model.learn(32)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert model.predict(model.observation_space.sample())[0].shape == ()
    model.save(tmp_path / "model")  # what refuses is not saved
    PPO.load(tmp_path / "model", env=model.env).learn(32)
    with protect(model, method):
        model.learn(32)
    model.learn(32)  # after a block, learning without protection is a decision
    with unused:
        model.learn(32)
    assert method.tasks_seen == 2
    assert nothing_attached(model)


def test_one_object_protects_task_after_task():
    model, method = vector_model(), blip()
    protection = protect(model, method)
    for _ in range(2):
        with protection as given:
            model.learn(32)
        assert given is method
    assert method.tasks_seen == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda model: (blip(), model), r"protect\(Blip, …\): the arguments are swapped"),
        (
            lambda model: (DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu"), blip()),
            r"DQN, …\): expected a PPO",
        ),
        (
            lambda model: (PPO, blip()),
            r"protect\(PPO, …\): expected a PPO or A2C model of stable-baselines3, not a class",
        ),
        (lambda model: (model.policy, blip()), "for any other PyTorch module use protect_module"),
        (lambda model: (model, Blip), "Blip is a class: expected a method object"),
        (lambda model: (model, "blip"), "'blip' is not a method: expected a method object"),
        (lambda model: (model, load_method("clear")()), "Clear needs 'loss', which only blip-rl calls"),
        (lambda model: (model, load_method("multitask")()), "Multitask needs 'all tasks at once'"),
        (lambda model: (model, blip(), "0"), "seed='0'.*expected a whole number of at least 0"),
        (lambda model: (model, blip(), -1), "seed=-1.*expected a whole number of at least 0"),
    ],
)
def test_wrong_arguments_are_one_message(shared_model, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        protect(*arguments(shared_model))
    assert "\n" not in str(caught.value)
    shared_model.learn(32)  # a refused call leaves the model as it was


def test_a_misspelt_keyword_is_refused(shared_model):
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        protect(shared_model, blip(), sed=1)


def test_nested_blocks_are_refused():
    model, other, method = vector_model(), vector_model(), blip()
    earlier = protect(model, blip())
    with protect(model, method):
        for arguments, kind in (((model, blip()), "model"), ((other, method), "method")):
            with pytest.raises(UserError, match=f"within another block that uses this {kind}"):
                protect(*arguments)
        with pytest.raises(UserError, match="within another block that uses this model"), earlier:
            pass
        model.learn(32)
    assert method.tasks_seen == 1
    assert nothing_attached(model)


def test_a_method_is_refused_for_another_model_but_not_for_the_same_one_loaded(tmp_path):
    model, method = vector_model(), blip()
    with protect(model, method):
        model.learn(32)
    wider = vector_model(policy_kwargs={"net_arch": [8]})
    for other in (vector_model(seed=1), wider):
        with pytest.raises(UserError, match="protects the weights of another model"), protect(other, method):
            other.learn(32)
        assert nothing_attached(other)
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", env=model.env)
    with protect(loaded, method):
        loaded.learn(32)
    assert method.tasks_seen == 2


def test_policies_whose_layers_are_not_known_are_refused():
    class Own(PPO.policy_aliases["MlpPolicy"]):
        def forward(self, obs, deterministic=False):
            return super().forward(obs, deterministic)

    with pytest.raises(UserError, match="Own computes forward in its own way"):
        protect(PPO(Own, "CartPole-v1", device="cpu"), blip())
    many = vectorised(lambda: Lines(spaces.MultiDiscrete([2, 2]), NUMBERS))
    with pytest.raises(UserError, match="MultiCategoricalDistribution"):
        protect(PPO("MlpPolicy", many, device="cpu"), blip())
    both = vectorised(lambda: Lines(spaces.Discrete(2), spaces.Dict({"a": NUMBERS})))
    with pytest.raises(UserError, match="not a Dict"):
        protect(PPO("MultiInputPolicy", both, device="cpu"), blip())
