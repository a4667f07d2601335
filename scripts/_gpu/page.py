"""The results of a GPU check as a Markdown page: ``docs/gpu.md``."""

from __future__ import annotations

from collections import Counter
from typing import Any

from _measure import markdown_table

Results = dict[str, Any]


def page(results: Results) -> str:
    """Format the results by section; sections without results say so."""
    sections = [_tests, _fidelity, _throughput, _games]
    return "\n\n".join([_head(results), *(section(results) for section in sections)]) + "\n"


def _head(results: Results) -> str:
    machine, versions = results["machine"], results["versions"]
    return (
        "# On a GPU\n\n"
        f"Written by `{results['command']}` at commit {results['commit']}: {results['device']}, "
        f"{machine['cores']} cores of {machine['cpu']}, "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}."
    )


def _tests(results: Results) -> str:
    found = results.get("tests", {}).get("outcomes")
    if found is None:
        return f"## Tests\n\nNot run: {results.get('tests', {}).get('skipped', 'no result')}."
    counts = Counter(outcome.partition(":")[0] for outcome in found.values())
    bad = [f"- `{name}`: {outcome}" for name, outcome in found.items() if not outcome.startswith("passed")]
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return "\n".join([f"## Tests\n\n`pytest -m gpu`: {summary}.", *bad])


def _fidelity(results: Results) -> str:
    found = results.get("fidelity", {})
    rows = [
        [
            agent,
            name,
            f"{one['weights_relative']:.1e}",
            f"{one['first_loss_relative']:.1e}",
            "yes" if one["equal"] else "no",
        ]
        for agent, results_of in found.items()
        if isinstance(results_of, dict)
        for name, one in results_of.get("comparisons", {}).items()
    ]
    text = "## Equality of captured and eager execution\n\n" + (
        "They learn from the same rollouts, starting from the same state. Weights: the largest difference of a weight, "
        "divided by the largest change of a weight in training.\n\n"
        + markdown_table(["agent", "compared", "weights", "first loss", "bit-identical"], rows)
        if rows
        else "Not measured."
    )
    lines = [
        f"Two games with {agent}, {name}: {_files(comparison)}."
        for agent, comparisons in results.get("resume", {}).items()
        if isinstance(comparisons, dict)
        for name, comparison in comparisons.items()
    ]
    return "\n\n".join([text, *lines])


def _files(comparison: Results) -> str:
    if "exit_codes" in comparison:
        return f"a run failed (exit codes {comparison['exit_codes']})"
    different = comparison["different_files"]
    if not different:
        return "all tables and checkpoints are byte-identical"
    runs, of = comparison["different_runs"], comparison["runs"]
    apart = f"{comparison['largest_weight_difference']:.1e}"
    return f"{runs} of {of} runs differ, in {len(different)} files, weights by up to {apart}"


def _throughput(results: Results) -> str:
    found = results.get("throughput", {}).get("speeds", {})
    rows = [
        [name, f"{one['steps_per_second']:,.0f}", f"{100 * one['update_share']:.0f} %", _megabytes(one["gpu_peak_mb"])]
        if "error" not in one
        else [name, one["error"][:80], "", ""]
        for name, one in found.items()
    ]
    if not rows:
        return "## Speed\n\nNot measured."
    head = ["agent, environments, path, precision, CPU threads of torch", "steps/s", "update", "GPU memory, MB"]
    return "\n\n".join(["## Speed", markdown_table(head, rows), *_parts(found)])


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _parts(found: Results) -> list[str]:
    with_parts = {name: one for name, one in found.items() if "shares" in one}
    if not with_parts:
        return []
    parts = list(next(iter(with_parts.values()))["shares"])
    rows = [
        [
            name,
            f"{one['emulator_alone']:,.0f}",
            f"{one['inference_alone']:,.0f}",
            *(f"{100 * one['shares'][part]:.0f} %" for part in parts),
        ]
        for name, one in with_parts.items()
    ]
    return [
        "Each part alone (steps/s), then its share of the time in training:",
        markdown_table(["", "emulator", "inference", *parts], rows),
    ]


def _games(results: Results) -> str:
    found = results.get("games", {})
    if not found.get("scores"):
        return "## Three games\n\nNot run."
    text = f"## Three games\n\n{found['steps_per_game']:,} steps each, all agents at once, {found['seconds']:.0f} s."
    rows = [
        [agent, f"{stage}", *(f"{scores[game]:.3g}" if game in scores else "" for game in found["games"])]
        for agent, stages in found["scores"].items()
        for stage, scores in stages.items()
    ]
    return "\n\n".join([text, markdown_table(["agent", "games learned", *found["games"]], rows)])
