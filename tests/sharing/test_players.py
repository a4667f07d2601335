"""Players: small checkpoints that play like the original, with float16 weights where the policies stay the same."""

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gymnasium import spaces
from safetensors.torch import load_file

import blip_rl as br
from blip_rl.cli import cli
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods.blip import Blip
from blip_rl.run.train import train
from blip_rl.sharing import players
from blip_rl.sharing.players import LEAST_AGREEMENT, MOST_DIVERGENCE, round_weights
from blip_rl.storage.atomic import file_digest
from tests.small_runs import small_config

FEW_STATES = {"_ENVIRONMENTS": 4, "_STEPS": 60, "_EVERY": 2}
GAMES = ("cartpole-a", "cartpole-b")


@pytest.fixture(autouse=True)
def _few_states(monkeypatch):
    for name, value in FEW_STATES.items():
        monkeypatch.setattr(players, name, value)


@pytest.fixture
def policy():
    space = spaces.Box(-1, 1, (4,), np.float32)
    made = ContinualPolicy(space, spaces.Discrete(3), lambda _: 0.0, trunk=small_config().agent.trunk)
    made.add_task("a", spaces.Discrete(3))
    made.use_task("a")
    return made


def same_actions(run, other, stage, game):
    observations = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    one, two = (br.load(path).agent(stage=stage, game=game).predict(observations)[0] for path in (run, other))
    return (one == two).mean()


def test_a_player_is_half_as_large_and_every_command_opens_it(finished_run, tmp_path):
    out = tmp_path / "players"
    done = CliRunner().invoke(cli, ["publish", str(finished_run), "--half", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "push  hf upload USER/NAME " in done.output
    for stage in ("stage-01", "stage-02"):
        sizes = [(run / "checkpoints" / stage / "policy.safetensors").stat().st_size for run in (finished_run, out)]
        assert sizes[1] < 0.8 * sizes[0]  # headers are as long
        weights = load_file(out / "checkpoints" / stage / "policy.safetensors")
        assert all(tensor.dtype == torch.float16 for name, tensor in weights.items() if "normalizer" not in name)
        assert not load_file(out / "checkpoints" / stage / "method.safetensors")
    assert not {path.name for path in out.iterdir()} & {"report.html", "gifs"}

    assert br.load(out).metrics() == br.load(finished_run).metrics()
    assert all(same_actions(finished_run, out, 2, game) >= LEAST_AGREEMENT for game in GAMES)
    assert len(br.evaluate(out, episodes=2)) == 6
    assert br.render(out, games=["cartpole-a"], stages=[2], seconds=1)
    assert br.report([out]).page.is_file()
    for command in ("inspect", "export"):
        done = CliRunner().invoke(cli, [command, str(out)])
        assert done.exit_code == 0, done.output

    (line,) = re.findall(r"^- Stage 2: (.+)\.$", (out / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert json.loads((out / "checkpoints" / "stage-02" / "stage.json").read_text())["description"] == [line]
    divergence, agreement = re.search(r"at most ([\d.e-]+) nats.* at least ([\d.]+)% of 120 states", line).groups()
    assert float(divergence) <= MOST_DIVERGENCE
    assert float(agreement) >= 100 * LEAST_AGREEMENT


@pytest.mark.parametrize("agent", ["packnet", "single", "freeze-distil"])
def test_a_player_has_the_state_that_playing_needs_and_no_other(agent, tmp_path):
    few = ("distil.teacher_states=128", "distil.student_states=128", "distil.updates=4")
    config = small_config(agent, overrides=few if agent.endswith("distil") else ())
    run = train(config, out=tmp_path / "run", threads=1, quiet=True)
    out = br.publish(run, out=tmp_path / "players", half=True).path
    assert all(same_actions(run, out, 2, game) >= LEAST_AGREEMENT for game in GAMES)
    metadata = out / "checkpoints" / "stage-02" / "stage.json"
    written = json.loads(metadata.read_text())
    assert (written["method"] is None) == (agent == "freeze-distil")

    if written["method"] is not None:
        metadata.write_text(json.dumps(written | {"method": None}))
        digests = metadata.parent / "digests.json"
        digests.write_text(json.dumps(json.loads(digests.read_text()) | {metadata.name: file_digest(metadata)}))
        with pytest.raises(br.UserError, match="does not fit the run's method"):
            br.load(out).agent(stage=2, game="cartpole-a")


def test_tensors_whose_rounding_changes_the_policies_stay_float32(policy):
    before = {name: tensor.clone() for name, tensor in policy.task_state().items()}
    with torch.no_grad():
        policy.module_of(0).critic.bias.fill_(1e5)  # beyond float16
    first = before["trunk.fc1.weight"]

    def check():
        unchanged = torch.equal(policy.task_state()["trunk.fc1.weight"], first)
        return (0.0, 1.0) if unchanged else (0.0, LEAST_AGREEMENT - 0.001)

    exact, rounded, kept = round_weights(policy, check)
    assert kept == ("trunk.fc1.weight", "tasks.0.critic.bias")
    after = policy.task_state()
    assert torch.equal(after["trunk.fc1.weight"], first)
    assert "trunk.fc2.weight" in rounded
    assert torch.equal(after["trunk.fc2.weight"], before["trunk.fc2.weight"].half().float())
    assert "trunk.fc1.bias" in exact  # zeros
    assert {*exact, *rounded, *kept} == after.keys()


@pytest.mark.parametrize("changes", [(2 * MOST_DIVERGENCE, 1.0), (2 * MOST_DIVERGENCE, None), (float("nan"), None)])
def test_nothing_is_rounded_if_the_policies_diverge(policy, changes):
    before = {name: tensor.clone() for name, tensor in policy.task_state().items()}
    _, rounded, _ = round_weights(policy, lambda: changes)
    assert rounded == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.task_state().items())


@pytest.mark.parametrize(("bits", "exactly"), [(11, True), (12, False)])
def test_float16_holds_weights_of_up_to_11_bits_exactly(policy, bits, exactly):
    blip = Blip(first_task_bits=4, total_bits=bits, weight_bound="unit")
    with torch.no_grad():
        for weight in policy.trunk.parameters():
            weight.uniform_(-1, 1)
    blip.start_task(policy.trunk)
    blip.after_step()
    exact, _, _ = round_weights(policy, lambda: (0.0, 1.0))
    assert ({name for name in policy.task_state() if name.startswith("trunk.")} <= {*exact}) == exactly
