"""The model card of a published run: YAML front matter for the Hugging Face Hub, then Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from blip_rl.config import RunConfig
from blip_rl.core import metrics
from blip_rl.core.score_matrix import select_columns
from blip_rl.formatting import score_text
from blip_rl.records import ScoreRow
from blip_rl.reference_scores import task_scale
from blip_rl.reporting.scores import RunScores
from blip_rl.sharing.players import LEAST_AGREEMENT, MOST_DIVERGENCE

_LIMITS = """\
- The agent plays the games above, in simulation, with the preprocessing of `config.toml`, and nothing else.
- It {heads}.
- Scores are of one run with one seed; runs with other seeds differ. Compare agents over several seeds.
- Episodes of the evaluation have fixed seeds, which are disjoint from training's.
"""


@dataclass(frozen=True)
class CardContent:
    """What the card describes.

    Attributes:
        config: The run's recipe.
        scores: Its scores.
        rows: Its evaluation episodes.
        command: The command that trained it.
        licence: Identifier of the licence of the weights, as the Hub knows it.
        name: ``user/name`` on the Hub; ``USER/NAME`` if it is not known yet.
        films: Paths of videos in the folder.
        picture: Path of a picture of the scores in the folder; empty if there is none.
        version: Version of blip-rl that trained it.
        env_steps: Training steps of the whole run.
        players: Stage → how its weights were rounded; empty if the checkpoints are the run's own.
    """

    config: RunConfig
    scores: RunScores
    rows: Sequence[ScoreRow]
    command: str
    licence: str
    name: str
    films: Sequence[str]
    picture: str
    version: str
    env_steps: int
    players: Mapping[int, str] = field(default_factory=dict)


def model_card(content: CardContent) -> str:
    """Return the text of ``README.md``."""
    config = content.config
    games = [task.title or task.name for task in config.tasks]
    parts = [
        _front_matter(content),
        f"# {config.agent_name}: {' · '.join(games)}",
        f"A PPO agent of blip-rl for {len(games)} game{'s' * (len(games) > 1)}: recipe `{config.agent_name}`, method "
        f"`{config.agent.method['name']}`, seed {config.seed}, {content.env_steps:,} training steps.",
        *[f"![Videos of the games]({film})" for film in content.films[:1]],
        _scores(content),
        f"![Score of each game after each stage]({content.picture})" if content.picture else "",
        _usage(content),
        f"## Training\n\n```sh\n{content.command}\n```\n\nblip-rl {content.version}. "
        "Every setting is in `config.toml`, versions of libraries are in `environment.json`, evaluation episodes in "
        f"`scores.csv`{'' if content.players else ', curves in `report.html` (to be downloaded)'}.",
        _players(content),
        f"## Limitations\n\n{_LIMITS.format(heads=_heads(config))}",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _players(content: CardContent) -> str:
    if not content.players:
        return ""
    lines = [f"- Stage {stage}: {text}." for stage, text in content.players.items()]
    return "\n".join(
        [
            "## Weights",
            "",
            "The checkpoints are for playing: they lack what learning another game needs. Weights are float16 where "
            "the policies stay the same: on states of the evaluation's games a mean KL divergence of at most "
            f"{MOST_DIVERGENCE:g} nats and, of discrete actions, the same greedy one in at least "
            f"{LEAST_AGREEMENT:.0%}. The scores are of the float32 weights.",
            "",
            *lines,
        ]
    )


def _heads(config: RunConfig) -> str:
    if config.agent.trunk.heads == "shared":
        return "is not told which game it plays"
    return "must be told which game it plays: every game has its own head"


def _front_matter(content: CardContent) -> str:
    """Return the YAML between two lines of dashes; every value is JSON, which YAML includes."""
    config = content.config
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "continual-learning", "ppo", "blip-rl"]
    values = {
        "library_name": "blip-rl",
        "license": content.licence,
        "pipeline_tag": "reinforcement-learning",
        "tags": [*tags, str(config.agent.method["name"]), *(task.name for task in config.tasks)],
        "model-index": [{"name": config.agent_name, "results": _results(content)}],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---"])


def _results(content: CardContent) -> list[dict[str, Any]]:
    found = []
    for task in content.config.tasks:
        last = _last_episodes(content, task.name)
        if last:
            value = f"{np.mean(last):.2f} +/- {np.std(last):.2f}"
            found.append(
                {
                    "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
                    "dataset": {"type": task.game, "name": task.title or task.name},  # games may occur twice
                    "metrics": [{"type": "mean_reward", "name": "mean_reward", "value": value, "verified": False}],
                }
            )
    return found


def _last_episodes(content: CardContent, task: str) -> list[float]:
    """Return the returns of a game's episodes after the last stage."""
    stages = content.config.stages
    return [
        row.score
        for row in content.rows
        if (row.task, row.stage, row.phase, row.actions) == (task, stages, "after", content.scores.actions)
    ]


def _scores(content: CardContent) -> str:
    config, scores = content.config, content.scores
    if not content.rows:
        return "## Scores\n\nThe run has no scores: `blip-rl evaluate` plays it."
    lines = [
        "## Scores",
        "",
        "| game | after learning it | at the end | ± over episodes | random | reference | normalised at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for index, task in enumerate(config.tasks):
        learned = max(stage for stage, visited in enumerate(scores.visits) if visited == index)
        episodes = _last_episodes(content, task.name)
        spread = score_text(float(np.std(episodes))) if episodes else "–"
        reference = _shown(task.reference_score) + (f" ({task.reference_name})" if task.reference_name else "")
        cells = [
            task.title or task.name,
            _shown(float(scores.after[learned, index])),
            _shown(float(scores.after[-1, index])),
            spread,
            _shown(task.random_score),
            reference,
            _shown(float(scores.after_normalised[-1, index])),
        ]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    lines += ["", *_summary(content)]
    return "\n".join(lines)


def _summary(content: CardContent) -> list[str]:
    config, scores = content.config, content.scores
    lines = [f"Mean raw returns of whole games, {config.evaluation.episodes} episodes each, {scores.actions} actions."]
    kept = [index for index, task in enumerate(config.tasks) if task.has_normalisers]
    if kept:
        lines[0] += f" Normalised: {task_scale(config.tasks)}."
        matrix, visits = select_columns(scores.after_normalised, scores.visits, kept)
        values = {
            "ACC (mean of the normalised scores at the end)": metrics.average_performance(matrix),
            "worst game": metrics.worst_performance(matrix),
            "BWT (mean change since just after learning)": metrics.backward_transfer(matrix, visits),
        }
        lines += ["", *(f"- {name}: {_shown(value)}" for name, value in values.items())]
    return lines


def _shown(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else score_text(value)


def _usage(content: CardContent) -> str:
    game = content.config.tasks[0].name
    return f"""## Use

```python
import blip_rl as br  # with its extra hub

run = br.load("hf:{content.name}")
agent = run.agent(game={game!r})
env = agent.make_env()
observation = env.reset()
action, _ = agent.predict(observation)
```

`br.evaluate(run)` plays the evaluation episodes again, `br.render(run)` renders videos of them."""
