"""Untrusted run folders: every value is validated before it is used."""

import hashlib
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from blip_rl.cli import program
from blip_rl.errors import RunError, UserError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.recipes import load_run_config
from blip_rl.run import train
from blip_rl.storage import atomic
from blip_rl.storage import snapshot as snapshots
from blip_rl.storage.checkpoint import load_stage
from blip_rl.untrusted import machine
from tests.run.broken_off import killed_at, small_run

pytestmark = pytest.mark.usefixtures("_blank_heatmaps")


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="module")
def _broken_off(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    with killed_at(train, "consolidate", call=2):
        train.train(small_run(), out=path, threads=1, quiet=True)
    return path


@pytest.fixture
def unfinished(_broken_off, tmp_path):
    """A run killed at the end of its second task."""
    return shutil.copytree(_broken_off, tmp_path / "run")


def sealed(folder):
    """Recompute the digests, as an attacker would."""
    digests = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != "digests.json"
    }
    (folder / "digests.json").write_text(json.dumps(digests))


def change_facts(folder, name, change):
    path = folder / name
    facts = json.loads(path.read_text())
    change(facts)
    path.write_text(json.dumps(facts))
    sealed(folder)


def change_tensors(folder, name, change):
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    sealed(folder)


def newest(run):
    return max((run / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("setting", "absurd"),
    [
        ("hidden = [\n    16,\n    16,\n]", "hidden = [65536, 65536, 65536]"),
        ("environments = 4", "environments = 2048"),
    ],
)
def test_an_absurd_recipe_is_told_what_it_needs(run, setting, absurd, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 20_000_000)
    recipe = run / "config.toml"
    text = recipe.read_text()
    assert text.count(setting)
    recipe.write_text(text.replace(setting, absurd))
    (run / "checkpoints" / "step-000000000001").mkdir()  # so that there is something to resume
    with pytest.raises(UserError, match=r"needs \S+ [MGT]B of memory"):
        train.resume(run, accept_changes=True, threads=1, quiet=True)


def test_a_network_too_large_for_the_machine_is_not_built(run, monkeypatch):
    built = []
    monkeypatch.setattr(machine, "memory_bytes", lambda: 1_000)
    monkeypatch.setattr("blip_rl.storage.checkpoint._build_policy", lambda *_: built.append(1))
    with pytest.raises(UserError, match=r"stage-01' needs .* of memory \(.*the network"):
        load_stage(run / "checkpoints" / "stage-01", load_run_config(run))
    assert not built


def test_heads_of_a_million_million_actions_take_no_memory(run):
    stage = run / "checkpoints" / "stage-01"
    change_facts(stage, "stage.json", lambda f: f["tasks"][0]["action_space"].update(n=10**12))
    with pytest.raises(UserError, match=r"n = '1000000000000': .* less than or equal to 65536"):
        load_stage(stage, load_run_config(run))


@pytest.mark.parametrize(
    "described",
    [
        {"kind": "discrete", "n": 0, "start": 0},
        {"kind": "discrete", "n": True, "start": 0},
        {"kind": "discrete", "n": 1e300, "start": 0},
        {"kind": "box", "shape": [-2, -3], "dtype": "float32", "low": ["0"], "high": ["1"]},
        {"kind": "box", "shape": [10**6, 10**6], "dtype": "float32", "low": ["0"], "high": ["1"]},
        {"kind": "box", "shape": [2], "dtype": "object", "low": ["0"], "high": ["1"]},
        {"kind": "box", "shape": [2], "dtype": "float32", "low": ["nan"], "high": ["1"]},
        {"kind": "box", "shape": [2], "dtype": "uint8", "low": ["0"], "high": ["1e999"]},
        {"kind": "box", "shape": [2], "dtype": "float32", "low": [], "high": ["1"]},
        [],
    ],
)
def test_absurd_spaces_are_refused(run, described):
    stage = run / "checkpoints" / "stage-01"
    for key in ("observation_space", "tasks"):
        value = described if key == "observation_space" else [{"name": "cartpole-a", "action_space": described}]
        change_facts(stage, "stage.json", lambda f, key=key, value=value: f.update({key: value}))
        with pytest.raises(UserError, match="stage-01"):
            load_stage(stage, load_run_config(run))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["policy", "method"])
def test_weights_that_are_no_numbers_are_refused(run, number, name):
    stage = run / "checkpoints" / "stage-01"
    change_tensors(
        stage, f"{name}.safetensors", lambda t: next(v for v in t.values() if v.is_floating_point()).fill_(number)
    )
    with pytest.raises(UserError, match="not finite"):
        load_stage(stage, load_run_config(run))


@pytest.mark.parametrize("torch_looks", [True, False])  # compiling turns it off for the rest of the process
def test_weights_that_overflow_are_a_message(run, torch_looks, monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", torch_looks)
    stage = run / "checkpoints" / "stage-01"
    change_tensors(stage, "policy.safetensors", lambda t: [v.fill_(3e38) for v in t.values()])
    with pytest.raises(UserError, match="cannot play cartpole-a: its network gives values that are not finite"):
        evaluate_run(run, stages=[1])


def test_a_head_of_another_game_is_refused(run):
    stage = run / "checkpoints" / "stage-01"

    def widen(tensors):
        tensors["tasks.0.actor.weight"], tensors["tasks.0.actor.bias"] = torch.zeros(5, 16), torch.zeros(5)

    change_tensors(stage, "policy.safetensors", widen)
    change_facts(stage, "stage.json", lambda f: f["tasks"][0]["action_space"].update(n=5))
    with pytest.raises(UserError, match=r"chooses among Discrete\(5\), but the game takes Discrete\(2\)"):
        evaluate_run(run, stages=[1])


def test_another_games_observations_are_refused(run):
    stage = run / "checkpoints" / "stage-01"
    change_tensors(stage, "policy.safetensors", lambda t: t.update({"trunk.fc1.weight": torch.zeros(16, 5)}))
    change_tensors(
        stage,
        "method.safetensors",
        lambda t: [t.update({k: torch.zeros(16, 5, dtype=v.dtype)}) for k, v in list(t.items()) if v.shape == (16, 4)],
    )
    change_facts(stage, "stage.json", lambda f: f["observation_space"].update(shape=[5], low=["-1"], high=["1"]))
    with pytest.raises(UserError, match=r"observes float32 \(5,\), but 'cartpole-a' shows float32 \(4,\)"):
        evaluate_run(run, stages=[1])


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("fc1.weight.centre", torch.zeros(10_000)),
        ("fc1.weight.basis", torch.zeros(4, 5)),
        ("0.fc1.weight", torch.zeros(7, 7)),
        ("task1.observations", torch.zeros(3, 9)),
        ("task9.observations", torch.zeros(3, 4)),
        ("draws", torch.zeros(200_000)),
    ],
)
def test_what_a_method_keeps_must_fit_the_network(run, name, tensor):
    stage = run / "checkpoints" / "stage-01"
    change_tensors(stage, "method.safetensors", lambda t: t.update({name: tensor}))
    with pytest.raises(UserError, match=f"{name}.*|frames of"):
        load_stage(stage, load_run_config(run))


def test_a_file_with_a_hole_of_gigabytes_is_not_read(run, monkeypatch):
    path = run / "checkpoints" / "stage-01" / "policy.safetensors"
    with path.open("r+b") as file:
        file.truncate(10**12)
    read = []
    digest = atomic.file_digest
    monkeypatch.setattr(atomic, "file_digest", lambda file: read.append(file.name) or digest(file))
    with pytest.raises(UserError, match="not a safetensors file"):
        load_stage(path.parent, load_run_config(run))
    assert not read
    with pytest.raises(atomic.DamagedError, match="larger than this machine's memory"):
        atomic.check_folder(path.parent)
    assert path.name not in read


@pytest.mark.parametrize("name", ["stage-²", "stage-٣", "step-²"])
def test_digits_of_other_scripts_are_no_numbers(run, name):
    (run / "checkpoints" / name).mkdir()
    assert "stage 1" in evaluate_run(run, episodes=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["agent"]["random_numpy"].__setitem__(1, 10**9),  # numpy would read beyond its keys
        lambda f: f["agent"]["random_numpy"].__setitem__(0, "PCG64"),
        lambda f: f["agent"].update(steps=-1),
        lambda f: f["agent"].update(steps="many"),
        lambda f: f.update(stage=-3),
        lambda f: f.update(phase="dreaming"),
        lambda f: f.update(recipe='agent_name = "x"'),
        lambda f: f.update(tasks=[]),
        lambda f: f.update(format=1),
        lambda f: f.update(returns={"pong": [1, 2.0]}),
        lambda f: f.update(returns={"cartpole-a": [0, 2.0]}),
        lambda f: f.update(returns={"cartpole-a": [1]}),
        lambda f: f.update(returns={"cartpole-a": [1, "x"]}),
        lambda f: f.update(returns=[]),
    ],
)
def test_a_snapshot_of_absurd_facts_is_damaged(unfinished, change):
    snapshot = newest(unfinished)
    snapshots.load(snapshot)
    change_facts(snapshot, "snapshot.json", change)
    with pytest.raises(atomic.DamagedError, match=f"{snapshot.name}.*(cannot be read|recipe)"):
        snapshots.load(snapshot)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("optimizer.0.exp_avg", torch.zeros(())),  # a kernel would read beyond it
        ("optimizer.0.step", torch.zeros(3)),
        ("optimizer.9999.exp_avg", torch.zeros(3)),
        ("policy.trunk.fc1.bias", torch.zeros(3)),
        ("policy.trunk.fc1.bias", torch.zeros(16, dtype=torch.float64)),
    ],
)
def test_a_snapshot_of_another_agents_tensors_is_damaged(unfinished, name, tensor):
    snapshot = newest(unfinished)
    change_tensors(snapshot, "agent.safetensors", lambda t: t.update({name: tensor}))
    with pytest.raises(atomic.DamagedError, match=name):
        snapshots.load(snapshot)


@pytest.mark.parametrize(
    "actions", [np.full((3, 4), 7, np.uint8), np.zeros((3, 99), np.uint8), np.zeros((10**6, 4), np.uint8)]
)
def test_actions_that_no_game_takes_are_damaged(unfinished, actions):
    snapshot = newest(unfinished)
    key = next(name for name in load_file(snapshot / "games.safetensors") if name.startswith("actions"))
    change_tensors(snapshot, "games.safetensors", lambda t: t.update({key: torch.from_numpy(actions)}))
    with pytest.raises(atomic.DamagedError, match="actions"):
        snapshots.load(snapshot)


def test_a_fact_with_a_hole_of_gigabytes_is_told_by_its_length(unfinished):
    with (unfinished / "command.txt").open("r+b") as file:
        file.truncate(10**13)
    with pytest.raises(UserError, match=r"command\.txt' has changed"):
        train.resume(unfinished, threads=1, quiet=True)


def test_a_method_that_lacks_part_of_its_state_is_a_message(unfinished):
    for snapshot in (unfinished / "checkpoints").glob("step-*"):
        change_tensors(snapshot, "method.safetensors", lambda t: t.pop("fc2.weight.remainder"))
    with pytest.raises(UserError, match=r"no 'fc2\.weight\.remainder'"):
        train.resume(unfinished, threads=1, quiet=True)


def test_copies_are_counted_before_they_are_made(run):
    from blip_rl.methods.base import MethodState
    from blip_rl.methods.single import Single

    with pytest.raises(ValueError, match="copies in 1 tensors"):
        Single().load_state(MethodState({"0.a": torch.zeros(1)}, {"copies": 10**15}))


def test_a_folder_in_place_of_a_table_is_a_message(unfinished):
    (unfinished / "plasticity.csv").unlink()
    (unfinished / "plasticity.csv").mkdir()
    with pytest.raises((UserError, RunError)):
        train.resume(unfinished, threads=1, quiet=True)


def test_a_pipe_in_place_of_the_scores_is_not_waited_for(run):
    (run / "scores.csv").unlink()
    os.mkfifo(run / "scores.csv")
    with pytest.raises(UserError, match="pipe"):
        evaluate_run(run)


def test_too_many_episodes_are_a_message(run):
    with pytest.raises(UserError, match="episodes = 9007199254740992: input should be less than"):
        evaluate_run(run, episodes=2**53)


def printed(arguments, monkeypatch):
    """Run the program on an ASCII terminal; return its exit code and output."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors) for errors in ("strict", "backslashreplace")]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(f"sys.{name}", stream)
    monkeypatch.setattr("sys.argv", ["blip-rl", *arguments])
    with pytest.raises(SystemExit) as end:
        program.main()
    for stream in streams:
        stream.flush()
    return end.value.code, b"".join(stream.buffer.getvalue() for stream in streams).decode()


def test_a_folder_whose_name_is_no_text_can_be_looked_at(run, monkeypatch):
    odd = run.with_name("caf\udce9")
    run.rename(odd)
    code, text = printed(["inspect", str(odd)], monkeypatch)
    assert code == 0, text
    assert "caf\\udce9" in text


def test_what_a_file_says_cannot_command_a_terminal(run, monkeypatch):
    config = run / "config.toml"
    config.write_text(config.read_text().replace('agent_name = "blip"', 'agent_name = "\\u001b[2J\\u202e"'))
    code, text = printed(["inspect", str(run)], monkeypatch)
    assert code == 0
    assert "\\x1b[2J\\u202e learns" in text
    (run / "\x1b[2J").symlink_to("/")
    code, text = printed(["inspect", str(run)], monkeypatch)
    assert code == 2
    assert "\\x1b[2J' is a link" in text
    assert "\x1b" not in text


def test_a_name_too_long_for_the_system_is_bad_input(monkeypatch):
    code, text = printed(["inspect", "x" * 5_000], monkeypatch)
    assert code == 2
    assert "too long" in text
    assert len(text) < 300


def test_the_size_of_a_bounded_share_is_finite(run):
    text = (run / "config.toml").read_text()
    assert "periodic_share = 1.0" in text
    (run / "config.toml").write_text(text.replace("periodic_share = 1.0", "periodic_share = 1e308"))
    assert "stage 1" in evaluate_run(run, episodes=1)
