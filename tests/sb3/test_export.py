"""Exported agents give the same probabilities, values and episodes as the originals, without blip_rl installed."""

import base64
import json
import pickletools
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from gymnasium.spaces import Box, Discrete
from stable_baselines3 import PPO

from blip_rl.cli import cli
from blip_rl.errors import UserError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.learner.policy import ContinualPolicy
from blip_rl.methods import make_method
from blip_rl.recipes import dump_run_config, load_run_config, resolve
from blip_rl.run.train import train
from blip_rl.sb3.export import export_run, usage
from blip_rl.sb3.export_model import plain_ppo, standalone
from blip_rl.storage.checkpoint import load_stage, save_stage
from blip_rl.storage.run_folder import RunFolder
from blip_rl.tasks.control import orthogonal_matrix
from blip_rl.tasks.make import make_evaluation_env
from blip_rl.tasks.seeds import FIRST_EVALUATION_SEED
from tests.small_runs import small_config

SMALL_IMAGE = ("trunk.image.conv=[[8, 8, 4], [12, 4, 2], [6, 3, 1]]", "trunk.image.hidden=[32, 24]")
FRAMES, VECTOR = Box(0, 255, (4, 84, 84), np.uint8), Box(-2, 2, (5,), np.float32)
BOX_ACTIONS = Box(-1, 1, (3,), np.float32)


def agent_of(observations, actions, *overrides):
    """A policy of two tasks with random weights, scales and shifts, and its recipe."""
    config = resolve("pong", "blip", overrides=[*SMALL_IMAGE, "trunk.vector.hidden=[16, 12]", *overrides])
    policy = ContinualPolicy(observations, actions, lambda _: 0.0, trunk=config.agent.trunk)
    for name in ("first", "second"):
        policy.add_task(name, actions)
    for name, tensor in policy.task_state().items():
        drawn = torch.randn_like(tensor)
        tensor.copy_(1 + 0.3 * drawn if name.endswith("scale") else 0.2 * drawn)
    return policy, config


def seen(space):
    drawn = np.random.default_rng(0).random((20, *space.shape))
    return (255 * drawn).astype(np.uint8) if space.dtype == np.uint8 else drawn.astype(np.float32)


def both(policy, task, model, observations):
    """Return (probabilities, or means and deviations; values) of both policies."""
    with torch.no_grad():
        mine, values = policy.outputs_of(task, torch.from_numpy(observations))
        tensor, _ = model.policy.obs_to_tensor(observations)
        theirs = model.policy.get_distribution(tensor).distribution
        their_values = model.policy.predict_values(tensor).flatten()
    kind = "probs" if hasattr(mine, "probs") else "loc"
    pairs = [(getattr(mine, kind), getattr(theirs, kind)), (values, their_values)]
    return pairs if kind == "probs" else [*pairs, (mine.scale, theirs.scale)]


@pytest.mark.parametrize(
    ("observations", "actions", "overrides"),
    [
        (FRAMES, Discrete(6), ()),
        (FRAMES, Discrete(6), ("trunk.image.activation=elu",)),
        (FRAMES, Discrete(6), ("trunk.task_modulation=false", "ppo.learning_rate_schedule=constant")),
        (Box(0, 255, (2, 30, 30), np.uint8), Discrete(18), ("trunk.image.conv=[[8, 8, 4]]",)),
        (FRAMES, BOX_ACTIONS, ("trunk.image.activation=tanh",)),
        (VECTOR, Discrete(3), ()),
        (VECTOR, Discrete(3), ("trunk.vector.activation=silu", "ppo.clip_range_value=none")),
        (VECTOR, BOX_ACTIONS, ()),
    ],
)
def test_an_exported_agent_has_the_same_probabilities_and_values(observations, actions, overrides, tmp_path):
    task = 2
    policy, config = agent_of(observations, actions, *overrides)
    plain_ppo(standalone(policy, task), observations, actions, config.agent.ppo, 123).save(tmp_path / "x.zip")
    model = PPO.load(tmp_path / "x.zip", device="cpu")
    assert (model.num_timesteps, model.observation_space, model.action_space) == (123, observations, actions)
    for mine, theirs in both(policy, task, model, seen(observations)):
        assert mine.std() > 0.001 or mine.requires_grad or len(mine.unique()) < 4
        torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "again.zip")  # as a user may
    again = PPO.load(tmp_path / "again.zip", device="cpu")
    for mine, theirs in both(policy, task, again, seen(observations)):
        torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)


def normalized_agent(actions):
    """A policy of one task with normalised observations, and its recipe."""
    config = resolve("cartpole-a", "blip", overrides=["trunk.vector.hidden=[16, 12]", "normalize_observations=true"])
    policy = ContinualPolicy(VECTOR, actions, lambda _: 0.0, trunk=config.agent.trunk, normalization=config)
    policy.add_task("first", actions)
    policy.use_task("first")
    for parameter in policy.current.actor.parameters():
        parameter.data.normal_()
    policy.current.normalizer.update(torch.from_numpy(seen(VECTOR)) * torch.tensor([1, 0.001, 100, 1, 1]) + 3)
    return policy, config


@pytest.mark.parametrize("actions", [Discrete(3), BOX_ACTIONS])
@pytest.mark.parametrize("mix", [None, 4])
def test_an_exported_agent_normalises_its_observations(actions, mix, tmp_path):
    policy, config = normalized_agent(actions)
    matrix = torch.eye(5) if mix is None else torch.from_numpy(orthogonal_matrix(5, mix)).float()
    exported = standalone(policy, 1, None if mix is None else matrix)
    plain_ppo(exported, VECTOR, actions, config.agent.ppo, 0).save(tmp_path / "x.zip")
    PPO.load(tmp_path / "x.zip", device="cpu").save(tmp_path / "again.zip")
    model = PPO.load(tmp_path / "again.zip", device="cpu")
    states = 4 * seen(VECTOR)
    inputs = policy.preprocess(torch.from_numpy(states) @ matrix.T)
    assert (inputs.abs() == 10).any()
    assert (inputs.abs() < 1).any()
    with torch.no_grad():
        mine, values = policy.outputs_of(1, torch.from_numpy(states) @ matrix.T)
        tensor, _ = model.policy.obs_to_tensor(states)
        theirs = model.policy.get_distribution(tensor).distribution
    kind = "logits" if hasattr(mine, "logits") else "loc"
    torch.testing.assert_close(getattr(theirs, kind), getattr(mine, kind), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.policy.predict_values(tensor).flatten(), values, rtol=1e-3, atol=1e-3)


PUBLIC = {
    "images": lambda: agent_of(FRAMES, Discrete(3)),
    "vectors": lambda: agent_of(VECTOR, Discrete(3)),
    "normalised": lambda: normalized_agent(Discrete(3)),
}


@pytest.mark.parametrize("kind", PUBLIC)
def test_a_file_refers_to_public_classes_only(kind, tmp_path):
    """The file contains no bytecode: it would depend on the Python version and could not be reviewed."""
    policy, config = PUBLIC[kind]()
    space = policy.observation_space
    plain_ppo(standalone(policy, 1), space, Discrete(3), config.agent.ppo, 0).save(tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        facts = json.loads(archive.read("data"))
    pickles = [base64.b64decode(v[":serialized:"]) for v in facts.values() if isinstance(v, dict) and ":type:" in v]
    words = [word for text in pickles for _, word, _ in pickletools.genops(text) if isinstance(word, str)]
    assert "stable_baselines3.common.policies" in words
    assert not [
        word for word in words if "blip" in word or "cloudpickle" in word or word in {"exec", "eval", "CodeType"}
    ]


# Whole runs of two games with a small network, played where blip_rl cannot be imported.

BLOCKED = """
import sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "blip_rl":
            raise ImportError(name)
sys.meta_path.insert(0, Refusing())
try:
    import blip_rl
except ImportError:
    pass
else:
    raise SystemExit("blip_rl is there")
from stable_baselines3 import PPO
predict, played = PPO.predict, []
def noted(self, *args, **options):
    actions, state = predict(self, *args, **options)
    played.append(int(actions.item()))
    return actions, state
PPO.predict = noted
"""


def play_elsewhere(usage, cwd):
    """Run the printed code without blip_rl; return its score and actions."""
    code = f"{BLOCKED}\n{usage}\nprint(played)"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    score, actions = done.stdout.splitlines()
    return float(score), json.loads(actions)


def play_here(run, stage, task_name):
    """Return score and actions of the first evaluation episode of the original agent."""
    config = load_run_config(run)
    loaded = load_stage(RunFolder(run).stage_path(stage), config)
    method = make_method(config.agent.method)
    method.load_state(loaded.method_state)
    task = next(task for task in config.tasks if task.name == task_name)
    env = make_evaluation_env(task, config.atari, 1, FIRST_EVALUATION_SEED + config.evaluation.seed)
    number = loaded.policy.task_names.index(task_name) + 1
    observations, score, actions, over = env.reset(), 0.0, [], False
    with loaded.policy.using_task(task_name), method.playing(loaded.policy.trunk, number):
        while not over:
            chosen = loaded.policy.act(observations, greedy=True)
            observations, rewards, dones, _ = env.step(chosen)
            actions.append(int(chosen[0]))
            score, over = score + float(rewards[0]), bool(dones[0])
    env.close()
    return score, actions


@pytest.fixture(scope="module")
def atari_run(tmp_path_factory):
    """A run of two games with an untrained agent; episodes are truncated after 300 steps."""
    path = tmp_path_factory.mktemp("atari") / "run"
    overrides = [*SMALL_IMAGE, "atari.max_episode_frames=1200", "evaluation.episodes=1"]
    config = resolve("boxing,pong", "finetune", overrides=[*overrides, "trunk.task_modulation=true"])
    spaces = [make_evaluation_env(task, config.atari, 1, 0) for task in config.tasks]
    policy = ContinualPolicy(FRAMES, spaces[0].action_space, lambda _: 0.0, trunk=config.agent.trunk)
    for task, env in zip(config.tasks, spaces, strict=True):
        policy.add_task(task.name, env.action_space)
    for name, tensor in policy.task_state().items():
        tensor.add_(torch.randn_like(tensor) * (0.5 if "actor" in name else 0.05))
    folder = RunFolder.planned(path)
    folder.create(dump_run_config(config), "cpu", {})
    save_stage(folder.stage_path(2), 2, 1000, policy, make_method(config.agent.method))
    return path


def test_an_atari_episode_is_the_same_without_blip_rl(atari_run, tmp_path):
    game = "boxing"
    result = CliRunner().invoke(cli, ["export", str(atari_run), "--games", game, "--out", str(tmp_path / "agent.zip")])
    assert result.exit_code == 0, result.output
    usage = result.stdout[result.stdout.index("from ale_py") :]
    score, actions = play_elsewhere(usage, tmp_path)
    assert len(set(actions)) > 1
    assert (score, actions) == play_here(atari_run, 2, game)


def test_the_printed_code_plays_the_mode_that_was_learned(monkeypatch):
    class Agent:
        def predict(self, observation, deterministic):
            assert (observation.shape, observation.dtype) == ((4, 84, 84), np.uint8)
            return np.array(1), None

    config = resolve("freeway-modes", "finetune", overrides=["atari.max_episode_frames=100"])
    task = config.tasks[1].model_copy(update={"difficulty": 1})
    code = usage(Path("agent.zip"), task, config)
    assert task.mode
    assert f"mode={task.mode}, difficulty=1" in code
    monkeypatch.setattr(PPO, "load", lambda file, device: Agent())
    names = {}
    exec(code, names)
    assert names["cut"]
    assert (names["emulator"]._game_mode, names["emulator"]._game_difficulty) == (task.mode, 1)


def check_trained(run, exported):
    """Probabilities and values of every task on observations of the plain game."""
    config = load_run_config(run)
    stage = load_stage(RunFolder(run).stage_path(2), config)
    method = make_method(config.agent.method)
    method.load_state(stage.method_state)
    states = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    for number, (task, one) in enumerate(zip(config.tasks, exported, strict=True), start=1):
        mix = np.eye(4) if task.observation_mix_seed is None else orthogonal_matrix(4, task.observation_mix_seed)
        model = PPO.load(one.file, device="cpu")
        with method.playing(stage.policy.trunk, number), torch.no_grad():
            mine, values = stage.policy.outputs_of(number, torch.from_numpy((states @ mix.T).astype(np.float32)))
            tensor, _ = model.policy.obs_to_tensor(states)
            theirs = model.policy.get_distribution(tensor).distribution
            torch.testing.assert_close(theirs.probs, mine.probs, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model.policy.predict_values(tensor).flatten(), values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("agent", ["blip", "packnet"])
def test_a_trained_agent_plays_the_same_episode_without_blip_rl(agent, tmp_path):
    """CartPole with mixed observations; ``packnet`` uses different trunk weights for each task, and is normalised."""
    more = ("method.tasks=2", "normalize_observations=true") if agent == "packnet" else ()
    run = train(small_config(agent, overrides=more), out=tmp_path / "run", threads=1, quiet=True)
    exported = export_run(run, out=tmp_path / 'it\'s "new"\n\\n')  # the printed code quotes the path
    assert [(e.file.name, e.stage) for e in exported] == [
        ("stage-02-cartpole-a.zip", 2),
        ("stage-02-cartpole-b.zip", 2),
    ]
    assert play_elsewhere(exported[0].usage, tmp_path) == play_here(run, 2, "cartpole-a")
    check_trained(run, exported)
    table = evaluate_run(run, stages=[2], episodes=1).text
    assert f"{play_here(run, 2, 'cartpole-a')[0]:.1f}" in table


def test_exports_are_written_to_the_run_folder_or_to_out(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (one,) = export_run(run, stage=1, out=tmp_path / "agents")
    assert one.file == tmp_path / "agents" / "stage-01-cartpole-a.zip"
    assert [e.file.parent for e in export_run(run)] == [run / "export"] * 2
    assert export_run(run, games=["cartpole-b"], out=tmp_path / "AGENT.ZIP")[0].file == tmp_path / "AGENT.ZIP"
    assert not list(run.glob("export/.*"))


def test_a_failed_export_keeps_the_existing_file(finished_run, tmp_path, monkeypatch):
    (one,) = export_run(finished_run, stage=1, out=tmp_path / "agents")
    before = one.file.read_bytes()

    def fail(self, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PPO, "save", fail)
    with pytest.raises(OSError, match="No space"):
        export_run(finished_run, stage=1, out=tmp_path / "agents")
    assert [path.name for path in one.file.parent.iterdir()] == [one.file.name]
    assert one.file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--out foo.tar", ["'foo.tar' ends in .tar: expected a folder", "a new .zip file"]),
        ("--games cartpole-a --out foo.tar.GZ", ["ends in .GZ"]),
        ("--out new.zip", ["one file", "2 games", "cartpole-a, cartpole-b"]),
        ("--games cartpole-a --out there.zip", ["'there.zip' exists"]),
        ("--out there.zip/x", ["'there.zip/x'", "is not a writable folder"]),
        ("--stage 3", ["stage 3", "1, 2"]),
        ("--stage 1 --games cartpole-b", ["'cartpole-b'", "not been learned by stage 1", "cartpole-a"]),
        ("--games cartpole-c", ["never saw 'cartpole-c'", "did you mean"]),
    ],
)
def test_export_refuses(options, parts, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.zip").write_text("mine")
    result = CliRunner().invoke(cli, ["export", str(finished_run), *options.split()])
    assert result.exit_code == 2, result.output
    assert all(part in result.stderr for part in parts), result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.zip"]


def edited(finished_run, tmp_path, old, new):
    """A copy of a run with a modified recipe."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    text = (run / "config.toml").read_text()
    assert old in text
    (run / "config.toml").write_text(text.replace(old, new))
    return run


@pytest.mark.parametrize("game", ["Pendulum-v1", "Acrobot-v1", "pong"])
def test_an_agent_that_does_not_fit_its_game_is_refused_before_anything_is_written(game, finished_run, tmp_path):
    run = edited(
        finished_run, tmp_path, 'name = "cartpole-b"\ngame = "CartPole-v1"', f'name = "cartpole-b"\ngame = "{game}"'
    )
    result = CliRunner().invoke(cli, ["export", str(run)])
    assert result.exit_code == 2, result.output
    assert "another run's checkpoint" in result.stderr
    assert not (run / "export").exists()


def test_an_agent_with_layer_normalisation_is_refused_before_anything_is_written(finished_run, tmp_path):
    run = edited(finished_run, tmp_path, 'normalization = "none"', 'normalization = "layer"')
    result = CliRunner().invoke(cli, ["export", str(run)])
    assert result.exit_code == 2, result.output
    assert "has trunk.normalization = 'layer': expected 'none'" in result.stderr
    assert not (run / "export").exists()


@pytest.mark.parametrize("where", ["export", "export/stage-02-cartpole-b.zip"])
def test_an_output_path_of_another_kind_is_refused_before_writing(where, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / where).parent.mkdir(exist_ok=True)
    (run / where).write_text("mine") if where == "export" else (run / where).mkdir()
    result = CliRunner().invoke(cli, ["export", str(run)])
    assert result.exit_code == 2, result.output
    assert f"{where}' is a f" in result.stderr
    assert not (run / "export" / "stage-02-cartpole-a.zip").exists()


def test_a_link_at_the_output_path_is_replaced_and_not_followed(finished_run, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "stage-01-cartpole-a.zip").symlink_to("../mine")
    (one,) = export_run(finished_run, stage=1, out=tmp_path / "agents")
    assert not one.file.is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"
    (tmp_path / "new.zip").symlink_to("nowhere")
    with pytest.raises(UserError, match="exists"):
        export_run(finished_run, stage=1, out=tmp_path / "new.zip")


def test_agents_that_overflow_float32_are_refused(finished_run, tmp_path):
    """A product of finite factors can overflow."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    config = load_run_config(run)
    stage = load_stage(RunFolder(run).stage_path(1), config)
    with torch.no_grad():
        stage.policy.tasks[0].modulations[0].scale.fill_(1e30)
        for parameter in stage.policy.trunk.parameters():
            parameter.fill_(1e10)
    shutil.rmtree(RunFolder(run).stage_path(1))
    save_stage(RunFolder(run).stage_path(1), 1, 1, stage.policy, make_method({"name": "finetune"}))
    (run / "config.toml").write_text(
        dump_run_config(small_config("finetune", overrides=["trunk.task_modulation=true"]))
    )
    with pytest.raises(UserError, match="not finite"):
        export_run(run, stage=1)
    assert not list(run.glob("export/*"))
