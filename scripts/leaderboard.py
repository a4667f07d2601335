"""Write docs/leaderboard.md from result folders alone: what every agent reached on every sequence, and at what cost.

    python scripts/leaderboard.py runs/study docs/results/atari3 [--against blip] [--out docs/leaderboard.md]

A result folder is a run folder, or holds run folders at any depth; of a run, config.toml, scores.csv, speed.csv,
command.txt and environment.json are enough, as in an archive of archive_runs.py (NAME.tar.xz), which is also one.
Runs that are not finished, or cannot be read in full, are left out and named. Runs with the same games, steps,
references and evaluations make a table; runs that differ only in their seed make a row. With --against, a column has
the difference in ACC to that agent, paired by seed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from _measure import without_paths
from _run_archive import exit_with_message, reason_left_out, unpacked

from blip_rl.core.intervals import Estimate, estimate
from blip_rl.errors import UserError
from blip_rl.formatting import score_text
from blip_rl.reporting.groups import REPEATED, Group, group_runs, repeated_runs
from blip_rl.reporting.normalising import normalised_by_recipe, rescale_observed
from blip_rl.reporting.run_record import RunRecord, load_run
from blip_rl.reporting.sections_paired import paired_differences, paired_estimate
from blip_rl.reporting.sequences import aspects, differences
from blip_rl.reporting.summary_metrics import SUMMARY_METRICS, metric_estimate, worst_estimate
from blip_rl.shell import shell_command
from blip_rl.storage.atomic import replace_text

_HEAD = """# Leaderboard

Made by `python scripts/leaderboard.py` from result folders. ACC: mean normalised score over the games at the end, 0 =
random play, 1 = the reference of the sequence; worst: the lowest score of any game in a run, averaged over the seeds.
BWT: mean change of the earlier games' scores since each was learned; worst: of the game that lost most. Plasticity:
score just after learning a game, divided by that of `single` on the same sequence. In brackets the 95 % interval:
Student's of the mean with three to nine seeds, the bootstrap of the interquartile mean from ten on, none below three.
Differences are paired by seed. Steps per second of learning, without evaluations: mean; memory: the most that one run
held. –: not defined or not recorded. Speeds depend on the machine and on what else ran there; for the cost of a
method see [performance](performance.md).
"""
_PUBLISHED = """## Published, not measured here

No numbers: BLIP (Shi et al., CVPR 2021) shows the accumulated normalised reward on `atari6` as curves (Fig. 4). We have
found no number for it in the sources that we could read, and none for SGP (Saha and Roy, AAAI 2023) on these games.
"""
_HEADINGS = ["agent", "seeds", "ACC", "worst", "BWT", "plasticity", "steps/s", "memory MB", "commit"]
Learned = tuple[str, tuple[str, ...], tuple[int, ...], str]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RESULT_FOLDER")
    parser.add_argument("--against", metavar="AGENT", help="agent to compare every other one with")
    parser.add_argument("--out", type=Path, default=Path("docs/leaderboard.md"))
    options = parser.parse_args(arguments)
    with exit_with_message():
        text, left_out = leaderboard(options.folders, against=options.against)
        replace_text(options.out, text)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(f"wrote {options.out}")


def leaderboard(folders: Sequence[Path], *, against: str | None = None) -> tuple[str, list[str]]:
    """Return the page, and a line for each run that is left out.

    Args:
        folders: Run folders, or folders with run folders in them.
        against: Label of the agent that every other one is compared with, in the tables that have it.

    Raises:
        UserError: a folder holds no run, no run is finished, or no finished run is of the agent ``against``.
    """
    with unpacked(folders) as names:
        found = [load_run(path) for path in names]
    left_out = [f"{names[run.path]}: {reason}" for run in found if (reason := reason_left_out(run))]
    sections: dict[Learned, list[RunRecord]] = defaultdict(list)
    for run in found:
        if not reason_left_out(run):
            sections[_sequence(run)].append(run)
    if not sections:
        raise UserError(f"no finished run in {', '.join(map(str, folders))}: expected at least one")
    left_out += [f"{names[run.path]}: {REPEATED}" for runs in sections.values() for run in repeated_runs(runs)]
    tables = {sequence: _groups(sections[sequence]) for sequence in sorted(sections)}
    labels = {group.label for groups, _ in tables.values() for group in groups}
    if against is not None and against not in labels:
        raise UserError(f"--against {against}: no finished run of it: expected one of {', '.join(sorted(labels))}")
    headings, first = _names(tables), dict[tuple[object, ...], Learned]()
    for key in tables:
        first.setdefault(key[:3], key)
    pages = [_section(headings[key], key, *tables[key], against, first[key[:3]], sections) for key in tables]
    # One table for each sequence and number of steps: of those that differ in references or evaluations, the first.
    counted = {headings[key]: tables[key][0] for key in first.values()}
    together = [] if against is None else _over_sequences(counted, against)
    return "\n".join([_HEAD, *pages, *together, _PUBLISHED]), left_out


def _sequence(run: RunRecord) -> Learned:
    """Return name, games and steps of a run's sequence, and all else that comparable runs have in common."""
    stages = [run.tasks[task] for task in run.visits]
    name = str(run.config.get("sequence_name") or "games")
    same = json.dumps(aspects(run.config), sort_keys=True)
    return name, tuple(task.title for task in stages), tuple(task.steps for task in stages), same


def _names(keys: Iterable[Learned]) -> dict[Learned, str]:
    """Return a heading for each table: the sequence's name, with the number of the table if there are several."""
    seen: dict[str, int] = defaultdict(int)
    found = {}
    for key in keys:
        seen[key[0]] += 1
        found[key] = key[0] if seen[key[0]] == 1 else f"{key[0]} ({seen[key[0]]})"
    return found


def _groups(runs: Sequence[RunRecord]) -> tuple[list[Group], str]:
    """Return the rows of a table, the highest ACC first, and how its scores are scaled if no reference is known."""
    note = ""
    if not normalised_by_recipe(runs):
        runs = rescale_observed(runs)
        note = " No reference is known: 0 and 1 are the lowest and the highest mean return in any of these runs."
    return sorted(group_runs(runs), key=_order), note


def _section(
    name: str,
    sequence: Learned,
    groups: Sequence[Group],
    note: str,
    against: str | None,
    alike: Learned,
    runs: Mapping[Learned, Sequence[RunRecord]],
) -> str:
    """Return a table; ``alike`` is the first one with the same games and steps."""
    _, games, steps, _ = sequence
    if alike != sequence:
        other = ", ".join(differences(runs[alike][0].config, runs[sequence][0].config))
        note += f" Not comparable with the first table of this sequence: other {other}."
    lengths = f"{steps[0]:,} steps each" if len(set(steps)) == 1 else f"steps: {', '.join(f'{n:,}' for n in steps)}"
    first = next((group for group in groups if group.label == against), None)
    headings, rows = list(_HEADINGS), [_row(group) for group in groups]
    if first is not None:
        headings.append(f"ACC − that of {_escaped(first.label)}")
        for row, group in zip(rows, groups, strict=True):
            row.append("" if group is first else _difference(first, group))
    table = [headings, ["---"] * len(headings), *rows]
    parts = [
        f"## {_escaped(name)}",
        f"{_escaped(' → '.join(games))}; {lengths}.{note}",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        "\n".join(f"- {_escaped(group.label)}: {_origin(group)}" for group in groups),
    ]
    return "\n\n".join(parts) + "\n"


def _over_sequences(tables: Mapping[str, Sequence[Group]], against: str) -> list[str]:
    """Return a section with the differences to an agent averaged over sequences; none if it is on less than two."""
    firsts = {name: group for name, groups in tables.items() for group in groups if group.label == against}
    labels = dict.fromkeys(group.label for groups in tables.values() for group in groups)
    rows = [row for label in labels if label != against and (row := _mean_difference(tables, firsts, label))]
    if not rows:
        return []
    name = _escaped(against)
    headings = ["agent", "sequences", "seeds", f"ACC − that of {name}", f"worst − that of {name}"]
    table = [headings, ["---"] * len(headings), *rows]
    text = (
        "The difference of each seed is averaged over the sequences first; seeds that one of them lacks are left out."
    )
    return ["\n\n".join(["## Over sequences", text, "\n".join(f"| {' | '.join(row)} |" for row in table)]) + "\n"]


def _mean_difference(tables: Mapping[str, Sequence[Group]], firsts: Mapping[str, Group], label: str) -> list[str]:
    """Return the row of an agent; empty if it is on less than two sequences with the other one."""
    pairs = [
        (name, firsts[name], group)
        for name, groups in tables.items()
        for group in groups
        if group.label == label and name in firsts
    ]
    if len(pairs) < 2:
        return []
    acc = SUMMARY_METRICS["ACC"]
    cells, seeds = [], list[int]()
    for compute in (acc.compute, acc.worst):
        assert compute is not None  # ACC has a worst game
        found = [paired_differences(first, group, compute) for _, first, group in pairs]
        seeds = sorted(set.intersection(*map(set, found)))
        cells.append(_cell(estimate([float(np.mean([one[seed] for one in found])) for seed in seeds]), signed=True))
    return [_escaped(label), ", ".join(name for name, _, _ in pairs), ", ".join(map(str, seeds)), *cells]


def _difference(first: Group, other: Group) -> str:
    """Return the paired difference in ACC with its number of pairs, where not all runs are paired."""
    found = paired_estimate(first, other, SUMMARY_METRICS["ACC"].compute)
    pairs = len(found.values)
    cell = _cell(found, signed=True)
    return cell if pairs in (0, len(other.runs)) else f"{cell} ({pairs} pairs)"


def _order(group: Group) -> tuple[float, str]:
    """Return the key to sort by: the highest ACC first, groups without one last."""
    acc = metric_estimate(group, "ACC").centre
    return (np.inf if np.isnan(acc) else -acc), group.label


def _row(group: Group) -> list[str]:
    speeds = [value for run in group.runs for value in _last_rows(run, lambda row: row.steps_per_second)]
    memory = [value for run in group.runs for value in _last_rows(run, lambda row: row.peak_memory_mb)]
    worst = worst_estimate(group, "ACC")
    return [
        _escaped(group.label),
        str(len(group.runs)),
        _cell(metric_estimate(group, "ACC")),
        "–" if worst is None else _cell(worst),
        _with_worst(group, "BWT"),
        _cell(metric_estimate(group, "Plasticity")),
        f"{np.mean(speeds):,.0f}" if speeds else "–",
        f"{max(memory):,.0f}" if memory else "–",
        ", ".join(_different(str(run.environment.get("commit") or "unknown")[:12] for run in group.runs)),
    ]


def _with_worst(group: Group, name: str) -> str:
    """Return a signed metric and that of the worst game."""
    cell, worst = _cell(metric_estimate(group, name), signed=True), worst_estimate(group, name)
    return cell if worst is None or np.isnan(worst.centre) else f"{cell}; worst {_cell(worst, signed=True)}"


def _last_rows(run: RunRecord, value: Callable[..., float]) -> list[float]:
    """Return a value of the last row of each stage in ``speed.csv``."""
    last = {row.stage: value(row) for row in run.speed}
    return [number for number in last.values() if np.isfinite(number)]


def _cell(found: Estimate, *, signed: bool = False) -> str:
    if np.isnan(found.centre):
        return "–"
    centre = score_text(found.centre, signed=signed)
    if found.interval is None:
        return centre
    return f"{centre} [{', '.join(score_text(end, signed=signed) for end in found.interval)}]"


def _origin(group: Group) -> str:
    """Return command, seeds and machines of a row."""
    seeds = ", ".join(str(run.seed) for run in group.runs)
    machines = _different(_machine(run) for run in group.runs)
    return f"`{_command(group.first.command)}`; seeds {seeds}; {'; '.join(machines)}"


def _command(text: str) -> str:
    """Return a command line without paths of the machine that it ran on."""
    try:
        words = shlex.split(text)
    except ValueError:
        return "unknown"
    return shell_command(*without_paths(words)).replace("`", "'") or "unknown"


def _machine(run: RunRecord) -> str:
    known = [("", "device"), ("", "machine"), ("cores ", "cores"), ("threads ", "threads")]
    return ", ".join(f"{word}{run.environment[key]}" for word, key in known if run.environment.get(key))


def _different(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
