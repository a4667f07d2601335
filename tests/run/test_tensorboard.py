"""TensorBoard output: one event file, Custom Scalars layout, HParams, images."""

import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from stable_baselines3.common.logger import Logger, configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from blip_rl.console import Console
from blip_rl.evaluation.cells import Cell
from blip_rl.evaluation.episodes import EpisodeActions
from blip_rl.run.tensorboard import hyperparameters, layout, log_method_metrics, metric_tags, overall_mean
from blip_rl.tracking.events import EventFile
from blip_rl.video import render, tensorboard
from blip_rl.video.options import RenderOptions
from blip_rl.video.tensorboard import log_boundary_gifs
from tests.small_runs import small_config


@pytest.fixture(scope="module")
def events(finished_run):
    accumulator = EventAccumulator(str(finished_run), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def matching(expressions, tags):
    return [tag for tag in tags if any(re.match(expression, tag) for expression in expressions)]


def shown_layout(events):
    (message,) = events.Tensors("custom_scalars__config__")
    shown = layout_pb2.Layout()
    shown.ParseFromString(message.tensor_proto.string_val[0])
    return {(page.title, chart.title): list(chart.multiline.tag) for page in shown.category for chart in page.chart}


def test_metrics_of_the_prior_are_in_the_events_and_in_the_checkpoint(events, finished_run):
    first = json.loads((finished_run / "checkpoints" / "stage-01" / "stage.json").read_text())["method"]["first_task"]
    for tag, name in (("fisher_prior", "prior"), ("informed_bits", "informed_bits"), ("drift", "drift")):
        values = [event.value for event in events.Scalars(f"method/{tag}")]
        assert values[0] == pytest.approx(first[name])
    assert len(events.Scalars("method/fisher_prior")) == 2


def test_metrics_of_the_method_are_printed_without_those_of_layers(capsys):
    figures = {"fisher_prior": 1.2345e-16, "mean_frozen_bits": 2.0, "without_information/fc1.weight": 0.5}
    log_method_metrics(configure(None, []), Console(quiet=False), "pong", figures)
    assert capsys.readouterr().out == "consolidated pong: fisher prior 1.23e-16, mean frozen bits 2\n"
    log_method_metrics(configure(None, []), Console(quiet=False), "pong", {})
    assert capsys.readouterr().out == ""


def test_charts_match_the_tags_that_their_titles_name(events):
    charts, tags = shown_layout(events), events.Tags()["scalars"]
    layers = ("fc1", "fc2")
    for chart, expected in {
        ("games", "normalised score"): ["eval/cartpole-a/normalised", "eval/cartpole-b/normalised"],
        ("games", "mean return"): ["eval/cartpole-a/return", "eval/cartpole-b/return"],
        ("continual learning", "ACC and BWT"): ["continual/acc", "continual/bwt"],
        ("continual learning", "worst game"): ["continual/worst_task", "continual/worst_bwt"],
        ("continual learning", "accumulated normalised reward"): ["continual/accumulated_normalised_reward"],
        ("games", "mean return of training episodes"): [
            "rollout/cartpole-a/ep_rew_mean",
            "rollout/cartpole-b/ep_rew_mean",
        ],
        ("bits", "mean frozen bits"): ["bits/mean_frozen"],
        ("bits", "mean frozen bits of each layer"): [f"bits/{layer}/mean_frozen" for layer in layers],
        ("bits", "share of weights without information"): [
            f"method/without_information/{layer}.weight" for layer in layers
        ],
        ("plasticity", "effective rank"): [f"plasticity/{layer}/effective_rank" for layer in layers],
    }.items():
        assert matching(charts[chart], tags) == expected
    assert all(matching(expressions, tags) for expressions in charts.values())


def test_games_without_normalisers_have_no_chart_of_normalised_scores():
    config = small_config(games="Acrobot-v1,cartpole-a")
    charts = layout(config)["games"]
    assert charts["normalised score"] == ["Multiline", ["eval/cartpole-a/normalised$"]]
    assert len(charts["mean return"][1]) == 2
    assert "normalised score" not in layout(small_config(games="Acrobot-v1"))["games"]
    assert metric_tags(small_config(games="Acrobot-v1")) == ["eval/Acrobot-v1/return"]


def test_returns_of_training_episodes_have_a_curve_for_each_game(events):
    steps = {
        game: [point.step for point in events.Scalars(f"rollout/{game}/ep_rew_mean")]
        for game in ("cartpole-a", "cartpole-b")
    }
    assert steps["cartpole-a"][-1] == 1024 < steps["cartpole-b"][0]
    assert steps["cartpole-b"][-1] == 2048
    assert not {"rollout/ep_rew_mean", "rollout/ep_len_mean"} & set(events.Tags()["scalars"])


def test_mean_frozen_bits_change_only_at_the_end_of_a_game(events, finished_run):
    values = {point.step: point.value for point in events.Scalars("bits/mean_frozen")}
    boundaries = [point.value for point in events.Scalars("method/mean_frozen_bits")]
    assert {value for step, value in values.items() if step < 1024} == {0}
    assert [value for step, value in values.items() if 1024 <= step < 2048] == pytest.approx([boundaries[0]] * 8)
    assert values[2048] == pytest.approx(boundaries[1])
    assert len(values) == 16  # after every rollout


def test_recipe_and_command_are_texts(events, finished_run):
    texts = {tag: events.Tensors(f"run/{tag}/text_summary")[0] for tag in ("command", "config")}
    shown = {tag: event.tensor_proto.string_val[0].decode() for tag, event in texts.items()}
    assert shown["config"] == f"```toml\n{(finished_run / 'config.toml').read_text()}```"
    assert (finished_run / "command.txt").read_text().strip() in shown["command"]
    assert {event.step for event in texts.values()} == {0}


def test_hparams_of_distillation_are_shown_only_where_it_is_used():
    assert "distil.updates" not in hyperparameters(small_config())
    assert "distil.updates" in hyperparameters(small_config("blip-distil", steps="10k"))


def test_hparams_are_the_settings_of_the_recipe(events):
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    shown = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert shown["agent"].string_value == "blip"
    assert shown["seed"].number_value == 0
    assert shown["ppo.environments"].number_value == 4
    assert shown["method.nested"].number_value == 1
    assert shown["trunk.vector.hidden"].string_value == "(16, 16)"
    assert shown["steps"].number_value == 2048
    assert set(shown) == set(hyperparameters(small_config()))


def test_hparams_metrics_are_scalars_that_the_run_writes(events):
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    named = [info.name.tag for info in experiment.metric_infos]
    assert named == metric_tags(small_config())
    assert set(named) <= set(events.Tags()["scalars"])
    assert "continual/acc" in named


def test_the_step_axis_continues_across_games(events):
    for tag in ("eval/cartpole-a/return", "plasticity/fc1/free_bits", "time/steps_per_second", "train/loss"):
        steps = [point.step for point in events.Scalars(tag)]
        assert steps == sorted(set(steps))
        assert steps[-1] > 1024
    assert [point.step for point in events.Scalars("eval/cartpole-b/return")] == [1024, 1536, 2048]


@pytest.mark.parametrize("layer", ["fc1", "fc2"])
def test_every_layer_has_a_heatmap_and_a_histogram_after_each_task(events, layer):
    pictures = events.Images(f"bits/{layer}/heatmap")
    assert [picture.step for picture in pictures] == [1024, 2048]
    image = Image.open(io.BytesIO(pictures[-1].encoded_image_string)).convert("RGB")
    assert len(image.getcolors(2**24)) > 50
    assert pictures[0].encoded_image_string != pictures[1].encoded_image_string
    assert [point.step for point in events.Histograms(f"bits/{layer}/histogram")] == [1024, 2048]


def test_gifs_show_the_episode_closest_to_the_mean_of_each_game(finished_run, tmp_path, monkeypatch):
    logger = Logger(str(tmp_path), [EventFile(str(tmp_path))])
    player, recorded, record_game = render._Source(finished_run, RenderOptions())._player, [], tensorboard.record_game

    def recording(task, config, options, seed, actions, episode):
        recorded.append((task.name, seed, episode.score))
        return record_game(task, config, options, seed, actions, episode)

    monkeypatch.setattr(tensorboard, "record_game", recording)
    played = {}
    for task in ("cartpole-a", "cartpole-b"):
        log = EpisodeActions()
        played[task] = player._episodes(Cell(2, task), lambda count: None, log), log
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    log_boundary_gifs(logger, small_config(), {"cartpole-a": played["cartpole-a"]}, 1024)
    log_boundary_gifs(logger, small_config(), played, 2048)
    logger.close()
    for (task, seed, score), (episodes, _) in zip(recorded[1:], played.values(), strict=True):
        scores = [episode.score for episode in episodes]
        assert abs(score - np.mean(scores)) == min(abs(s - np.mean(scores)) for s in scores), task
        assert score == scores[seed - small_config().evaluation.seed]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    written = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    written.Reload()
    assert {tag: [image.step for image in written.Images(tag)] for tag in written.Tags()["images"]} == {
        "games/cartpole-a": [1024, 2048],
        "games/cartpole-b": [2048],
    }
    for shown in written.Images("games/cartpole-a"):
        with Image.open(io.BytesIO(shown.encoded_image_string)) as gif:
            pictures = [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(gif)]
            assert gif.format == "GIF"
            assert gif.size == (shown.width, shown.height)
        assert len(set(pictures)) > 3
        assert shown.width < 120
        assert len(shown.encoded_image_string) < 100_000


def test_the_mean_of_very_many_bits_does_not_overflow():
    many = torch.full((1,), 22, dtype=torch.uint8).expand(110_000_000)
    assert overall_mean({"fc.weight": many}) == 22
