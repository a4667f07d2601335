"""Apply a continual learning method to a plain stable-baselines3 PPO or A2C model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from torch import Tensor, nn

from blip_rl.any_module import check_method
from blip_rl.errors import UserError
from blip_rl.methods.attach import attached
from blip_rl.methods.base import FinishedTask, Method
from blip_rl.sb3.protected_models import Learned, check_same_network

_USAGE = "with protect(model, method): model.learn(...)"
_in_use: WeakSet[Any] = WeakSet()  # models and methods that a block protects now
_not_entered: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # policy → handle of the hook that refuses


class ActorPath(nn.Module):
    """All layers between the observation and the actions of a policy: the part that is protected.

    A plain model has a single head for all tasks, so the action layer is protected too. The layers of the critic are
    not protected: changes to them do not change the actions.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.features_extractor = policy.pi_features_extractor
        self.policy_net = policy.mlp_extractor.policy_net
        self.action_net = policy.action_net

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, ...) preprocessed observations → (batch, outputs) of the action layer."""
        return cast(Tensor, self.action_net(self.policy_net(self.features_extractor(observations))))


class Protection:
    """Context manager made by :func:`protect`; every ``with`` block over it is one task.

    Until the first block is entered, the model refuses to learn.
    """

    def __init__(self, model: OnPolicyAlgorithm, method: Method, seed: int) -> None:
        self._model, self._method, self._seed = model, method, seed
        self._attached: AbstractContextManager[Method] | None = None
        _forget_refusal(model.policy)
        _not_entered[model.policy] = model.policy.register_forward_pre_hook(_refuse_to_learn)

    def __enter__(self) -> Method:
        """Attach the method to the model.

        Raises:
            UserError: The model or the method is already protected by a surrounding block, the method cannot protect
                the layers of this model, or it protects those of another model.
        """
        model, method = self._model, self._method
        _check_not_in_use(model, method)
        trunk = self._trunk = ActorPath(model.policy)
        check_same_network(method, trunk)
        attachment = attached(method, trunk, model.policy.optimizer)
        try:
            attachment.__enter__()
        except UserError:
            raise
        except (TypeError, ValueError) as error:  # unsupported layers, or the state of another network
            raise UserError(f"protect({_name(model)}, {_name(method)}): {error}") from error
        self._attached = attachment
        _forget_refusal(model.policy)
        _in_use.update((model, method))
        model.rollout_buffer.reset()  # discard the rollout of an earlier task
        return method

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Consolidate the task, unless the block raised an error; detach the method.

        Raises:
            UserError: ``model.learn`` was not called in the block, so there is no rollout to consolidate on.
        """
        try:
            if kind is None:
                self._end_task()
        finally:
            _in_use.difference_update((self._model, self._method))
            cast(AbstractContextManager[Method], self._attached).__exit__(None, None, None)

    def _end_task(self) -> None:
        policy = self._model.policy
        observations = _rollout_observations(self._model.rollout_buffer, self._method.samples_wanted, self._seed)
        self._method.end_task(
            FinishedTask(
                trunk=self._trunk,
                head=_head(policy),
                observations=observations,
                preprocess=_preprocess(policy),
                generator=torch.Generator().manual_seed(self._seed),
            )
        )
        Learned.remember(self._method, self._trunk)


def protect(model: OnPolicyAlgorithm, method: Method, seed: int = 0) -> Protection:
    """Context manager that protects earlier tasks while a model learns one task.

    Usage: ``with protect(model, method): model.learn(...)``, for every task.

    Attaches the method on entry, consolidates it when the block ends without an exception, and always detaches it.
    Without ``with`` nothing would be protected: from the call until a block is entered, ``model.learn`` raises an
    error.

    Args:
        model: A stable-baselines3 PPO (or A2C) with a discrete or a Gaussian policy; call ``learn`` inside.
        method: The method; pass the same object for every task of the sequence.
        seed: Seed for the choice of observations and the random numbers of the method.

    Returns:
        The context manager. Its block gives the method.

    Raises:
        UserError: The model, its policy, the method or the seed cannot be used, or the arguments are swapped.
    """
    _check_model(model, method)
    _check_method(method)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UserError(f"protect(…, seed={seed!r}): expected a whole number of at least 0")
    _check_policy(model)
    _check_not_in_use(model, method)
    return Protection(model, method, seed)


def _refuse_to_learn(policy: nn.Module, inputs: Any) -> None:
    """Raise at the first step of ``learn``; ``predict`` does not call the policy's ``forward``."""
    raise UserError(f"protect(model, method) was called without 'with', so nothing is protected: expected {_USAGE}")


def _forget_refusal(policy: nn.Module) -> None:
    if handle := _not_entered.pop(policy, None):
        handle.remove()


def _name(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _check_model(model: object, method: object) -> None:
    if isinstance(model, OnPolicyAlgorithm):
        return
    rule = "expected a PPO or A2C model of stable-baselines3"
    if isinstance(method, OnPolicyAlgorithm):
        rule = "the arguments are swapped: expected protect(model, method)"
    elif isinstance(model, nn.Module):
        rule += "; for any other PyTorch module use protect_module"
    elif isinstance(model, type):
        rule += ", not a class"
    raise UserError(f"protect({_name(model)}, …): {rule}")


def _check_method(method: object) -> None:
    if not isinstance(method, Method):
        given = repr(method)[:80] if isinstance(method, str) else _name(method)
        what = "a class" if isinstance(method, type) else "not a method"
        raise UserError(
            f"protect(model, {given}): {given} is {what}: expected a method object, such as Blip(first_task_bits=3)"
        )
    check_method(method)


def _check_not_in_use(model: OnPolicyAlgorithm, method: Method) -> None:
    for one, kind in ((model, "model"), (method, "method")):
        if one in _in_use:
            raise UserError(
                f"protect({_name(model)}, {_name(method)}) within another block that uses this {kind}: expected one "
                "block at a time for a model and for a method (leave the inner block out)"
            )


def _check_policy(model: OnPolicyAlgorithm) -> None:
    """Check that the layers of :class:`ActorPath` are all that stands between the observations and the actions."""
    policy = model.policy
    own = ("forward", "get_distribution", "evaluate_actions", "extract_features", "_get_action_dist_from_latent")
    changed = [name for name in own if getattr(type(policy), name, None) is not getattr(ActorCriticPolicy, name)]
    if changed:
        raise UserError(
            f"the policy {type(policy).__name__} computes {changed[0]} in its own way: expected stable-baselines3's "
            "MlpPolicy or CnnPolicy, whose layers are known (a features_extractor_class of one's own is possible)"
        )
    if isinstance(model.observation_space, spaces.Dict):
        raise UserError(f"observations {model.observation_space}: expected a single Box or Discrete space, not a Dict")
    if not isinstance(policy.action_dist, CategoricalDistribution | DiagGaussianDistribution):
        raise UserError(
            f"unsupported action distribution {type(policy.action_dist).__name__}: "
            "expected Discrete or Box actions without use_sde"
        )


def _rollout_observations(buffer: RolloutBuffer, samples: int, seed: int) -> Tensor:
    """Draw at most ``samples`` observations from the last rollout; returns shape (samples, *observation)."""
    if buffer.size() == 0:
        raise UserError("the rollout buffer is empty: call model.learn(...) inside the with block")
    # A callback may have stopped training during a rollout: use the part that was collected.
    collected = buffer.observations if buffer.full else buffer.observations[: buffer.pos]
    observations = torch.from_numpy(collected).reshape(-1, *buffer.obs_shape)
    if len(observations) <= samples:
        return observations
    chosen = torch.randperm(len(observations), generator=torch.Generator().manual_seed(seed))[:samples]
    return observations[chosen]


def _head(policy: ActorCriticPolicy) -> Callable[[Tensor], Any]:
    """Return a function: outputs of the action layer → torch distribution over actions."""

    def distribution(outputs: Tensor) -> Any:
        if hasattr(policy, "log_std"):
            return policy.action_dist.proba_distribution(outputs, policy.log_std).distribution
        return policy.action_dist.proba_distribution(outputs).distribution

    return distribution


def _preprocess(policy: ActorCriticPolicy) -> Callable[[Tensor], Tensor]:
    return lambda observations: cast(
        Tensor, preprocess_obs(observations, policy.observation_space, normalize_images=policy.normalize_images)
    )
