"""The Hugging Face Hub: names and bounds, and push and download against a stand-in of its HTTP interface."""

from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

import blip_rl as br
from blip_rl.cli import cli
from blip_rl.sharing import hub as ours
from tests.sharing.hub_server import COMMIT, TOKEN, HubServer

pytestmark = pytest.mark.filterwarnings("default")  # of huggingface_hub and its HTTP client
FILES = {
    "config.toml": 900,
    "scores.csv": 5_000,
    "checkpoints/stage-01/policy.safetensors": 10**6,
    "checkpoints/stage-01/stage.json": 800,
}


def listed(sizes):
    return [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in, in place of the Hub for the installed package."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield server


@pytest.fixture
def shared(hub, finished_run):
    """The finished run on the stand-in, as ``user/cartpoles``."""
    kept = [path for path in finished_run.rglob("*") if path.is_file() and not path.name.startswith("events")]
    hub.models["user/cartpoles"] = {str(path.relative_to(finished_run)): path.read_bytes() for path in kept}
    return hub.models["user/cartpoles"]


@pytest.mark.parametrize(
    "name", ["", "user", "user/", "/name", "a/b/c", "../b", "user/..", "a b/c", "user/name@", "a/b@-x"]
)
def test_bad_names_are_refused(name):
    with pytest.raises(br.UserError, match="expected"):
        ours.parse(f"hf:{name}")


def test_names_may_have_a_revision():
    assert ours.parse("hf:user/name") == ours.HubName("user/name", None)
    assert ours.parse("hf:user/name@v1.0") == ours.HubName("user/name", "v1.0")


def test_only_files_of_a_run_are_downloaded(tmp_path):
    others = ["README.md", "evil.py", "../up.csv", "checkpoints/stage-01/../../x.toml", "checkpoints/stage-01/x.pkl"]
    found = listed(FILES | dict.fromkeys(others, 10))
    assert ours._checked("user/name", found, tmp_path / "new") == sorted(FILES)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"config.toml": 900}, "is not a run"),
        ({"scores.csv": 900, "checkpoints/stage-01/stage.json": 9}, "is not a run"),
        (FILES | {"scores.csv": 10**12}, "scores.csv has 1 TB: expected at most 128 MB"),
        (FILES | {"checkpoints/stage-01/policy.safetensors": 10**15}, "has 1 PB: expected at most"),
        (FILES | {f"checkpoints/stage-{n:04}/stage.json": 9 for n in range(2_000)}, "2,004 files: expected at most"),
    ],
)
def test_what_is_no_run_or_too_large_is_refused_before_a_download(sizes, message, tmp_path):
    with pytest.raises(br.UserError, match=message):
        ours._checked("user/name", listed(sizes), tmp_path / "new")


def test_pushed_run_is_loaded_and_plays_as_the_original(hub, finished_run, tmp_path):
    written = br.publish(finished_run, out=tmp_path / "published", to="user/cartpoles", private=True)
    assert written.address == f"{hub.url}/user/cartpoles"
    assert hub.created["user/cartpoles"].get("private") or hub.created["user/cartpoles"].get("visibility") == "private"
    local = {str(path.relative_to(written.path)) for path in written.path.rglob("*") if path.is_file()}
    assert set(hub.models["user/cartpoles"]) - {".gitattributes"} == local
    assert 'br.load("hf:user/cartpoles")' in hub.models["user/cartpoles"]["README.md"].decode()
    run, original = br.load("hf:user/cartpoles"), br.load(finished_run)
    assert run.path == tmp_path / "cache" / "blip-rl" / "hub" / "user--cartpoles" / COMMIT
    assert run.metrics() == original.metrics()
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    for stage, game in ((1, "cartpole-a"), (2, "cartpole-a"), (2, "cartpole-b")):
        actions = [one.agent(stage=stage, game=game).predict(observations)[0].tolist() for one in (run, original)]
        assert actions[0] == actions[1]
    downloaded = len(hub.requested)
    br.load(f"hf:user/cartpoles@{COMMIT}")
    assert len(hub.requested) == downloaded


def test_commands_take_a_run_of_the_hub(hub, shared):
    done = CliRunner().invoke(cli, ["inspect", "hf:user/cartpoles"])
    assert done.exit_code == 0, done.output
    assert "fc1" in done.output


def test_changed_weights_are_refused(hub, shared):
    name = "checkpoints/stage-02/policy.safetensors"
    shared[name] = shared[name][:-1] + bytes([shared[name][-1] ^ 1])
    with pytest.raises(br.UserError, match=r"policy\.safetensors"):
        br.load("hf:user/cartpoles").agent()


def test_announced_size_is_checked_before_a_download(hub, shared):
    hub.sizes["checkpoints/stage-01/method.safetensors"] = 10**15
    with pytest.raises(br.UserError, match=r"method\.safetensors has 1 PB"):
        br.load("hf:user/cartpoles")
    assert hub.requested == []


def test_unknown_model_and_revision_are_one_message_each(hub, shared):
    with pytest.raises(br.UserError, match="hf:user/nothing does not exist on the Hub, or you may not read it"):
        br.load("hf:user/nothing")
    with pytest.raises(br.UserError, match="hf:user/cartpoles at v9 does not exist"):
        br.load("hf:user/cartpoles@v9")


def test_push_that_is_refused_leaves_the_folder_and_names_the_command(hub, finished_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        br.RunError,
        match=r"my run' is complete, but could not be pushed .*hf upload --private user/cartpoles '.*my run'",
    ):
        br.publish(finished_run, out=tmp_path / "my run", to="user/cartpoles", private=True)
    assert br.load(tmp_path / "my run").stages == [1, 2]


def test_missing_token_is_one_message_and_nothing_is_written(hub, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(br.UserError, match=r"no token of the Hugging Face Hub: .*hf auth login"):
        br.publish(finished_run, out=tmp_path / "published", to="user/cartpoles")
    assert not (tmp_path / "published").exists()


def test_unreachable_hub_is_one_message(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(br.RunError, match=r"hf:user/cartpoles cannot be downloaded: .*check the network"):
        br.load("hf:user/cartpoles")
