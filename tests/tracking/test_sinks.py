"""What is sent to each tracker: with stand-ins for the packages, and with the packages where they are installed."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blip_rl.tracking.names import TRACKERS
from blip_rl.tracking.sink import SINKS, Histogram, Picture, TrackedRun
from blip_rl.tracking.values import Film

STAND_INS = Path(__file__).parent / "packages"
PIXELS = np.zeros((4, 6, 3), np.uint8)
BITS = np.arange(5.0)
VALUES = {
    "eval/pong/return": 3.0,
    "bits/fc1/heatmap": Picture(PIXELS),
    "bits/fc1/histogram": Histogram(BITS),
    "games/pong": Film(b"GIF89a", (6, 4)),
}
SETTINGS = {"agent": "blip", "seed": 0}


@pytest.fixture
def package(request, monkeypatch):
    """The stand-in of a package; what was imported before is imported again after the test."""
    name = request.param
    ours = [f"blip_rl.tracking.to_{name}"]
    for module in [module for module in sys.modules if module.partition(".")[0] == name or module in ours]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(STAND_INS)
    yield importlib.import_module(name)
    for module in [module for module in sys.modules if module.partition(".")[0] == name or module in ours]:
        del sys.modules[module]


def sent(name, run_id=None, finished=True):
    """Send everything that a sink takes; return the sink."""
    sink = SINKS[name](TrackedRun(name, "project", "my-run", run_id), SETTINGS)
    sink.log(VALUES, 1024)
    config = Path("config.toml")
    config.write_text("seed = 0\n")
    sink.file(config)
    sink.close(finished)
    return sink


@pytest.mark.parametrize("package", ["wandb"], indirect=True)
def test_wandb_gets_values_with_their_step_as_a_metric(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = sent("wandb")
    kinds = dict.fromkeys(call[0] for call in package.calls)
    assert list(kinds) == ["init", "define_metric", "log", "file", "finish"]
    assert package.calls[0] == ("init", "project", "my-run", sink.id, SETTINGS)
    assert ("define_metric", "*", "env_steps") in package.calls
    (logged,) = [call[1] for call in package.calls if call[0] == "log"]
    assert (logged["eval/pong/return"], logged["env_steps"]) == (3.0, 1024)
    assert logged["bits/fc1/heatmap"].value is PIXELS
    assert logged["bits/fc1/histogram"].value is BITS
    assert (logged["games/pong"].value.read(), logged["games/pong"].format) == (b"GIF89a", "gif")
    assert package.calls[-2:] == [("file", f"{sink.id}-config.toml", {"config.toml": "seed = 0\n"}), ("finish", 0)]
    assert sink.place == "https://wandb.example/run"
    assert sent("wandb", sink.id, finished=False).id == sink.id
    assert package.calls[-1] == ("finish", 1)


@pytest.mark.parametrize("package", ["trackio"], indirect=True)
def test_trackio_gets_values_and_prints_nothing(package, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sink = sent("trackio")
    assert package.calls[0] == ("init", "project", sink.id, SETTINGS)
    assert sink.id.startswith("my-run-")
    ((_, logged, step),) = [call for call in package.calls if call[0] == "log"]
    assert (logged["eval/pong/return"], step) == (3.0, 1024)
    assert logged["games/pong"].value == b"GIF89a"
    assert logged["bits/fc1/heatmap"].value is PIXELS
    assert package.calls[-2:] == [("file", f"{sink.id}-config.toml", "seed = 0\n"), ("finish",)]
    assert sent("trackio", sink.id).id == sink.id
    assert capsys.readouterr().out == ""
    assert package.context_vars.current_run.get() is None


@pytest.mark.parametrize("package", ["mlflow"], indirect=True)
def test_mlflow_gets_numbers_pictures_and_films(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = sent("mlflow")
    assert package.calls == [
        ("create", "project", "my-run"),
        ("batch", "abc123", [], {"agent": "blip", "seed": "0"}),
        ("batch", "abc123", [{"key": "eval/pong/return", "value": 3.0, "step": 1024}], {}),
        ("image", "abc123", PIXELS, "bits/fc1/heatmap", 1024),
        ("file", "abc123", "games/pong/step-0000001024.gif", b"GIF89a"),
        ("file", "abc123", "config.toml", b"seed = 0\n"),
        ("end", "abc123", "FINISHED"),
    ]
    package.calls.clear()
    assert sent("mlflow", sink.id, finished=False).id == sink.id
    assert package.calls[0] == ("update", "abc123", "RUNNING")
    assert package.calls[-1] == ("end", "abc123", "KILLED")


@pytest.mark.parametrize("name", TRACKERS)
@pytest.mark.filterwarnings("default")
def test_installed_package_takes_everything_offline(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # before the import
    pytest.importorskip(name)
    first, second = (Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in (0, 90))
    first.save("film.gif", save_all=True, append_images=[second])
    monkeypatch.setitem(VALUES, "games/pong", Film(Path("film.gif").read_bytes(), (8, 8)))
    sink = sent(name)
    assert sent(name, sink.id).id == sink.id
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".db", ".wandb")]
