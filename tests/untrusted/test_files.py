"""Untrusted files are read within bounds or refused with a message that names them."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blip_rl.errors import UserError
from blip_rl.untrusted import files
from blip_rl.untrusted.tables import table_rows

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(), lambda inner: st.lists(inner), max_leaves=9
)
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe", "pipe' is not a file"),
        ("device", "device' is not a file"),
        ("folder", "folder' is not a file"),
        ("missing", "missing' cannot be read: No such file"),
        ("a\x00b", "cannot be read: embedded null byte"),
        ("huge", "huge' is larger than 4,000,000 bytes"),
        ("utf-16", "utf-16' cannot be read: not UTF-8"),
        ("deep", "deep' cannot be read: nested too deeply"),
        ("broken", "broken' cannot be read: not valid JSON"),
    ],
)
def test_unreadable_files_raise_an_error_that_names_them(name, message, tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would block
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10**11)  # sparse: takes no space on the disk
    (tmp_path / "utf-16").write_bytes("[1]".encode("utf-16"))
    (tmp_path / "deep").write_bytes(b"[" * 100_000)
    (tmp_path / "broken").write_bytes(b"[1")
    with pytest.raises(UserError, match=message):
        files.read_json(tmp_path / name)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "[" * 60 + "]" * 60])
def test_deeply_nested_json_is_refused(text):
    with pytest.raises(UserError, match="facts: nested too deeply"):
        files.parse_json(text, "facts")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a." * 40 + "b = 1", "nested too deeply"),
        ("x = " + "[" * 5_000, "nested too deeply"),
        ("x = " + "{a = " * 40 + "1" + "}" * 40, "nested too deeply"),
        ("a." * 400_000 + "b = 1", "more than 100 dots"),  # tomllib's time grows with their square
        ("x = [1, 9223372036854775808]", "more than 64 bits"),
        ("x = 0x" + "f" * 9_000, "more than 64 bits"),
    ],
)
def test_toml_that_is_costly_to_read_is_refused(text, message):
    with pytest.raises(UserError, match=f"recipe: .*{message}"):
        files.parse_toml(text, "recipe")


def test_a_byte_order_mark_is_ignored(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert files.read_toml(tmp_path / "config.toml") == {"x": 1}


@pytest.mark.parametrize("target", ["../outside", "/dev/zero", "../missing/x", "..", "../run-2"])
def test_a_link_out_of_the_run_folder_is_refused(tmp_path, target):
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "run-2").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "stage-01").symlink_to(f"../{target}" if target.startswith("..") else target)
    with pytest.raises(UserError, match=r"stage-01' is a link that leads out of the run's folder"):
        files.check_contained(tmp_path / "run")


def test_links_inside_and_a_linked_run_are_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("a")
    (tmp_path / "real" / "b").symlink_to("a")
    (tmp_path / "run").symlink_to("real")
    files.check_contained(tmp_path / "run")


def test_a_pipe_in_a_run_folder_is_refused(tmp_path):
    (tmp_path / "gifs").mkdir()
    os.mkfifo(tmp_path / "gifs" / "grid.gif")
    with pytest.raises(UserError, match=r"grid.gif' is a pipe"):
        files.check_contained(tmp_path)


def test_a_folder_of_too_many_files_is_not_searched_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_FILES", 3)
    for number in range(5):
        (tmp_path / str(number)).touch()
    with pytest.raises(UserError, match="more than 3 files"):
        files.check_contained(tmp_path)


def test_control_characters_do_not_reach_a_terminal():
    assert files.printable("a\x1b[2Jb\u202ec\ud800\nd") == "a\\x1b[2Jb\\u202ec\\ud800\nd"


def refusal(read, path):
    """What was read, and the message that refused it instead."""
    try:
        return read(path), ""
    except UserError as error:
        return None, str(error)


@given(st.binary(max_size=300))
@SAME_FOLDER
def test_any_bytes_are_read_or_refused(tmp_path, content):
    path = tmp_path / "any"
    path.write_bytes(content)
    for read in (files.read_text, files.read_json, files.read_toml, lambda p: list(table_rows(p)[1])):
        found, message = refusal(read, path)
        assert found is None or not message
        assert not message or "any" in message


@given(ANYTHING)
@SAME_FOLDER
def test_json_round_trips(tmp_path, value):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(value))
    found, message = refusal(files.read_json, path)
    assert "64 bits" in message or json.dumps(found) == json.dumps(value)
