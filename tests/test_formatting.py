"""Three significant digits, wherever a score is written."""

import subprocess
import sys

import pytest

from blip_rl.formatting import score_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.958, "0.958"),
        (0.9996, "1.00"),
        (1, "1.00"),
        (-2.5, "-2.50"),
        (21.04, "21.0"),
        (99.96, "100"),
        (366.4, "366"),
        (3440, "3,440"),
        (23310.4, "23,310"),
        (0.0123, "0.0123"),
        (0.000012, "0.000012"),
        (1e-9, "0.00"),
        (-1e-9, "0.00"),
        (0.0, "0.00"),
        (-0.0, "0.00"),
        (float("nan"), "nan"),
    ],
)
def test_three_significant_digits(value, text):
    assert score_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.012, "+0.0120"), (-0.5, "-0.500"), (12.0, "+12.0"), (0.0, "0.00")])
def test_differences_show_their_sign(value, text):
    assert score_text(value, signed=True) == text


def test_it_imports_neither_torch_nor_matplotlib():
    code = "import sys, blip_rl.formatting; sys.exit(bool({'torch', 'matplotlib', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
