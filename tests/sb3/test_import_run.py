"""Imported stable-baselines3 agents act as the originals, and no code from their files is run."""

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gymnasium.spaces import Box
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from blip_rl.cli import cli
from blip_rl.errors import UserError
from blip_rl.recipes import load_run_config
from blip_rl.reporting.scores import load_scores
from blip_rl.sb3.export import export_run
from blip_rl.sb3.import_run import import_agent
from blip_rl.storage.checkpoint import load_stage
from blip_rl.storage.run_folder import RunFolder

FRAMES = Box(0, 255, (4, 84, 84), np.uint8)


class Pictures(gymnasium.Env):
    """An environment with the spaces of an Atari game with six actions."""

    observation_space, action_space = FRAMES, gymnasium.spaces.Discrete(6)


def saved(path, kind=PPO, policy="MlpPolicy", env="CartPole-v1", **options):
    """An agent with random weights and its file."""
    model = kind(policy, env, n_steps=64, device="cpu", policy_kwargs=options.pop("policy_kwargs", {}), **options)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.num_timesteps = 500
    model.save(path)
    return model


def loaded(run):
    return load_stage(RunFolder(run).stage_path(1), load_run_config(run))


def check_same(run, model):
    """Check that policy and values agree on random observations."""
    stage = loaded(run)
    drawn = np.random.default_rng(0).random((16, *model.observation_space.shape))
    observations = (255 * drawn).astype(np.uint8) if len(drawn.shape) > 2 else drawn.astype(np.float32)
    with torch.no_grad():
        mine, values = stage.policy.outputs_of(1, torch.from_numpy(observations))
        tensor, _ = model.policy.obs_to_tensor(observations)
        theirs = model.policy.get_distribution(tensor).distribution
        for name in ("probs",) if hasattr(theirs, "probs") else ("loc", "scale"):
            torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), rtol=1e-5, atol=1e-5)
            assert name == "scale" or getattr(mine, name).std() > 0
        torch.testing.assert_close(values, model.policy.predict_values(tensor).flatten(), rtol=1e-5, atol=1e-4)
    return stage


RELU = {"activation_fn": nn.ReLU}


@pytest.mark.parametrize(
    ("kind", "game", "options", "hidden"),
    [
        (PPO, "CartPole-v1", {}, [128, 128]),
        (A2C, "CartPole-v1", {}, [128, 128]),
        (PPO, "Pendulum-v1", {**RELU, "net_arch": {"pi": [20, 10, 5], "vf": [8, 8, 8]}}, [28, 18, 13]),
    ],
)
def test_separate_networks_for_vectors_become_one_trunk(kind, game, options, hidden, tmp_path):
    model = saved(tmp_path / "x.zip", kind, env=game, policy_kwargs=options)
    run = import_agent(tmp_path / "x.zip", game, out=tmp_path / "run")
    stage = check_same(run, model)
    config = load_run_config(run)
    assert (stage.env_steps, config.agent.method["name"], config.agent_name) == (500, "finetune", "x")
    assert list(config.agent.trunk.vector.hidden) == hidden


@pytest.mark.parametrize(
    ("options", "conv", "hidden"),
    [
        ({}, [(32, 8, 4), (64, 4, 2), (64, 3, 1)], [512]),
        (
            {"share_features_extractor": False, "features_extractor_kwargs": {"features_dim": 40}},
            [(64, 8, 4), (128, 4, 2), (128, 3, 1)],
            [80],
        ),
        ({**RELU, "net_arch": [30]}, [(32, 8, 4), (64, 4, 2), (64, 3, 1)], [512, 60]),
    ],
)
def test_networks_for_images_become_one_trunk(options, conv, hidden, tmp_path):
    model = saved(tmp_path / "x.zip", policy="CnnPolicy", env=Pictures(), policy_kwargs=options)
    run = import_agent(tmp_path / "x.zip", "pong", out=tmp_path / "run")
    check_same(run, model)
    image = load_run_config(run).agent.trunk.image
    assert (list(image.conv), list(image.hidden), image.activation) == (conv, hidden, "relu")


def test_an_export_is_imported_unchanged(finished_run, tmp_path):
    """Also after it was saved again: one trunk, not separate ones for policy and values."""
    (exported,) = export_run(finished_run, stage=1, out=tmp_path)
    model = PPO.load(exported.file, device="cpu")
    model.save(tmp_path / "again.zip")
    for file in (exported.file, tmp_path / "again.zip"):
        run = import_agent(file, "CartPole-v1", out=tmp_path / f"run-{file.stem}")
        check_same(run, model)
        assert list(load_run_config(run).agent.trunk.vector.hidden) == [16, 16]


def test_an_export_for_images_keeps_its_strides(tmp_path):
    from tests.sb3.test_export import agent_of, plain_ppo, standalone

    policy, config = agent_of(FRAMES, gymnasium.spaces.Discrete(6), "trunk.image.activation=elu")
    plain_ppo(standalone(policy, 2), FRAMES, Pictures.action_space, config.agent.ppo, 0).save(tmp_path / "x.zip")
    model = PPO.load(tmp_path / "x.zip", device="cpu")
    model.save(tmp_path / "again.zip")
    for name in ("x", "again"):
        run = import_agent(tmp_path / f"{name}.zip", "pong", out=tmp_path / name)
        check_same(run, model)
        image = load_run_config(run).agent.trunk.image
        assert (image.conv, image.hidden) == (config.agent.trunk.image.conv, config.agent.trunk.image.hidden)
        assert image.activation == "elu"


def test_an_export_that_normalises_its_observations_is_refused(tmp_path):
    from tests.sb3.test_export import VECTOR, normalized_agent, plain_ppo, standalone

    actions = gymnasium.spaces.Discrete(2)
    policy, config = normalized_agent(actions)
    plain_ppo(standalone(policy, 1), VECTOR, actions, config.agent.ppo, 0).save(tmp_path / "x.zip")
    with pytest.raises(UserError, match=r"cannot become a run: it normalises its observations \(blip-rl export\)"):
        import_agent(tmp_path / "x.zip", "CartPole-v1", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_imported_agent_gets_its_observations_as_they_are(tmp_path):
    """Even if the settings of its game normalise them: the file has no statistics."""
    model = saved(tmp_path / "x.zip")
    run = import_agent(
        tmp_path / "x.zip", "CartPole-v1", overrides=["normalize_observations=true"], out=tmp_path / "run"
    )
    check_same(run, model)
    assert not load_run_config(run).normalize_observations


def test_every_command_accepts_an_imported_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved("cart.zip")
    settings = ["--set", "evaluation.episodes=2"]
    made = CliRunner().invoke(cli, ["import", "cart.zip", "--game", "CartPole-v1", "--out", "run", *settings])
    assert made.exit_code == 0, made.output
    assert "no code from it was run" in made.stdout
    assert CliRunner().invoke(cli, ["report", "run"]).exit_code == 0  # before there is any score
    assert CliRunner().invoke(cli, ["evaluate", "run"]).exit_code == 0
    assert load_scores(Path("run")).after.shape == (1, 1)
    for verb in (["report"], ["inspect"], ["export"], ["render", "--seconds", "0.2", "--episodes", "1"]):
        done = CliRunner().invoke(cli, [verb[0], "run", *verb[1:]])
        assert done.exit_code == 0, (verb, done.output)
    resumed = CliRunner().invoke(cli, ["train", "--resume", "run"])
    assert resumed.exit_code == 2
    assert "is finished" in resumed.stderr


# Untrusted files


class Trap:
    """An object whose unpickling creates a file."""

    def __init__(self, mark):
        self._mark = mark

    def __reduce__(self):
        return Path.write_text, (self._mark, "code was run")


def rewritten(source, target, **members):
    """A copy of a zip with some members' bytes replaced; None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = members.get(name.replace(".", "_"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def test_no_code_from_a_file_is_run(tmp_path):
    mark, text = tmp_path / "mark", base64.b64encode(pickle.dumps(Trap(tmp_path / "mark"))).decode()
    model = saved(tmp_path / "good.zip")
    with zipfile.ZipFile(tmp_path / "good.zip") as archive:
        facts = json.loads(archive.read("data"))
    trapped = {
        key: {":type:": "<class 'dict'>", ":serialized:": text}
        for key, value in facts.items()
        if isinstance(value, dict)
    }
    bad = rewritten(tmp_path / "good.zip", tmp_path / "bad.zip", data=json.dumps(facts | trapped))
    check_same(import_agent(bad, "CartPole-v1", out=tmp_path / "run"), model)
    weights = io.BytesIO()
    torch.save({"action_net.weight": Trap(mark)}, weights)
    worse = rewritten(tmp_path / "good.zip", tmp_path / "worse.zip", policy_pth=weights.getvalue())
    with pytest.raises(UserError, match="or damaged"):
        import_agent(worse, "CartPole-v1", out=tmp_path / "other")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))  # the trap works
    assert mark.exists()


class OwnExtractor(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)
        self.cnn = nn.Sequential(nn.Conv2d(4, 4, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(400, 4), nn.ReLU())

    def forward(self, observations):
        return self.cnn(observations)


CASES = {
    "nothing there": (None, "pong", ["'x.zip' does not exist"]),
    "a folder": ("folder", "pong", ["is a folder"]),
    "no zip": (b"PK but not really", "pong", ["not a zip of stable-baselines3"]),
    "no weights": ({"policy_pth": None}, "CartPole-v1", ["has no 'policy.pth'"]),
    "damaged weights": ({"policy_pth": b"x"}, "CartPole-v1", ["damaged"]),
    "facts that are none": ({"data": b"{"}, "CartPole-v1", ["not valid JSON"]),
    "another algorithm": ({"kind": DQN, "learning_starts": 1}, "CartPole-v1", ["expected PPO or A2C"]),
    "gSDE": ({"env": "Pendulum-v1", "use_sde": True}, "Pendulum-v1", ["use_sde"]),
    "no layer": ({"policy_kwargs": {"net_arch": []}}, "CartPole-v1", ["no layer"]),
    "depths": (
        {"policy_kwargs": {"net_arch": {"pi": [4], "vf": [4, 4]}}},
        "CartPole-v1",
        ["policy and value networks differ"],
    ),
    "activation": ({"policy_kwargs": {"activation_fn": nn.GELU}}, "CartPole-v1", ["GELU", "ReLU, Tanh, ELU, SiLU"]),
    "two activations": (
        {"policy": "CnnPolicy", "env": Pictures(), "policy_kwargs": {"net_arch": [4]}},
        "pong",
        ["ReLU, Tanh", "the same for all layers"],
    ),
    "own extractor": (
        {"policy": "CnnPolicy", "env": Pictures(), "policy_kwargs": {"features_extractor_class": OwnExtractor}},
        "pong",
        ["custom features extractor", "NatureCNN"],
    ),
    "another game's actions": (
        {"policy": "CnnPolicy", "env": Pictures()},
        "boxing",
        ["among 6 actions", "the game has 18"],
    ),
    "another game's vectors": ({}, "Acrobot-v1", ["layer 1", "(6,)", "(128, 4)"]),
    "another game's kind": ({}, "pong", ["expects vectors", "(4, 84, 84)"]),
    "another kind of actions": ({"env": "Pendulum-v1"}, "MountainCar-v0", ["chooses continuous actions", "discrete"]),
    "several games": ({}, "cartpole4", ["4 games", "the one game that"]),
    "unknown game": ({}, "CartPol-v1", ["did you mean CartPole-v1"]),
}


@pytest.mark.parametrize("case", CASES)
def test_agents_that_cannot_be_imported_are_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, game, parts = CASES[case]
    if made == "folder":
        Path("x.zip").mkdir()
    elif isinstance(made, bytes):
        Path("x.zip").write_bytes(made)
    elif made is not None and made.keys() & {"policy_pth", "data"}:
        saved("good.zip")
        rewritten("good.zip", "x.zip", **made)
    elif made is not None:
        options = dict(made)
        if options.get("kind") is DQN:
            DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu").save("x.zip")
        else:
            saved("x.zip", **options)
    result = CliRunner().invoke(cli, ["import", "x.zip", "--game", game, "--out", "run"])
    assert result.exit_code == 2, result.output
    assert result.stderr.count("Error: ") == 1
    assert all(part in result.stderr for part in parts), result.stderr
    assert not Path("run").exists()
