"""An inspection as a person reads it in a terminal."""

from __future__ import annotations

import textwrap

from blip_rl.report.audit import Audit, Flips
from blip_rl.report.forecast import FORECAST_RULE, Forecast
from blip_rl.report.inspect import Inspection, LayerBits
from blip_rl.untrusted.files import printable


def inspection_text(found: Inspection) -> str:
    """Blocks of lines: bits, forecast, plasticity, audit, and what could not be read."""
    blocks = [
        _heading(found),
        *([_bits(found), _forecast(found)] if found.layers else []),
        *([_plasticity(found)] if found.plasticity else []),
        _audit(found),
        *(["\n".join(f"problem: {problem}" for problem in found.problems)] if found.problems else []),
    ]
    return printable("\n\n".join(blocks))


def _heading(found: Inspection) -> str:
    lines = [f"{found.run}: {found.agent} learns {', '.join(found.tasks)}"]
    if found.total_bits is None:
        lines.append(f"this method ({found.method}) freezes no bits")
        lines += found.holdings
    elif not found.layers:
        lines.append("no bits frozen yet: the first task has not been consolidated")
    return "\n".join(lines)


def _bits(found: Inspection) -> str:
    rows = [["layer", "weights", *(f"after {_task(found, stage)}" for stage in found.stages), "full"]]
    for bits in found.layers:
        cells = [f"{frozen:.1f} / {free:.1f}" for frozen, free in zip(bits.frozen, bits.free, strict=True)]
        rows.append([bits.layer, f"{bits.weights:,}", *cells, _full(bits.forecast, found.stages[-1])])
    title = f"bits of a weight, frozen / free, mean over the layer ({found.total_bits} in all; biases left out)"
    return "\n".join([title, *_aligned(rows)])


def _task(found: Inspection, stage: int) -> str:
    return found.tasks[stage - 1] if 0 < stage <= len(found.tasks) else f"stage {stage}"


def _full(forecast: Forecast | None, stage: int) -> str:
    if forecast is None or forecast.full_after_task is None:
        return "never"
    if forecast.full_after_task <= stage:
        return "already"
    return f"after task {forecast.full_after_task:,}"


def _forecast(found: Inspection) -> str:
    first, last = found.full_next, found.stages[-1]
    if first is None:
        verdict = "forecast: at the present rate no layer fills up"
    else:
        left = _tasks_left(first, last)
        after = f"{left:,} more task{'s' if left != 1 else ''}" if left else "no more tasks"
        verdict = f"forecast: {after} until {first.layer}, the first layer to fill up, is full"
    rule = textwrap.fill(f"rule: {FORECAST_RULE}", 100, initial_indent="  ", subsequent_indent="  ")
    return f"{verdict}\n{rule}"


def _tasks_left(bits: LayerBits, last: int) -> int:
    after = bits.forecast.full_after_task if bits.forecast else None
    return max(0, (after or last) - last)


def _plasticity(found: Inspection) -> str:
    newest = found.plasticity[-1]
    when = {"periodic": "while learning", "before": "before consolidating", "after": "after consolidating"}
    rows = [["layer", "dormant units", "effective rank", "gradient norm"]]
    for row in found.plasticity:
        rank, norm = f"{row.effective_rank:.1f}", f"{row.gradient_norm:.3g}"
        rows.append([row.layer, f"{row.dormant_share:.1%}", rank, norm])
    title = (
        f"plasticity at step {newest.env_steps:,}, {when.get(newest.phase, newest.phase)} {_task(found, newest.stage)}"
    )
    return "\n".join([title, *_aligned(rows)])


def _audit(found: Inspection) -> str:
    if found.audit is None:
        nothing = "no bits to compare" if found.total_bits is None else "no stage checkpoint to compare yet"
        return f"audit: {nothing}"
    if len(found.audit.stages) < 2:
        return f"audit: one stage checkpoint ({found.audit.stages[0]}): nothing later to compare it with yet"
    flipped = [flips for flips in found.audit.flips if flips.weights]
    what = f"{found.audit.parameters:,} weights and biases, stages {', '.join(map(str, found.audit.stages))}"
    if not flipped:
        return f"audit: no frozen bit flipped between any two stages ({what})"
    rows = [["frozen after", "looked at after", "weights that left", "share", "bits flipped", "furthest"]]
    rows += [_flips(found, found.audit, flips) for flips in flipped]
    note = "  furthest: distance from the centre in radii of the weight's interval; up to 1 is inside"
    return "\n".join([f"audit: frozen bits FLIPPED ({what})", *_aligned(rows), note])


def _flips(found: Inspection, audit: Audit, flips: Flips) -> list[str]:
    return [
        _task(found, flips.earlier),
        _task(found, flips.later),
        f"{flips.weights:,}",
        f"{flips.weights / audit.parameters:.2%}",
        f"{flips.bits:,}",
        f"{flips.furthest:.4g}",
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns side by side: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
