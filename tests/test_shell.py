"""Printed commands can be pasted into a shell."""

import re
import shlex
from pathlib import Path

import pytest

import blip_rl
from blip_rl.shell import shell_command

PRINTED = re.compile(r"""["'`(](?:[a-z\- ]*  )?(?:blip-rl|tensorboard) [^"'\n]*\{""")


@pytest.mark.parametrize("name", ["plain", "two words", "it's", "$HOME", "a;b", "new\nline", "ä"])
def test_a_shell_splits_the_command_into_its_arguments(name):
    assert shlex.split(shell_command("blip-rl", "report", Path(name))) == ["blip-rl", "report", name]


def test_a_folder_is_not_taken_for_an_option():
    assert shell_command("blip-rl", "report", Path("-x")) == "blip-rl report ./-x"
    assert shell_command("blip-rl", "train", "--quiet") == "blip-rl train --quiet"


def test_every_printed_command_is_built_by_shell_command():
    root = Path(blip_rl.__file__).parent
    sources = {str(file.relative_to(root)): file.read_text(encoding="utf-8") for file in root.rglob("*.py")}
    assert [name for name, text in sources.items() if "shlex" in text] == ["shell.py"]
    assert [name for name, text in sources.items() if PRINTED.search(text)] == []
