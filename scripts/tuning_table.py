"""Print a table of runs on one sequence: final scores relative to a `single` run, and what was lost on the way.

    python scripts/tuning_table.py runs/tuning/* [--csv FILE]

For each run and task: the mean raw return just after learning it (before consolidation and after it) and at the end.
The share is that of the mean, over all `single` runs given, of the return just after learning the task, with 0 the
task's random score: 1 is as good as a network of its own.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from blip_rl.recipes import load_run_config
from blip_rl.storage.run_folder import RunFolder


class Run:
    """Mean raw returns of a finished run, (tasks,): learned, consolidated and at the end."""

    def __init__(self, path):
        folder, self.config = RunFolder.existing(path), load_run_config(path)
        self.name, self.commit = path.name, _commit(path)
        cells = defaultdict(list)
        for row in folder.read_scores():
            cells[row.phase, row.stage, row.task].append(row.score)
        names = [task.name for task in self.config.tasks]
        stages = [(max(s for s, v in enumerate(self.config.visits, 1) if v == i), n) for i, n in enumerate(names)]
        self.learned = np.array([np.mean(cells["before", stage, name]) for stage, name in stages])
        self.kept = np.array([np.mean(cells["after", stage, name]) for stage, name in stages])
        self.end = np.array([np.mean(cells["after", self.config.stages, name]) for name in names])


def _commit(path):
    return (json.loads((path / "environment.json").read_text(encoding="utf-8")).get("commit") or "")[:12]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    runs = [Run(path) for path in arguments.runs if RunFolder(path).finished(load_run_config(path).stages)]
    single = [run.learned for run in runs if run.config.agent.method["name"] == "single"]
    if not single:
        raise SystemExit("no finished run of `single` among them: expected one, as the scale")
    random = np.array([task.random_score or 0.0 for task in runs[0].config.tasks])
    scale = np.mean(single, axis=0) - random
    rows = []
    for run in runs:
        learned, kept, end = ((values - random) / scale for values in (run.learned, run.kept, run.end))
        rows.append(
            [run.name, run.commit, *np.round([end.mean(), end.min(), learned.mean(), kept.mean()], 3), *end.round(3)]
        )
    header = ["run", "commit", "ACC", "worst", "learned", "consolidated", *(t.name for t in runs[0].config.tasks)]
    for row in [header, *rows]:
        print("  ".join(str(cell).ljust(12) for cell in row))
    if arguments.csv:
        with arguments.csv.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])


if __name__ == "__main__":
    main()
