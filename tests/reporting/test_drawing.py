"""Tests that figures are independent of the user's matplotlib settings and leave them unchanged."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from blip_rl.reporting import drawing

JUPYTER = "module://matplotlib_inline.backend_inline"
DRAW = """
import sys
from blip_rl.reporting.chart_data import ChartData
from blip_rl.reporting.figures import FigureWriter
from blip_rl.reporting.heatmaps import frozen_bits_image
import numpy as np
frozen_bits_image(np.zeros((2, 2), np.uint8), 20, "fc1")
FigureWriter(__import__("pathlib").Path(sys.argv[1])).add(
    "plain",
    lambda figure, theme: figure.add_subplot().set_title("50% of 1_000"),
    title="",
    alt="",
    data=ChartData((), ()),
)
"""


def python(code, *arguments, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "MPLCONFIGDIR": str(folder), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """The bytes of a figure in a plain environment."""
    folder = tmp_path_factory.mktemp("plain")
    python(DRAW, str(folder / "out"), folder=folder)
    return (folder / "out" / "plain.png").read_bytes()


def test_figure_does_not_depend_on_mplbackend_and_matplotlibrc(wanted, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 30\naxes.grid: True\n", encoding="utf-8")
    python(DRAW, str(tmp_path / "out"), folder=tmp_path, MPLBACKEND=JUPYTER)
    assert (tmp_path / "out" / "plain.png").read_bytes() == wanted


def test_import_keeps_the_programs_backend(tmp_path):
    code = (
        "import os, blip_rl.reporting.drawing, matplotlib as m; print(m.rcParams['backend'], os.environ['MPLBACKEND'])"
    )
    assert python(code, folder=tmp_path, MPLBACKEND="svg").split() == ["svg", "svg"]


def test_drawing_keeps_the_programs_rcparams():
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True}):
        with drawing.figure((2, 2)) as figure:
            assert matplotlib.rcParams["text.usetex"] is False
            assert figure.text(0, 0, "x").get_size() == 10
        assert matplotlib.rcParams["text.usetex"] is True
        assert matplotlib.rcParams["font.size"] == 30


def test_invalid_matplotlibrc_is_one_message(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: \xff\xfe\n")
    code = """
from blip_rl.errors import UserError
try:
    import blip_rl.reporting.drawing
except UserError as error:
    print(error)
"""
    assert "matplotlib cannot be imported" in python(code, folder=tmp_path)


def test_pixels_of_a_figure():
    with drawing.figure((2, 1), dpi=50, paper="#ff8000") as figure:
        image = drawing.pixels(figure)
    assert image.shape == (50, 100, 3)
    np.testing.assert_array_equal(image[0, 0], [255, 128, 0])


def test_scripts_import_matplotlib_only_through_drawing():
    """An import contract checks this for the package, but not for scripts."""
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    found = [
        file.name for file in scripts.rglob("*.py") if re.search(r"^\s*(from|import) matplotlib", file.read_text())
    ]
    assert found == []
