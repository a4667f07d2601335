"""The names that ``import blip_rl`` offers."""

import subprocess
import sys

import blip_rl as br
from tests.test_cli_startup import HEAVY, LEARNING


def test_dir_lists_every_name_and_all_of_them_are_there():
    assert set(br.__all__) == set(br._HOMES)
    assert set(br.__all__) <= set(dir(br))
    for name in br.__all__:
        assert getattr(br, name).__doc__, name


def test_importing_the_package_and_a_refused_call_import_nothing_heavy():
    code = f"""
import sys
import blip_rl as br
dir(br)
print([name for name in {HEAVY!r} if name in sys.modules])
for wrong in (lambda: br.train(games=["a"], out="/"), lambda: br.load("nowhere"), lambda: br.evaluate(1)):
    try:
        wrong()
    except br.UserError:
        pass
    else:
        raise AssertionError
print([name for name in {LEARNING!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
