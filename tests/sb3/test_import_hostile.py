"""Invalid, oversized or unsupported agent files are refused with one message, and no run folder is left."""

import io
import json
import os
import resource
import time
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from stable_baselines3 import PPO
from torch import nn

from blip_rl.cli import cli
from blip_rl.recipes import load_run_config
from blip_rl.sb3 import import_run
from blip_rl.sb3.import_run import import_agent
from tests.sb3.test_import_run import Pictures, check_same, loaded, saved

COMMAND = ["import", "x.zip", "--game", "CartPole-v1", "--out", "new/run"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An agent's members by name, and its tensors."""
    path = tmp_path_factory.mktemp("plain") / "plain.zip"
    model = saved(path, policy_kwargs={"net_arch": [8, 8]})
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}, dict(model.policy.state_dict())


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(members, tensors=None, facts=None, method=zipfile.ZIP_STORED):
    """Write ``x.zip`` with other tensors or metadata."""
    if tensors is not None:
        file = io.BytesIO()
        torch.save(tensors, file)
        members = members | {"policy.pth": file.getvalue()}
    if facts is not None:
        members = members | {"data": json.dumps(json.loads(members["data"]) | facts)}
    with zipfile.ZipFile("x.zip", "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def refused(*parts, seconds=3.0, megabytes=300):
    """Import the file; check for one message with these parts, low time and memory, and no files left."""
    before = sorted(path.name for path in Path().iterdir())
    began, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = CliRunner().invoke(cli, COMMAND)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("Error: ") == 1
    assert all(part in result.stderr for part in parts), result.stderr
    assert len(result.stderr) < 700
    assert time.process_time() - began < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 1000 * megabytes
    assert sorted(path.name for path in Path().iterdir()) == before


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")])
def test_pipes_and_devices_are_refused_without_waiting(make):
    make("x.zip")
    refused("'x.zip' is not a file")


def test_long_descriptions_of_layers_are_parsed_in_linear_time(plain):
    described = "NatureCNN(" + "Conv2d(" * 2_000_000
    members, tensors = plain
    tensors = tensors | {"features_extractor.cnn.0.weight": torch.zeros(1), "features_extractor.linear.0.weight": None}
    tensors = {name: torch.zeros(1) if tensor is None else tensor for name, tensor in tensors.items()}
    write(members, tensors, {"policy_kwargs": {"features_extractor_class": described}}, zipfile.ZIP_DEFLATED)
    assert Path("x.zip").stat().st_size < 100_000
    refused("custom features extractor")


def test_json_that_would_expand_is_refused(plain):
    write(plain[0] | {"data": "[" + "[]," * 20_000_000 + "0]"}, method=zipfile.ZIP_DEFLATED)
    assert Path("x.zip").stat().st_size < 200_000
    refused("data: more than 500,000 values")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_compression_is_refused(method, plain):
    write(plain[0], method=method)
    content = bytearray(Path("x.zip").read_bytes())
    content[60:90] = bytes(30)
    Path("x.zip").write_bytes(content)
    refused("x.zip'")


def layers(policy, values):
    """Layers of these shapes."""
    shapes = {
        f"mlp_extractor.{kind}_net.{2 * number}": shape
        for kind, found in (("policy", policy), ("value", values))
        for number, shape in enumerate(found)
    }
    return {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()} | {
        f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()
    }


TENSORS = {
    "integer keys": (lambda t: {0: torch.zeros(1), **t}, "not a dictionary of tensors"),
    "stride 0": (lambda t: t | {"action_net.weight": torch.zeros(1).expand(2, 10**10)}, "needs 80,000,000,000 bytes"),
    "an unknown module": (lambda t: t | {"gate.weight": torch.ones(2, 2)}, "'gate.weight'"),
    "many unknown ones": (lambda t: t | {f"gate.{n}": torch.ones(1) for n in range(9)}, "and 6 more"),
    "an unknown parameter": (lambda t: t | {"action_net.scale": torch.ones(2)}, "'action_net.scale'"),
    "a normalisation": (lambda t: t | {"mlp_extractor.policy_net.1.weight": torch.ones(8)}, "expected layers with"),
    "a bias that is too short": (lambda t: t | {"action_net.bias": t["action_net.bias"][:1]}, "a bias of shape (1,)"),
    "values that are not finite": (lambda t: t | {"action_net.weight": t["action_net.weight"] * torch.nan}, "finite"),
    "a weight without rows": (
        lambda t: t | {"mlp_extractor.policy_net.2.weight": torch.zeros(0, 8)}, "a weight of shape (0, 8)",
    ),
    "no activations": (
        lambda t: {name.replace("net.2.", "net.1."): tensor for name, tensor in t.items()}, "'0', '1'",
    ),
    "a head of its own": (lambda t: t | {"mlp_extractor.aux_net.0.weight": torch.ones(8, 8)}, "aux_net"),
    "beyond float32": (lambda t: t | {"action_net.weight": torch.full((2, 8), 1e39, dtype=float)}, "range of float32"),
    "whole numbers": (lambda t: t | {"action_net.bias": torch.ones(2, dtype=torch.int64)}, "not floating point"),
    "complex numbers": (lambda t: t | {"action_net.bias": torch.ones(2) * 1j}, "x.zip'"),
    "a deviation beyond float32": (lambda t: t | {"log_std": torch.full((2,), 100.0)}, "'log_std' does not"),
    "layers that do not fit together": (lambda t: t | layers([(60_000, 4), (60_000, 1)], [(1, 4), (1, 1)]), "layer 2"),
    "layers side by side that need terabytes": (
        lambda t: t | layers([(2_000_000, 4), (1, 2_000_000)], [(1, 4), (2_000_000, 1)]), "of memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
def test_unsupported_tensors_are_refused(kind, plain):
    change, message = TENSORS[kind]
    write(plain[0], change(plain[1]))
    refused(message)


def test_a_custom_policy_class_is_refused(plain):
    """The same tensors, used in a way that is defined only by its code."""
    write(plain[0], facts={"policy_class": {":type:": "x", "__module__": "__main__"}})
    refused("custom class", "'__main__'")


def test_features_extractors_that_differ_are_refused(plain, tmp_path):
    model = saved(tmp_path / "good.zip", policy="CnnPolicy", env=Pictures())
    with zipfile.ZipFile("good.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    tensors = dict(model.policy.state_dict())
    tensors["features_extractor.linear.0.bias"] = tensors["features_extractor.linear.0.bias"] + 1
    write(members, tensors)
    refused("differs from the one below")


class Sharing(nn.Module):
    """Shared first layers, as in stable-baselines3 1.x."""

    def __init__(self, model):
        super().__init__()
        self.shared_net = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.policy_net = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.value_net = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        self.latent_dim_pi = self.latent_dim_vf = 8

    def forward(self, features):
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features):
        return self.policy_net(self.shared_net(features))

    def forward_critic(self, features):
        return self.value_net(self.shared_net(features))


def test_layers_shared_by_policy_and_value_network_are_imported(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu", policy_kwargs={"net_arch": [8]})
    model.policy.mlp_extractor = Sharing(model)
    model.save(tmp_path / "x.zip")
    run = import_agent(tmp_path / "x.zip", "CartPole-v1", out=tmp_path / "run")
    check_same(run, model)
    assert list(load_run_config(run).agent.trunk.vector.hidden) == [6, 16]


@pytest.mark.parametrize(
    "place", ["vecnormalize.pkl", "vec_normalize.pkl", "ppo_vecnormalize_9_steps.pkl", "x/vecnormalize.pkl"]
)
def test_normalisation_statistics_beside_the_file_give_a_warning(place, plain):
    write(plain[0])
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_bytes(b"never opened")
    with pytest.warns(UserWarning, match=r"vec_?normalize.*VecNormalize"):
        import_agent(Path("x.zip"), "CartPole-v1", out=Path("run"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_import_leaves_no_folder(error, plain, monkeypatch):
    """A folder with a recipe alone could be resumed, and would train a new network."""
    write(plain[0])

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(import_run, "save_stage", fail)
        with pytest.raises(type(error)):
            import_agent(Path("x.zip"), "CartPole-v1", out=Path("new/run"))
    assert [path.name for path in Path().iterdir()] == ["x.zip"]
    loaded(import_agent(Path("x.zip"), "CartPole-v1", out=Path("new/run")))
    assert [path.name for path in Path("new").iterdir()] == ["run"]
