"""Results of a step as a JSON file that is complete after every measurement, however the step ends."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from _measure import positive_int


class Results:
    """A dictionary that is written to disk at every change.

    Attributes:
        values: What has been measured so far.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        """Start empty.

        Args:
            path: JSON file to write.
            seconds: Time from now after which no further measurement should begin.
        """
        self.values: dict[str, Any] = {}
        self._path, self._deadline = path, time.monotonic() + seconds

    def put(self, name: str, value: Any) -> None:
        """Keep a measurement, also on disk."""
        self.values[name] = value
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self.values, indent=2) + "\n", encoding="utf-8")
        new.replace(self._path)

    def seconds_left(self) -> float:
        """Time until the step's limit, in seconds."""
        return self._deadline - time.monotonic()


def step_options(description: str) -> argparse.Namespace:
    """Parse the options that every step takes: where to compute, for how long, where to write."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="no measurement begins after these")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--environments", type=positive_int, nargs="+", default=[16, 64, 128])
    parser.add_argument("--updates", type=positive_int, default=20)
    parser.add_argument(
        "--steps", type=positive_int, help="of each game of the real run; default: what the rate allows"
    )
    parser.add_argument("--agents", nargs="+", default=["blip", "finetune"], help="of the real run")
    parser.add_argument("--games", default="kungfu,boxing,spaceinvaders", help="of the real run")
    parser.add_argument("--seed", type=int, default=0, help="of the real run")
    parser.add_argument("--rate", type=float, default=0.0, help="steps per second measured before the real run")
    parser.add_argument("--archive", type=Path, help="of the real runs: tables, page and film (.tar.gz)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all recipes")
    return parser.parse_args()
