"""Format an inspection as text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from blip_rl.formatting import aligned
from blip_rl.reporting.audit import Violations
from blip_rl.reporting.inspection import FORECAST_RULE, Forecast, Inspection, LayerBits
from blip_rl.reporting.visits import come_back, cycle_length, visit_label
from blip_rl.untrusted.files import printable

_MOST_STAGES = 6  # columns of a table that fit into a terminal
_MOST_PAIRS = 30  # rows of the audit


def inspection_text(found: Inspection) -> str:
    """Return blocks of lines: bits, forecast, plasticity, audit and problems."""
    blocks = [
        _heading(found),
        *([_bits(found), *_information(found), _forecast(found)] if found.layers else []),
        *([_plasticity(found)] if found.plasticity else []),
        _audit(found),
        *(["\n".join(f"problem: {problem}" for problem in found.problems)] if found.problems else []),
    ]
    return printable("\n\n".join(blocks))


def _heading(found: Inspection) -> str:
    lines = [f"{found.run}: {found.agent} learns {', '.join(found.tasks)}{_repeated(found.visits)}"]
    if found.total_bits is None:
        lines.append(f"this method ({found.method}) freezes no bits")
        lines += found.method_state
    elif not found.layers:
        lines.append("no bits frozen yet: the first task has not been consolidated")
    return "\n".join(lines)


def _repeated(visits: tuple[int, ...]) -> str:
    """Describe the order of a sequence whose tasks come back."""
    if not come_back(visits):
        return ""
    cycles = len(visits) // cycle_length(visits)
    return f" in {len(visits)} visits" + (f", {cycles} cycles" if cycles > 1 else "")


def _bits(found: Inspection) -> str:
    rows = [["layer", "weights", *(f"after {_task(found, stage)}" for stage in found.stages), "full"]]
    for bits in found.layers:
        cells = [f"{frozen:.1f} / {free:.1f}" for frozen, free in zip(bits.frozen, bits.free, strict=True)]
        rows.append([bits.layer, f"{bits.weights:,}", *cells, _full(found, bits.forecast)])
    title = f"mean bits per weight, frozen / free (of {found.total_bits}; without biases)"
    return "\n".join([title, _stage_table(found, rows)])


def _information(found: Inspection) -> list[str]:
    """Return the effect of the prior and the weights without information; nothing if the run did not record them."""
    blocks = []
    if (first := found.first_task) is not None:
        blocks.append(
            f"prior {first.prior:.3g}: the first task froze {first.informed_bits:.2f} bits of the weights with Fisher "
            f"information on average,\n  {first.bits:.2f} of all weights; inside its intervals the policy can drift by "
            f"{first.drift:.3g} nats (to second order)"
        )
    if any(share is not None for bits in found.layers for share in bits.without_information):
        rows = [["layer", *(_task(found, stage) for stage in found.stages)]]
        rows += [
            [bits.layer, *("" if share is None else f"{share:.1%}" for share in bits.without_information)]
            for bits in found.layers
        ]
        blocks.append("\n".join(["weights without any Fisher information from a task", _stage_table(found, rows)]))
    return blocks


def _task(found: Inspection, stage: int) -> str:
    if not 0 < stage <= len(found.visits):
        return f"stage {stage}"
    return found.tasks[found.visits[stage - 1]] + visit_label(found.visits, stage)


def _unit(found: Inspection) -> str:
    return "visit" if come_back(found.visits) else "task"


def _full(found: Inspection, forecast: Forecast | None) -> str:
    if forecast is None or forecast.full_after_task is None:
        return "never"
    if forecast.full_after_task <= found.stages[-1]:
        return "already"
    return f"after {_unit(found)} {forecast.full_after_task:,}"


def _forecast(found: Inspection) -> str:
    first, last = found.full_next, found.stages[-1]
    if first is None:
        verdict = "forecast: at the present rate no layer fills up"
    else:
        left = _tasks_left(first, last)
        after = f"{left:,} more {_unit(found)}{'s' if left != 1 else ''}" if left else f"no more {_unit(found)}s"
        verdict = f"forecast: {after} until {first.layer}, the first layer to fill up, is full"
    return f"{verdict}\n{_note(f'rule: {FORECAST_RULE}')}"


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
    return "\n".join([title, _table(rows)])


def _audit(found: Inspection) -> str:
    if found.audit is None:
        nothing = "no bits to compare" if found.total_bits is None else "no stage checkpoint to compare yet"
        return f"audit: {nothing}"
    if len(found.audit.stages) < 2:
        return f"audit: one stage checkpoint ({found.audit.stages[0]}): no later one to compare it with yet"
    what = f"{found.audit.parameters:,} weights and biases, stages {_numbers(found.audit.stages)}"
    verdict = f"audit: every weight is inside the intervals of all earlier stages ({what})"
    if any(moved.left for moved in found.audit.pairs):
        verdict = f"audit: weights OUTSIDE their interval ({what})"
    changed = [moved for moved in found.audit.pairs if moved.left or moved.changed]
    if not changed:
        return f"{verdict}\n  no frozen bit changed"
    shown = _most_important(changed, found.audit.stages[-1])
    rows = [["frozen after", "checked after", "outside", "share", "distance", "bits changed", "share"]]
    rows += [_moved(found, moved) for moved in shown]
    notes = [
        "outside: weights outside the interval of the earlier task; distance: largest from its centre, in radii",
        "bits changed: weights whose first S bits differ, with S the bits frozen after the earlier task; the paper's "
        'interval allows this, method.interval = "half" does not',
        "share: of the weights and biases with at least one frozen bit",
    ]
    if len(shown) < len(changed):
        notes.append(f"{len(changed) - len(shown)} more pairs of stages are in the output of --json")
    return "\n".join([verdict, _table(rows), *(_note(note) for note in notes)])


def _most_important(pairs: Sequence[Violations], newest: int) -> list[Violations]:
    """Return all of few pairs; of many, those with weights outside and those with the newest stage."""
    if len(pairs) <= _MOST_PAIRS:
        return list(pairs)
    outside, others = [one for one in pairs if one.left], [one for one in pairs if not one.left]
    return (outside or [one for one in others if one.later == newest])[:_MOST_PAIRS]


def _numbers(stages: Sequence[int]) -> str:
    """List stage numbers; a range if none is missing between the first and the last."""
    if len(stages) > _MOST_STAGES and list(stages) == list(range(stages[0], stages[-1] + 1)):
        return f"{stages[0]} to {stages[-1]}"
    return ", ".join(map(str, stages))


def _stage_table(found: Inspection, rows: list[list[str]]) -> str:
    """Format a table with a row for each layer; of many stages, with a row for each stage instead."""
    return _table([list(column) for column in zip(*rows, strict=True)] if len(found.stages) > _MOST_STAGES else rows)


def _table(rows: list[list[str]]) -> str:
    return textwrap.indent("\n".join(aligned(rows, left=1)), "  ")


def _note(text: str) -> str:
    return textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  ")


def _moved(found: Inspection, moved: Violations) -> list[str]:
    return [
        _task(found, moved.earlier),
        _task(found, moved.later),
        f"{moved.left:,}",
        f"{moved.left / max(1, moved.frozen):.2%}",
        f"{moved.furthest:.4g}" if moved.left else "",
        f"{moved.changed:,}",
        f"{moved.changed / max(1, moved.frozen):.2%}",
    ]
