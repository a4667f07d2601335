"""``protect`` applied to plain stable-baselines3 models."""

import pytest
import torch
from stable_baselines3 import A2C, PPO

import blip_rl
from blip_rl.errors import UserError
from blip_rl.methods.base import Method
from blip_rl.methods.blip import Blip
from blip_rl.sb3.protect import ActorPath, protect
from tests.learner.small_agents import Pixels, vectorised


def vector_model(**changes):
    settings = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "seed": 0, "device": "cpu"}
    return PPO("MlpPolicy", "CartPole-v1", **(settings | changes))


def image_model():
    return PPO("CnnPolicy", vectorised(Pixels), n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")


def pendulum_model():
    return PPO("MlpPolicy", "Pendulum-v1", n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")


def a2c_model():
    return A2C("MlpPolicy", "CartPole-v1", n_steps=32, seed=0, device="cpu")


MODELS = {"vector": vector_model, "image": image_model, "pendulum": pendulum_model, "a2c": a2c_model}


class Recording(Method):
    """A method that stores the arguments of ``end_task``."""

    def __init__(self, samples=10):
        super().__init__()
        self.samples, self.finished = samples, []

    @property
    def samples_wanted(self):
        return self.samples

    def end_task(self, finished):
        self.finished.append(finished)
        return {}


def inside(path, blip):
    return all(
        ((low <= parameter) & (parameter <= high)).all()
        for parameter, (low, high) in zip(path.parameters(), blip.intervals().values(), strict=True)
    )


def nothing_attached(model):
    return not model.policy.optimizer._optimizer_step_post_hooks and not any(
        parameter._post_accumulate_grad_hooks for parameter in model.policy.parameters()
    )


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_two_tasks_under_protection(make):
    model, blip = make(), Blip(first_task_bits=5, fisher_samples=60)
    with protect(model, blip) as given:
        assert given is blip
        model.learn(64)
    assert blip.first_task["informed_bits"] == pytest.approx(5, abs=0.05)
    assert 0 < blip.mean_frozen_bits() < 5.05
    assert nothing_attached(model)

    path, looks = ActorPath(model.policy), []
    before = [parameter.detach().clone() for parameter in path.parameters()]
    first = [(low.clone(), high.clone()) for low, high in blip.intervals().values()]
    with protect(model, blip):
        # Runs after the method's own hook, so after every step.
        watch = model.policy.optimizer.register_step_post_hook(lambda *_: looks.append(inside(path, blip)))
        model.learn(64)
        watch.remove()
    assert len(looks) >= 2
    assert all(looks)
    assert blip.tasks_seen == 2
    for parameter, (low, high) in zip(path.parameters(), first, strict=True):
        assert ((low <= parameter) & (parameter <= high)).all()
    assert any((old != new).any() for old, new in zip(before, path.parameters(), strict=True))
    assert nothing_attached(model)


def test_the_critic_is_free():
    model, blip = vector_model(), Blip(fisher_prior=1e-30)
    with protect(model, blip):
        model.learn(64)
    path = [parameter.detach().clone() for parameter in ActorPath(model.policy).parameters()]
    critic = model.policy.value_net.weight.detach().clone()
    assert blip.mean_frozen_bits() == 20
    with protect(model, blip):
        model.learn(64)
    assert all(torch.equal(a, b) for a, b in zip(path, ActorPath(model.policy).parameters(), strict=True))
    assert not torch.equal(critic, model.policy.value_net.weight)


def test_an_error_inside_detaches_and_does_not_consolidate():
    model, blip = vector_model(), Blip(first_task_bits=4)
    error = KeyError("inside")
    with pytest.raises(KeyError), protect(model, blip):  # noqa: PT012
        model.learn(32)
        raise error
    assert nothing_attached(model)
    assert blip.tasks_seen == 0
    assert not any(bits.any() for bits in blip.frozen_bits().values())


def test_nothing_learned_inside_is_refused():
    model, method = vector_model(), Recording()
    with pytest.raises(UserError, match=r"call model.learn\(...\) inside"), protect(model, method):
        pass
    assert nothing_attached(model)
    with protect(model, method):
        model.learn(32)
    with pytest.raises(UserError, match=r"call model.learn\(...\) inside"), protect(model, method):
        pass  # the rollout in the buffer is the last task's
    assert len(method.finished) == 1


def test_layers_that_cannot_be_protected_are_refused():
    class Normalised(torch.nn.Tanh):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

    model = vector_model(policy_kwargs={"activation_fn": Normalised})
    with (
        pytest.raises(UserError, match=r"protects nn.Linear and nn.Conv2d"),
        protect(model, Blip(first_task_bits=4)),
    ):
        model.learn(32)
    assert nothing_attached(model)


# --- what the method is given


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_the_path_and_head_are_the_models_own_policy(make):
    model, method = make(), Recording(samples=20)
    with protect(model, method):
        model.learn(64)
    (finished,) = method.finished
    assert finished.observations.shape == (20, *model.observation_space.shape)
    policy = finished.head(finished.trunk(finished.preprocess(finished.observations)))
    own = model.policy.get_distribution(finished.observations).distribution
    for name in ("logits",) if hasattr(own, "logits") else ("mean", "stddev"):
        torch.testing.assert_close(getattr(policy, name), getattr(own, name))


def test_observations_are_drawn_from_the_last_rollout():
    def given(samples, seed):
        """Return the observations that the method gets; equal seeds give equal rollouts."""
        model, method = vector_model(), Recording(samples)
        with protect(model, method, seed=seed):
            model.learn(64)
        return method.finished[0].observations

    rollout = given(10_000, seed=0)
    assert rollout.shape == (32, 4)  # of two rollouts the last
    drawn = given(12, seed=0)
    assert len(drawn.unique(dim=0)) == 12
    assert all((row == rollout).all(1).any() for row in drawn)
    assert torch.equal(given(12, seed=0), drawn)
    assert not torch.equal(given(12, seed=1), drawn)


def test_the_package_offers_it_by_name():
    assert blip_rl.protect is protect
    assert blip_rl.Blip is Blip
