"""Untrusted run folders: every value is validated before it is used."""

import hashlib
import io
import json
import os
import shutil

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
def test_a_recipe_that_needs_too_much_memory_is_refused(run, setting, absurd, monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 20_000_000)
    recipe = run / "config.toml"
    text = recipe.read_text()
    assert text.count(setting)
    recipe.write_text(text.replace(setting, absurd))
    (run / "checkpoints" / "step-000000000001").mkdir()  # so that there is something to resume
    with pytest.raises(UserError, match=r"needs \S+ [MGT]B of memory"):
        train.resume(run, accept_changes=True, threads=1, quiet=True)


def test_a_network_that_needs_too_much_memory_is_not_built(run, monkeypatch):
    built = []
    monkeypatch.setattr(machine, "memory_bytes", lambda: 1_000)
    monkeypatch.setattr("blip_rl.storage.checkpoint._build_policy", lambda *_: built.append(1))
    with pytest.raises(UserError, match=r"stage-01' needs .* of memory \(.*the network"):
        load_stage(run / "checkpoints" / "stage-01", load_run_config(run))
    assert not built


@pytest.mark.parametrize(
    "described",
    [
        {"kind": "discrete", "n": 0, "start": 0},
        {"kind": "discrete", "n": 10**12, "start": 0},
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
def test_spaces_out_of_bounds_are_refused(run, described):
    stage = run / "checkpoints" / "stage-01"
    for key in ("observation_space", "tasks"):
        value = described if key == "observation_space" else [{"name": "cartpole-a", "action_space": described}]
        change_facts(stage, "stage.json", lambda f, key=key, value=value: f.update({key: value}))
        with pytest.raises(UserError, match="stage-01"):
            load_stage(stage, load_run_config(run))


def first_floats(tensors):
    return next(tensor for tensor in tensors.values() if tensor.is_floating_point())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("policy", lambda t: first_floats(t).fill_(float("nan")), "not finite"),
        ("method", lambda t: first_floats(t).fill_(float("inf")), "not finite"),
        ("method", lambda t: t.update({"fc1.weight.centre": torch.zeros(10_000)}), "fc1.weight.centre"),
        ("method", lambda t: t.update({"0.fc1.weight": torch.zeros(7, 7)}), "0.fc1.weight"),
        ("method", lambda t: t.update({"task9.observations": torch.zeros(3, 4)}), "task9.observations|frames of"),
        ("method", lambda t: t.update({"draws": torch.zeros(200_000)}), "draws|frames of"),
    ],
)
def test_tensors_that_do_not_fit_the_network_are_refused(run, file, change, message):
    stage = run / "checkpoints" / "stage-01"
    change_tensors(stage, f"{file}.safetensors", change)
    with pytest.raises(UserError, match=message):
        load_stage(stage, load_run_config(run))


@pytest.mark.parametrize("validation", [True, False])  # compiling disables torch's for the rest of the process
def test_weights_whose_outputs_overflow_are_refused(run, validation, monkeypatch):
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", validation)
    change_tensors(
        run / "checkpoints" / "stage-01", "policy.safetensors", lambda t: [v.fill_(3e38) for v in t.values()]
    )
    with pytest.raises(UserError, match="cannot play cartpole-a: its network gives values that are not finite"):
        evaluate_run(run, stages=[1])


def test_a_checkpoint_of_another_games_spaces_is_refused(run):
    stage, other = run / "checkpoints" / "stage-01", run / "checkpoints" / "stage-02"
    heads = {"tasks.0.actor.weight": torch.zeros(5, 16), "tasks.0.actor.bias": torch.zeros(5)}
    change_tensors(stage, "policy.safetensors", lambda t: t.update(heads))
    change_facts(stage, "stage.json", lambda f: f["tasks"][0]["action_space"].update(n=5))
    with pytest.raises(UserError, match=r"chooses among Discrete\(5\), but the game takes Discrete\(2\)"):
        evaluate_run(run, stages=[1])

    def widen(tensors):
        for name, tensor in tensors.items():
            if tensor.shape == (16, 4):
                tensors[name] = torch.zeros(16, 5, dtype=tensor.dtype)

    change_tensors(other, "policy.safetensors", widen)
    change_tensors(other, "method.safetensors", widen)
    change_facts(other, "stage.json", lambda f: f["observation_space"].update(shape=[5], low=["-1"], high=["1"]))
    with pytest.raises(UserError, match=r"observes float32 \(5,\), but 'cartpole-a' shows float32 \(4,\)"):
        evaluate_run(run, stages=[2])


def test_a_sparse_file_of_a_terabyte_is_not_read(run, monkeypatch):
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


def first_actions(tensors):
    return next(name for name in tensors if name.startswith("actions"))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("snapshot.json", lambda f: f["agent"]["random_numpy"].__setitem__(1, 10**9), ""),  # numpy would read beyond
        ("snapshot.json", lambda f: f["agent"]["random_numpy"].__setitem__(0, "PCG64"), ""),
        ("snapshot.json", lambda f: f["agent"].update(steps=-1), ""),
        ("snapshot.json", lambda f: f.update(phase="dreaming"), ""),
        ("snapshot.json", lambda f: f.update(recipe='agent_name = "x"'), "recipe"),
        ("snapshot.json", lambda f: f.update(tasks=[]), ""),
        ("snapshot.json", lambda f: f.update(format=1), ""),
        ("snapshot.json", lambda f: f.update(returns={"pong": [1, 2.0]}), ""),
        ("snapshot.json", lambda f: f.update(returns={"cartpole-a": [0, 2.0]}), ""),
        ("snapshot.json", lambda f: f.update(returns={"cartpole-a": [1, "x"]}), ""),
        # Adam's kernel would read beyond its end.
        ("agent.safetensors", lambda t: t.update({"optimizer.0.exp_avg": torch.zeros(())}), "optimizer.0.exp_avg"),
        ("agent.safetensors", lambda t: t.update({"optimizer.9999.step": torch.zeros(())}), "optimizer.9999"),
        ("agent.safetensors", lambda t: t.update({"policy.trunk.fc1.bias": torch.zeros(3)}), "fc1.bias"),
        ("agent.safetensors", lambda t: t.update({"policy.trunk.fc1.bias": torch.zeros(16).double()}), "fc1.bias"),
        ("games.safetensors", lambda t: t[first_actions(t)].fill_(7), "actions"),
        ("games.safetensors", lambda t: t.update({first_actions(t): torch.zeros(3, 99).byte()}), "actions"),
        ("games.safetensors", lambda t: t.update({first_actions(t): torch.zeros(10**6, 4).byte()}), "actions"),
    ],
)
def test_a_snapshot_with_values_out_of_bounds_is_damaged(unfinished, file, change, message):
    snapshot = newest(unfinished)
    (change_facts if file.endswith("json") else change_tensors)(snapshot, file, change)
    with pytest.raises(atomic.DamagedError, match=message or rf"{snapshot.name}.*cannot be read"):
        snapshots.load(snapshot)


def test_a_sparse_command_file_is_recognised_by_its_length(unfinished):
    with (unfinished / "command.txt").open("r+b") as file:
        file.truncate(10**13)
    with pytest.raises(UserError, match=r"command\.txt' has changed"):
        train.resume(unfinished, threads=1, quiet=True)


def test_an_incomplete_state_of_the_method_is_refused(unfinished):
    for snapshot in (unfinished / "checkpoints").glob("step-*"):
        change_tensors(snapshot, "method.safetensors", lambda t: t.pop("fc2.weight.remainder"))
    with pytest.raises(UserError, match=r"no 'fc2\.weight\.remainder'"):
        train.resume(unfinished, threads=1, quiet=True)


def test_a_folder_in_place_of_a_table_is_refused(unfinished):
    (unfinished / "plasticity.csv").unlink()
    (unfinished / "plasticity.csv").mkdir()
    with pytest.raises((UserError, RunError)):
        train.resume(unfinished, threads=1, quiet=True)


def test_a_pipe_in_place_of_the_scores_is_refused(run):
    (run / "scores.csv").unlink()
    os.mkfifo(run / "scores.csv")
    with pytest.raises(UserError, match="pipe"):
        evaluate_run(run)


def test_extreme_settings_are_evaluated_or_refused(run):
    (run / "checkpoints" / "stage-²").mkdir()  # isdigit() is true of it
    text = (run / "config.toml").read_text()
    assert "periodic_share = 1.0" in text
    (run / "config.toml").write_text(text.replace("periodic_share = 1.0", "periodic_share = 1e308"))
    assert "stage 1" in evaluate_run(run, episodes=1).text
    with pytest.raises(UserError, match="episodes = 9007199254740992: input should be"):
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


def test_a_folder_whose_name_is_not_utf8_can_be_inspected(run, monkeypatch):
    odd = run.with_name("caf\udce9")
    run.rename(odd)
    code, text = printed(["inspect", str(odd)], monkeypatch)
    assert code == 0, text
    assert "caf\\udce9" in text


def test_control_characters_of_a_file_are_escaped(run, monkeypatch):
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
