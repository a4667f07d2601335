import resource

import pytest

from blip_rl.errors import UserError
from blip_rl.untrusted import machine


def test_the_message_names_the_largest_parts(monkeypatch):
    monkeypatch.setattr(machine, "memory_bytes", lambda: 16_000_000_000)
    machine.check_memory("it", {"a": 6e9, "b": 10e9}, "advice")
    with pytest.raises(UserError) as caught:
        machine.check_memory("this recipe", {"weights": 4.3e12, "games": 5e11, "text": 1e3}, "make it smaller")
    expected = (
        "this recipe needs 4.8 TB of memory (weights 4.3 TB, games 500 GB), but 16 GB are available: make it smaller"
    )
    assert str(caught.value) == expected


def test_memory_is_bounded_by_ulimit(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (12_345, resource.RLIM_INFINITY))
    assert machine.memory_bytes() == 12_345
    monkeypatch.undo()
    assert 2**28 < machine.memory_bytes() < 2**50


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (999, "999 bytes"), (1.2e9, "1.2 GB"), (5e24, "5,000,000 EB")]
)
def test_sizes_in_words(size, words):
    assert machine.in_words(size) == words
