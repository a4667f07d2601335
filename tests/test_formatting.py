"""Formatting of numbers, columns and nested tables."""

import subprocess
import sys

import pytest

from blip_rl.formatting import aligned, flatten, score_text


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


def test_formatting_imports_neither_torch_nor_matplotlib():
    code = "import sys, blip_rl.formatting; sys.exit(bool({'torch', 'matplotlib', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_columns_are_padded_the_first_to_the_left_and_numbers_to_the_right():
    assert aligned([["layer", "bits"], ["fc", "7"]], left=1) == ["layer  bits", "fc        7"]


def test_nested_tables_are_flattened_and_entries_of_an_array_of_tables_numbered():
    nested = {"seed": 1, "method": {"name": "blip"}, "tasks": [{"name": "a"}, {"name": "b"}], "mixed": [{}, 2]}
    assert dict(flatten(nested)) == {
        "seed": 1,
        "method.name": "blip",
        "tasks[1].name": "a",
        "tasks[2].name": "b",
        "mixed": [{}, 2],
    }
    assert dict(flatten({"versions": {"torch": "2"}}, " ")) == {"versions torch": "2"}
