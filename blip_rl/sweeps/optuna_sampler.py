"""Suggest settings to try with Optuna's tree-structured Parzen estimator; imported only by ``--search optuna``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blip_rl.errors import UserError
from blip_rl.extras import install_command
from blip_rl.sweeps.plan import Values
from blip_rl.sweeps.ranges import Range

_DIGITS = 4  # significant ones of a suggested number, which is part of the names of runs


def check_installed() -> None:
    """Check that Optuna can be imported.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--search optuna needs Optuna, which is not installed: {install_command('optuna')} (or vary settings with "
            "--grid)"
        ) from error


def suggest(
    ranges: Mapping[str, Range], tried: Sequence[tuple[Values, float | None]], count: int
) -> list[dict[str, Any]]:
    """Suggest settings that may have a higher value than those tried.

    The suggestions depend on the arguments alone, so a search that was killed continues with the same suggestions.

    Args:
        ranges: Key → values to search.
        tried: Settings and their values; None for one that failed.
        count: Number of settings to suggest.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {key: _distribution(one) for key, one in ranges.items()}
    # constant_liar: settings that are tried at the same time should differ.
    sampler = optuna.samplers.TPESampler(seed=len(tried), constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for values, value in tried:
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(state=state, params=dict(values), distributions=found, value=value))
    asked = [study.ask(found).params for _ in range(count)]
    return [{key: _rounded(ranges[key], value) for key, value in values.items()} for values in asked]


def _distribution(one: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.choices:
        return CategoricalDistribution(one.choices)
    if isinstance(one.low, int) and isinstance(one.high, int):
        return IntDistribution(one.low, one.high, log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)  # Range checks that they are set


def _rounded(one: Range, value: Any) -> Any:
    if not isinstance(value, float) or one.low is None or one.high is None:
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), float(one.low)), float(one.high))
