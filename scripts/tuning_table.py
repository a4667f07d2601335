"""Print a table of tuning runs and the value of each agent's setting that the protocol takes.

    python scripts/tuning_table.py sweeps/tuning-minatar sweeps/tuning-cartpole [--csv FILE]

A folder is a run folder, holds run folders, or is an archive of archive_runs.py; runs that are not finished are left
out. Scores are relative: 0 is the random score of a task, 1 what a `single` run of the same sequence had just after
learning it (the mean over its seeds). ACC is the mean of a run's tasks at the end, worst the lowest of them, learned
the mean just after learning each. Of an agent's values that with the highest ACC, averaged over the sequences, is
taken; of values within 0.01 of it, the one that protects more (docs/results/protocol.md).
"""

import argparse
import csv
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _measure import markdown_table
from _run_archive import exit_with_message, reason_left_out, tables_of, unpacked

from blip_rl.errors import UserError
from blip_rl.recipes import load_run_config
from blip_rl.reporting.run_record import load_run
from blip_rl.storage.run_folder import RunFolder

_LABEL = re.compile(r"(?P<agent>.+?)(-(?P<key>\w+)=(?P<value>[^-=]+(e-\d+)?))?")
_LESS_IS_MORE = ("first_task_drift", "budget", "retrain_share")  # settings of which a smaller value protects more
_AS_GOOD = 0.01  # of ACC


class Run:
    """A finished run: its agent and setting, and mean raw returns, (tasks,): learned, consolidated, at the end."""

    def __init__(self, path, commit):
        self.path, self.commit, self.config = path, commit, load_run_config(path)
        self.sequence, self.names = self.config.sequence_name, [task.name for task in self.config.tasks]
        label = path.name.removeprefix(f"{self.sequence}-").removesuffix(f"-seed{self.config.seed}")
        found = _LABEL.fullmatch(label)
        self.agent, self.key, self.value = found["agent"], found["key"], found["value"]
        cells = defaultdict(list)
        for row in RunFolder.existing(path).read_scores():
            if row.actions != self.config.evaluation.actions:
                continue  # scored again in another way
            cells[row.phase, row.stage, row.task].append(row.score)
        last = {number: stage for stage, number in enumerate(self.config.visits, 1)}
        stages = [(last[number], name) for number, name in enumerate(self.names)]
        self.learned = np.array([np.mean(cells["before", stage, name]) for stage, name in stages])
        self.kept = np.array([np.mean(cells["after", stage, name]) for stage, name in stages])
        self.end = np.array([np.mean(cells["after", self.config.stages, name]) for name in self.names])


@dataclass
class Relative:
    """Relative scores of a run: (tasks,)."""

    learned: np.ndarray
    kept: np.ndarray
    end: np.ndarray


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path, help="also write the scores of each run")
    arguments = parser.parse_args()
    with exit_with_message():
        runs = find_runs(arguments.folders)
    relative = relative_scores(runs)
    print(table(runs, relative))
    if arguments.csv:
        _write_csv(arguments.csv, runs, relative)


def find_runs(folders):
    """Return the finished runs in folders and archives, and name those that are left out.

    Raises:
        UserError: a folder holds no run, or none is finished.
    """
    runs, tables = [], []
    with unpacked(folders) as names:
        for path, name in names.items():
            record = load_run(path)
            reason = reason_left_out(record)
            if not reason and (path.name, tables_of(path)) in tables:
                reason = "another run with the same name and tables is counted"
            if reason:
                print(f"left out: {name}: {reason}", file=sys.stderr)
                continue
            tables.append((path.name, tables_of(path)))
            runs.append(Run(path, str(record.environment.get("commit") or "")[:12]))
    if not runs:
        raise UserError(f"no finished run in {', '.join(map(str, folders))}: expected at least one")
    return runs


def relative_scores(runs):
    """Run → its scores on the scale of `single`.

    Raises:
        SystemExit: no run of `single` on a sequence.
    """
    scales = {}
    for run in runs:
        if run.config.agent.method["name"] == "single":
            scales.setdefault(run.sequence, []).append(run.learned)
    if missing := sorted({run.sequence for run in runs} - set(scales)):
        raise SystemExit(f"no finished run of `single` on {missing[0]}: expected one, as the scale")
    found = {}
    for run in runs:
        random = np.array([task.random_score or 0.0 for task in run.config.tasks])
        scale = np.mean(scales[run.sequence], axis=0) - random
        found[run] = Relative(*((scores - random) / scale for scores in (run.learned, run.kept, run.end)))
    return found


def table(runs, relative):
    """Markdown: a row for each agent and value; the values that are taken are bold."""
    sequences = list(dict.fromkeys(run.sequence for run in runs))
    groups = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[run.agent, run.key, run.value][run.sequence].append(relative[run])
    means = {
        group: np.mean([np.mean([one.end.mean() for one in found]) for found in by_sequence.values()])
        for group, by_sequence in groups.items()
        if len(by_sequence) == len(sequences)
    }
    taken = {taken_of([group for group in means if group[0] == agent], means) for agent, _, _ in means}
    rows = []
    for group in sorted(groups, key=lambda group: (group[0], _as_number(group[2]), group[2] or "")):
        agent, key, value = group
        cells = [_cell(groups[group][sequence]) for sequence in sequences]
        setting = "" if key is None else f"{key} {value}"
        rows.append([f"`{agent}`", f"**{setting}**" if key and group in taken else setting, *cells])
        rows[-1].append(f"{means[group]:.2f}" if group in means else "")
    heads = [f"{sequence}: ACC (worst), learned" for sequence in sequences]
    return markdown_table(["agent", "setting", *heads, "mean ACC"], rows)


def taken_of(groups, means):
    """Return the group with the highest mean; of those as good, the one that protects more."""
    best = max(means[group] for group in groups)
    good = [group for group in groups if means[group] >= best - _AS_GOOD]
    return max(good, key=lambda group: _as_number(group[2]) * (-1 if group[1] in _LESS_IS_MORE else 1))


def _as_number(value):
    """Return a setting as a number; 0 for none, and for one that is no number."""
    try:
        return float(value or 0)
    except ValueError:
        return 0.0


def _cell(scores):
    if not scores:
        return ""
    acc, worst, learned = (
        np.mean(values)
        for values in (
            [one.end.mean() for one in scores],
            [one.end.min() for one in scores],
            [one.learned.mean() for one in scores],
        )
    )
    return f"{acc:.2f} ({worst:.2f}), {learned:.2f}"


def _write_csv(path, runs, relative):
    most = max(len(run.names) for run in runs)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sequence", "run", "commit", "ACC", "worst", "learned", "consolidated", *range(1, most + 1)])
        for run in runs:
            one = relative[run]
            means = np.round([one.end.mean(), one.end.min(), one.learned.mean(), one.kept.mean()], 3)
            writer.writerow([run.sequence, run.path.name, run.commit, *means, *one.end.round(3)])


if __name__ == "__main__":
    main()
