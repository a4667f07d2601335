"""Which value of a setting the protocol of the study takes."""

from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.mark.parametrize(
    ("key", "means", "taken"),
    [
        ("strength", {"1": 0.5, "10": 0.8, "100": 0.7}, "10"),
        ("strength", {"1": 0.795, "10": 0.8, "100": 0.791}, "100"),
        ("first_task_drift", {"0.01": 0.795, "1": 0.8, "100": 0.799}, "0.01"),
        ("strength", {"9": 0.8, "10": 0.8}, "10"),
    ],
)
def test_of_equally_good_values_the_one_that_protects_more_is_taken(key, means, taken, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from tuning_table import taken_of

    groups = {("ewc", key, value): mean for value, mean in means.items()}
    assert taken_of(list(groups), groups) == ("ewc", key, taken)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("blip-first_task_drift=1e-05", ("blip", "first_task_drift", "1e-05")),
        ("ewc-kronecker-distil-strength=3", ("ewc-kronecker-distil", "strength", "3")),
        ("ewc-kronecker", ("ewc-kronecker", None, None)),
        ("blip-interval=half", ("blip", "interval", "half")),
    ],
)
def test_agent_and_setting_are_read_from_a_runs_name(name, parts, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    from tuning_table import _LABEL, _as_number

    found = _LABEL.fullmatch(name)
    assert (found["agent"], found["key"], found["value"]) == parts
    assert np.isfinite(_as_number(found["value"]))
