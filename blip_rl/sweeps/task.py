"""One run of a sweep in a batch job: ``python -m blip_rl.sweeps.task FOLDER NAME``.

Exit code 0: the run is finished; 75: a signal stopped and saved it, so the same command continues; 1: it failed; 2: the
sweep's folder is not one, or damaged.
"""

from __future__ import annotations

import sys
from pathlib import Path

TO_BE_CONTINUED = 75
"""EX_TEMPFAIL of sysexits.h: try again later."""


def main(folder: str, name: str) -> int:
    """Run the run of this name; return the exit code."""
    from blip_rl.errors import UserError
    from blip_rl.sweeps.job import leave_when_interrupted, run_job
    from blip_rl.sweeps.manifest import load_manifest
    from blip_rl.untrusted.files import printable

    leave_when_interrupted()
    try:
        manifest = load_manifest(Path(folder))
        run = next((run for run in manifest.runs if run.name == name), None)
        job = None if run is None else manifest.job(Path(folder), run)
    except UserError as error:
        print(f"Error: {printable(str(error))}", file=sys.stderr)
        return 2
    if job is None:
        print(f"Error: {name} no longer belongs to the sweep in '{folder}': its plan has changed", file=sys.stderr)
        return 1
    outcome = run_job(job)
    print(f"{name} {outcome.status}{': ' if outcome.message else ''}{outcome.message}", flush=True)
    return {"finished": 0, "interrupted": TO_BE_CONTINUED}.get(outcome.status, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
