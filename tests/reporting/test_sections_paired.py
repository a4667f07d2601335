"""Differences between agents, paired by seed."""

import numpy as np
import pytest

from blip_rl.core.intervals import interquartile_mean_interval, student_interval
from blip_rl.reporting.groups import group_runs
from blip_rl.reporting.run_record import load_run
from blip_rl.reporting.sections_paired import paired_section
from tests.reporting import report_runs as made


def runs_of(new_run, agent, scores):
    """Write a run of two games for each seed, with these scores of both at the end."""
    for seed, score in scores.items():
        run = new_run(f"{agent}-{seed}", agent=agent, seed=seed, games=("kungfu", "boxing"), bits=False, logs=False)
        rows = [
            [1000 * stage, stage, phase, game, 0, 10 * score, 9, 0, score, "greedy"]
            for stage in (1, 2)
            for phase in ("before", "after")
            for game in ("kungfu", "boxing")[:stage]
        ]
        made.write_table(run / "scores.csv", made.SCORE_COLUMNS, rows)
        yield load_run(run)


def differences(new_run, first, second):
    groups = group_runs([*runs_of(new_run, "blip", first), *runs_of(new_run, "ewc", second)])
    sections = paired_section(groups)
    return sections[0].tables[0] if sections else None


def test_the_difference_is_over_the_seeds_of_both_by_hand(new_run):
    table = differences(new_run, {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.4}, {2: 0.6, 1: 0.4, 0: 0.1, 7: 0.0})
    (row,) = table.rows
    low, high = student_interval([0.0, -0.1, -0.3])
    assert (row.title, row.remark) == ("ewc", "− blip")
    assert row.cells[0] == ("−0.133", f"−{-low:.3f} to +{high:.3f} (mean, 95 % Student interval), 3 seeds")
    metrics = ["ACC", "BWT", "Forgetting"]
    assert [name for name, _ in table.columns] == [part for m in metrics for part in (m, f"{m}: worst game")]
    assert row.cells[2][0] == "0.00"  # nobody forgets


def test_ten_seeds_have_a_bootstrap_interval_of_the_differences(new_run):
    scores = np.random.default_rng(0).uniform(size=10).round(3)
    table = differences(new_run, dict(enumerate(scores)), {seed: score + 0.1 for seed, score in enumerate(scores)})
    low, high = interquartile_mean_interval([0.1] * 10)
    assert (round(low, 9), round(high, 9)) == (0.1, 0.1)
    assert table.rows[0].cells[0] == (
        "+0.100",
        "+0.100 to +0.100 (interquartile mean, 95 % bootstrap interval), 10 seeds",
    )


@pytest.mark.parametrize("second", [{5: 0.1, 6: 0.2}, {}])
def test_without_a_common_seed_there_is_no_section(new_run, second):
    assert differences(new_run, {0: 0.1, 1: 0.5}, second) is None


def test_a_value_of_the_sequence_splits_groups_and_is_part_of_their_labels(new_run):
    records = []
    for every in (100, 200):
        run = new_run(f"every-{every}", games=("kungfu",), bits=False, logs=False)
        with (run / "config.toml").open("a") as file:
            file.write(f"[checkpoint]\nevery_steps = {every}\n")
        records.append(load_run(run))
    labels = [group.label for group in group_runs(records)]
    assert labels == ["blip, checkpoint.every_steps=100", "blip, checkpoint.every_steps=200"]
