"""A small run: its files, the order of events, and rejected input."""

import csv
import json

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from stable_baselines3.common.callbacks import BaseCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from blip_rl.errors import UserError
from blip_rl.evaluation.rescore import evaluate_run
from blip_rl.methods.blip import Blip
from blip_rl.recipes import load_run_config
from blip_rl.run import train as train_module
from blip_rl.run.device import cpu_threads, resolve_device
from blip_rl.run.train import train
from blip_rl.storage.run_folder import RunFolder
from tests.small_runs import small_config


@pytest.fixture(scope="module")
def events(finished_run):
    accumulator = EventAccumulator(str(finished_run), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_folder_holds_recipe_command_and_environment(finished_run):
    names = {p.name for p in finished_run.iterdir()}
    assert {"config.toml", "command.txt", "environment.json", "scores.csv", "bits.csv", "checkpoints"} <= names
    assert load_run_config(finished_run) == small_config()
    environment = json.loads((finished_run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["device"] == resolve_device("auto")
    assert environment["seeds"]["run"] == 0
    assert len(environment["seeds"]["first_training_seed_of_each_stage"]) == 2


def test_scores_hold_every_evaluation(finished_run):
    found = {}
    for row in rows(finished_run / "scores.csv"):
        key = (int(row["env_steps"]), int(row["stage"]), row["phase"], row["task"])
        found.setdefault(key, []).append(int(row["seed"]) - 1_000_003)
    assert found == {
        (0, 1, "start", "cartpole-a"): [0, 1, 2],
        (512, 1, "periodic", "cartpole-a"): [0, 1, 2],
        (1024, 1, "before", "cartpole-a"): [0, 1, 2],
        (1024, 1, "after", "cartpole-a"): [0, 1, 2],
        (1024, 2, "start", "cartpole-b"): [0, 1, 2],
        (1536, 2, "periodic", "cartpole-a"): [0, 1, 2],
        (1536, 2, "periodic", "cartpole-b"): [0, 1, 2],
        (2048, 2, "before", "cartpole-a"): [0, 1, 2],
        (2048, 2, "before", "cartpole-b"): [0, 1, 2],
        (2048, 2, "after", "cartpole-a"): [0, 1, 2],
        (2048, 2, "after", "cartpole-b"): [0, 1, 2],
    }


def test_bits_are_the_checkpoints_bits(finished_run):
    for stage in (1, 2):
        saved = load_file(finished_run / "checkpoints" / f"stage-{stage:02d}" / "method.safetensors")
        counted = {}
        for row in rows(finished_run / "bits.csv"):
            if int(row["stage"]) == stage:
                counted.setdefault(f"{row['layer']}.{row['parameter']}", {})[int(row["frozen_bits"])] = int(
                    row["count"]
                )
        for name, histogram in counted.items():
            values, counts = np.unique(saved[f"{name}.frozen_bits"], return_counts=True)
            assert histogram == dict(zip(values.tolist(), counts.tolist(), strict=True))
        assert set(counted) == {f"fc{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}


def test_tensorboard_has_the_tags_on_one_axis(events):
    tags = set(events.Tags()["scalars"])
    wanted = {
        "continual/accumulated_normalised_reward",
        "continual/acc",
        "continual/bwt",
        "eval/cartpole-a/return",
        "eval/cartpole-b/normalised",
        "bits/fc1/mean_frozen",
        "time/steps_per_second",
        "train/learning_rate",
        "bits/mean_frozen",
    }
    assert wanted <= tags
    steps = [event.step for event in events.Scalars("train/learning_rate")]
    assert steps == sorted(steps)
    assert steps[-1] == 2048
    assert [e.step for e in events.Scalars("eval/cartpole-a/return")] == [0, 512, 1024, 1536, 2048]
    assert "bits/fc1/histogram" in events.Tags()["histograms"]


def test_the_learning_rate_starts_anew_with_each_task(events):
    rates = {event.step: event.value for event in events.Scalars("train/learning_rate")}
    full = pytest.approx(small_config().agent.ppo.learning_rate)
    assert max(rates.values()) == full
    assert [step for step, rate in rates.items() if rate == full] == [128, 1152]
    assert min(rates.values()) > 0


def test_bits_are_frozen_from_the_first_boundary_on(events):
    values = {event.step: event.value for event in events.Scalars("bits/fc1/mean_frozen")}
    assert all(value == 0 for step, value in values.items() if step < 1024)
    assert all(value > 1 for step, value in values.items() if step >= 1024)


def test_tensorboard_has_a_heatmap_of_every_layer(tmp_path):
    overrides = ("trunk.image.conv=[[4, 8, 8], [4, 3, 2]]", "trunk.image.hidden=[8]", "evaluation.episodes=1")
    config = small_config(
        games="boxing", steps="128", overrides=(*overrides, "evaluation.max_episode_steps=5", "method.fisher_samples=8")
    )
    events = EventAccumulator(str(train(config, out=tmp_path / "run", threads=1, quiet=True)))
    events.Reload()
    images = {tag for tag in events.Tags()["images"] if "heatmap" in tag}
    assert images == {"bits/conv1/heatmap", "bits/conv2/heatmap", "bits/fc1/heatmap"}


def test_games_are_recorded_at_the_end_of_each_task_if_asked(tmp_path):
    config = small_config(steps="256", overrides=("evaluation.gifs=true", "evaluation.episodes=1"))
    events = EventAccumulator(str(train(config, out=tmp_path / "run", threads=1, quiet=True)))
    events.Reload()
    videos = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"] if "games/" in tag}
    assert videos == {"games/cartpole-a": [256, 512], "games/cartpole-b": [512]}


def test_the_end_of_a_task_happens_in_order(tmp_path, monkeypatch):
    happened = []
    book, blip = train_module.ScoreBook, Blip
    monkeypatch.setattr(
        book, "record", lambda self, played, stage, phase, steps: happened.append((phase, stage, len(played)))
    )
    end = blip.end_task
    monkeypatch.setattr(blip, "end_task", lambda self, task: happened.append(("consolidate",)) or end(self, task))
    save = train_module.save_stage
    monkeypatch.setattr(train_module, "save_stage", lambda *a: happened.append(("save", a[1])) or save(*a))
    monkeypatch.setattr(train_module, "boundary_line", lambda *a: "")
    monkeypatch.setattr(train_module, "closing_text", lambda *a: "")
    config = small_config(steps="256", overrides=("evaluation.every_steps=1M",))
    train(config, out=tmp_path / "run", threads=1, quiet=True)
    assert happened == [
        event
        for number in (1, 2)
        for event in (("before", number, number), ("consolidate",), ("after", number, number), ("save", number))
    ]


def test_rounded_weights_are_scored_before_and_after_consolidation(tmp_path):
    """With rounding, consolidation changes the weights, so the episodes after it are played again."""
    overrides = ("method.round_after_task=true", "method.first_task_bits=1", "method.first_task_drift=none")
    config = small_config(games="cartpole-a", overrides=overrides, steps="4096")
    path = train(config, out=tmp_path / "r", threads=1, quiet=True)
    scores = {
        phase: [r["return"] for r in rows(path / "scores.csv") if r["phase"] == phase] for phase in ("before", "after")
    }
    assert scores["before"] != scores["after"]


class Dots(gymnasium.Env):
    """Images with channels last, as in most Gymnasium environments."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.low.copy(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.high.copy(), float(action), self.steps == 9, False, {}


def test_image_observations_of_any_gymnasium_id_are_learned(tmp_path):
    gymnasium.register("BlipTestDots-v0", entry_point=Dots)
    try:
        overrides = ("trunk.image.conv=[[4, 8, 4]]", "trunk.image.hidden=[8]")
        config = small_config("finetune", games="BlipTestDots-v0", steps="256", overrides=overrides)
        path = train(config, out=tmp_path / "run", threads=1, quiet=True)
        assert {r["length_steps"] for r in rows(path / "scores.csv")} == {"9"}
        assert "learned BlipTestDots-v0" in evaluate_run(path).text
    finally:
        del gymnasium.registry["BlipTestDots-v0"]


@pytest.mark.parametrize("dtype", [bool, np.uint16])
def test_observations_that_a_checkpoint_cannot_describe_are_refused(dtype, tmp_path):
    """The run would train to its end, and then could be neither resumed nor evaluated."""

    class Flags(Dots):
        observation_space = gymnasium.spaces.Box(0, 1, (4,), dtype)

    gymnasium.register("BlipTestFlags-v0", entry_point=Flags, disable_env_checker=True)
    try:
        with pytest.raises(UserError, match=f"observations of type {np.dtype(dtype)}: expected one of uint8, "):
            train(small_config("finetune", games="BlipTestFlags-v0"), out=tmp_path / "run", threads=1, quiet=True)
        assert not (tmp_path / "run").exists()
    finally:
        del gymnasium.registry["BlipTestFlags-v0"]


def test_unseen_tasks_are_scored_only_when_asked(tmp_path):
    overrides = ("evaluation.unseen_tasks=true", "evaluation.every_steps=1M")
    path = train(small_config(overrides=overrides, steps="256"), out=tmp_path / "r", threads=1, quiet=True)
    seen = {(r["stage"], r["task"]) for r in rows(path / "scores.csv")}
    assert ("1", "cartpole-b") in seen


@pytest.mark.parametrize(
    ("games", "override", "message"),
    [("boxing", "atari.frame_size=20", "kernel"), ("Pendulum-v1", "method.fisher_expectation=exact", "sampled")],
)
def test_what_cannot_be_learned_is_refused_before_anything_is_written(games, override, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train(small_config(games=games, overrides=(override,)), out=tmp_path / "run", threads=1, quiet=True)
    assert not (tmp_path / "run").exists()


def test_continuous_actions_are_learned_without_normalised_scores(tmp_path):
    """Pendulum-v1, with fine-tuning: no bits are frozen and the method keeps nothing."""
    config = small_config("finetune", games="Pendulum-v1", steps="256")
    path = train(config, out=tmp_path / "run", threads=1, quiet=True)
    assert {row["normalised"] for row in rows(path / "scores.csv")} == {""}
    assert rows(path / "bits.csv") == []
    assert load_file(path / "checkpoints" / "stage-01" / "method.safetensors") == {}


@pytest.mark.parametrize(
    ("asked", "device", "expected"), [(0, "cpu", 0), (3, "cpu", 3), (0, "cuda", 1), (0, "cuda:1", 1), (4, "cuda", 4)]
)
def test_training_on_a_gpu_uses_one_cpu_thread_by_default(asked, device, expected):
    assert cpu_threads(asked, device) == expected


def test_returns_of_a_stage_that_a_callback_stops_belong_to_that_stage(tmp_path):
    """They were written under the next stage, and those of the last one not at all."""

    class Stop(BaseCallback):
        def _on_training_start(self):
            self.began = self.num_timesteps

        def _on_step(self):
            self.ended = any("episode" in info for info in self.locals["infos"])
            return not (self.ended and self.num_timesteps - self.began > 200 and self.num_timesteps % 128)

    run = train(small_config("finetune"), out=tmp_path / "run", threads=1, quiet=True, callback=Stop())
    rows = RunFolder(run).read_returns()
    assert {(row.stage, row.task) for row in rows} == {(1, "cartpole-a"), (2, "cartpole-b")}
    assert all(row.env_steps % 128 for row in rows if row.env_steps > 200), "in the middle of a rollout"
