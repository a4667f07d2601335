"""The statements of docs/results/methods.md agree with its table."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "results" / "methods.md").read_text(encoding="utf-8")


def scores():
    """Agent → (mean ACC, ACC of each seed), from the table of four CartPoles."""
    rows = re.findall(r"^\| ([a-z0-9-]+)(?:, `[^`]*`)? \| 5 \| ([\d.]+) \[[^]]*\] \| ([\d. ]+) \|", PAGE, re.MULTILINE)
    return {agent: (float(mean), [float(one) for one in seeds.split()]) for agent, mean, seeds in rows}


def test_means_are_those_of_the_seeds():
    assert len(scores()) == 12
    for agent, (mean, seeds) in scores().items():
        assert mean == pytest.approx(sum(seeds) / 5, abs=0.006), agent


def test_the_highest_means_are_named_in_order():
    said = re.search(r"The highest means are those of (.*?), but", PAGE, re.DOTALL)
    named = re.findall(r"`([a-z-]+)` \(([\d.]+)\)", said[1])
    highest = sorted(((mean, agent) for agent, (mean, _) in scores().items()), reverse=True)[: len(named)]
    assert named == [(agent, f"{mean:.2f}") for mean, agent in highest]


def test_means_over_the_seeds_that_count():
    for agent, first, last, mean in re.findall(r"^\| `([a-z0-9]+)` .* \| (\d) to (\d): mean ([\d.]+) \|$", PAGE, re.M):
        seeds = scores()[agent][1][int(first) : int(last) + 1]
        assert float(mean) == pytest.approx(sum(seeds) / len(seeds), abs=0.006), agent
