"""The oldest supported stable-baselines3 and Gymnasium open exported agents."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from blip_rl.sb3.export_model import plain_ppo, standalone
from tests.sb3.test_export import BOX_ACTIONS, FRAMES, VECTOR, agent_of, both, seen

pytestmark = pytest.mark.slow  # installs packages

AGENTS = [
    (FRAMES, Discrete(6), ()),
    (FRAMES, Discrete(6), ("trunk.image.activation=elu", "ppo.learning_rate_schedule=constant")),
    (FRAMES, BOX_ACTIONS, ()),
    (VECTOR, Discrete(3), ("trunk.vector.activation=silu", "ppo.clip_range_value=none")),
    (VECTOR, BOX_ACTIONS, ("trunk.task_modulation=false",)),
]
OPEN = """
import json, sys
import gymnasium, numpy, stable_baselines3, torch
from stable_baselines3 import PPO
found = [[stable_baselines3.__version__, gymnasium.__version__]]
for number in range(int(sys.argv[1])):
    for file in (f"{number}.zip", "again.zip"):
        model = PPO.load(file, device="cpu")
        tensor, _ = model.policy.obs_to_tensor(numpy.load(f"{number}.npy"))
        policy = model.policy.get_distribution(tensor).distribution
        chosen = policy.probs if hasattr(policy, "probs") else policy.loc
        found.append([chosen.tolist(), model.policy.predict_values(tensor).flatten().tolist()])
        model.save("again.zip")
print(json.dumps(found))
"""


def floor(package):
    """Return the lowest version that pyproject.toml allows."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (found,) = [text for text in project["dependencies"] if text.partition(">=")[0].partition("[")[0] == package]
    version = found.partition(">=")[2].partition(",")[0]
    return version + ".0" * (2 - version.count("."))


@pytest.fixture(scope="module")
def floors(tmp_path_factory):
    """A folder with the oldest versions, placed first on the path."""
    path = tmp_path_factory.mktemp("floors")
    oldest = [f"{package}=={floor(package)}" for package in ("stable-baselines3", "gymnasium")]
    wanted = [*oldest, "pandas", "pytz", "tzdata"]  # the oldest stable-baselines3 imports pandas
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(path), "--no-deps", *wanted]
    subprocess.run(command, check=True)
    return path


def test_the_oldest_versions_open_every_kind_of_agent(floors, tmp_path):
    expected = []
    for number, (observations, actions, overrides) in enumerate(AGENTS):
        policy, config = agent_of(observations, actions, *overrides)
        model = plain_ppo(standalone(policy, 2), observations, actions, config.agent.ppo, 1)
        model.save(tmp_path / f"{number}.zip")
        np.save(tmp_path / f"{number}.npy", seen(observations))
        expected += 2 * [[mine for mine, _ in both(policy, 2, model, seen(observations))[:2]]]
    environment = {**os.environ, "PYTHONPATH": str(floors), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", OPEN, str(len(AGENTS))]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    versions, *found = json.loads(done.stdout)
    assert versions == [floor("stable-baselines3"), floor("gymnasium")]
    for (chosen, values), mine in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(chosen), mine[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.tensor(values), mine[1], rtol=1e-4, atol=1e-4)
