"""Small agents and environments: a few steps of each are enough."""

import gymnasium
import numpy as np
from gymnasium import spaces
from safetensors.torch import load, save
from stable_baselines3.common.vec_env import DummyVecEnv

from blip_rl.agent_config import AgentConfig, TrunkConfig
from blip_rl.config import ComputeConfig
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.tasks.control import make_control_env

PAPER_IMAGE = {"conv": [[32, 8, 4], [64, 4, 2], [128, 3, 1]], "hidden": [1024], "activation": "relu"}
SMALL_IMAGE = {"conv": [[4, 8, 4], [4, 4, 2]], "hidden": [8], "activation": "relu"}
VECTOR = {"hidden": [16, 12], "activation": "tanh"}
PPO = {
    "environments": 2, "rollout_steps": 16, "minibatches": 2, "epochs": 2, "learning_rate": 1e-3,
    "learning_rate_schedule": "linear", "clip_range": 0.1, "clip_range_value": 0.1, "entropy_coefficient": 0.01,
    "value_coefficient": 0.5, "discount": 0.99, "gae_lambda": 0.95, "max_gradient_norm": 0.5, "adam_epsilon": 1e-5,
}  # fmt: skip
RELEASE_LOSSES = {"value_loss": "max", "value_loss_scale": 0.5, "normalize_advantage": "rollout"}
"""Those of the BLIP release: RL/rl_module/ppo_blip.py."""
ROLLOUT = PPO["environments"] * PPO["rollout_steps"]


class Pixels(gymnasium.Env):
    """Frames of noise; the first pixel determines which action is rewarded."""

    def __init__(self, shape=(1, 36, 36), actions=3):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(actions)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._frame(), {}

    def step(self, action):
        reward = float(action == self.rewarded)
        self.steps += 1
        return self._frame(), reward, self.steps == 20, False, {}

    def _frame(self):
        frame = self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)
        self.rewarded = int(frame.flat[0]) % self.action_space.n
        return frame


class Lines(gymnasium.Env):
    """Samples of the observation space, for action spaces of any kind."""

    def __init__(self, action_space, observation_space=None):
        self.action_space = action_space
        self.observation_space = observation_space or NUMBERS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(0)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.observation_space.sample(), 1.0, False, False, {}


def vectorised(build, count=2, seed=0):
    envs = DummyVecEnv([build] * count)
    envs.seed(seed)
    return envs


NUMBERS = spaces.Box(-1, 1, (3,), np.float32)


def cartpole(mix=1, seed=0, environments=2):
    return make_control_env("CartPole-v1", environments, seed, mix)


ENVIRONMENTS = {
    "vectors": cartpole,
    "frames": lambda: vectorised(lambda: Pixels((2, 36, 36))),
    "box actions": lambda: vectorised(lambda: Lines(spaces.Box(-0.5, 2, (2,), np.float32), NUMBERS)),
}


def trunk_config(image=None, vector=None, modulation=False, normalization="none"):
    layers = {"image": image or SMALL_IMAGE, "vector": vector or VECTOR}
    return TrunkConfig(**layers, task_modulation=modulation, normalization=normalization)


def agent_config(modulation=False, image=None, **numbers):
    return AgentConfig(
        description="test",
        ppo=PPO | numbers,
        trunk=trunk_config(image=image, modulation=modulation),
        method={"name": "finetune"},
    )


def agent(task="a", env=None, seed=0, compute=None, device="cpu", normalization=None, **settings):
    return ContinualPPO(
        agent_config(**settings),
        task,
        env or cartpole(),
        seed=seed,
        device=device,
        compute=ComputeConfig(**(compute or {})),
        normalization=normalization,
    )


def learn(model, rollouts=2):
    return model.learn(rollouts * ROLLOUT, reset_num_timesteps=False)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def through_a_file(tensors):
    """Tensors as a file returns them: contiguous, on the CPU."""
    return load(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def same(one, other):
    return one.keys() == other.keys() and all((value == other[name]).all() for name, value in one.items())
