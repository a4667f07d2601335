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


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "stage.json")
    with pytest.raises(UserError, match=r"stage.json' is not a file"):
        files.read_json(tmp_path / "stage.json")


def test_a_device_is_not_read(tmp_path):
    (tmp_path / "config.toml").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a file"):
        files.read_toml(tmp_path / "config.toml")


@pytest.mark.parametrize("what", ["missing", "folder", "a\x00b"])
def test_what_is_no_file_is_named(tmp_path, what):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"file|byte"):
        files.read_bytes(tmp_path / what, 10)


def test_a_file_of_many_gigabytes_costs_no_memory(tmp_path):
    with (tmp_path / "stage.json").open("wb") as file:
        file.truncate(10**11)  # a hole: it takes no room on the disk
    with pytest.raises(UserError, match=r"larger than 4,000,000 bytes"):
        files.read_json(tmp_path / "stage.json")


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 50_000, b"[" * 60 + b"]" * 60])
def test_deep_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a.json' cannot be read: nested too deeply"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["a." * 40 + "b = 1", "x = " + "[" * 5_000, "x = " + "{a = " * 40 + "1" + "}" * 40])
def test_deep_toml_is_refused(text):
    with pytest.raises(UserError, match="recipe: nested too deeply"):
        files.parse_toml(text, "recipe")


def test_a_key_of_thousands_of_parts_takes_no_time():
    with pytest.raises(UserError, match="more than 100 dots"):
        files.parse_toml("a." * 400_000 + "b = 1", "recipe")


@pytest.mark.parametrize("number", ["9223372036854775808", "0x" + "f" * 9_000])
def test_numbers_of_more_than_64_bits_are_refused(number):
    with pytest.raises(UserError, match="more than 64 bits"):
        files.parse_toml(f"x = [1, {number}]", "recipe")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert files.read_toml(tmp_path / "config.toml") == {"x": 1}


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "config.toml").write_bytes("x = 1".encode("utf-16"))
    with pytest.raises(UserError, match=r"config.toml' cannot be read: not UTF-8"):
        files.read_toml(tmp_path / "config.toml")


@pytest.mark.parametrize("target", ["../outside", "/dev/zero", "../missing/x", ".."])
def test_a_link_that_leads_out_is_refused(tmp_path, target):
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "stage-01").symlink_to(f"../{target}" if target.startswith("..") else target)
    with pytest.raises(UserError, match=r"stage-01' is a link that leads out of the run's folder"):
        files.check_contained(tmp_path / "run")


def test_a_neighbour_whose_name_begins_alike_is_outside(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    (tmp_path / "run" / "link").symlink_to("../run-2")
    with pytest.raises(UserError, match="leads out"):
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
def test_json_comes_back_as_it_was(tmp_path, value):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(value))
    found, message = refusal(files.read_json, path)
    assert "64 bits" in message or json.dumps(found) == json.dumps(value)
