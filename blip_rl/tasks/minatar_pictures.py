"""Rendering of MinAtar games in the colours of the package's own viewer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blip_rl.task_schedule import MinatarConfig
from blip_rl.tasks.minatar import Game, Planes
from blip_rl.tasks.minatar_names import MinatarGame
from blip_rl.tasks.pictures import Frame, Moment

_CELL_PIXELS = 16
_DECISIONS_PER_SECOND = 20  # minatar.Environment.display_state shows a state for 50 ms


class MinatarScreen:
    """A copy of a game that follows an agent's game if given the same actions."""

    def __init__(self, game: MinatarGame, seed: int, config: MinatarConfig) -> None:
        self.game, self.seed = game.id, seed
        self.decisions_per_second = float(_DECISIONS_PER_SECOND)
        self._game = Game(game, config)
        self._colours = cubehelix(self._game.planes)

    def reset(self) -> Frame:
        """Start the game of the seed and return its first frame."""
        self._game.seed(self.seed)
        return self._picture(self._game.reset())

    def step(self, action: int) -> Moment:
        """Take one step."""
        reward, over = self._game.act(int(action))
        return Moment(self._picture(self._game.state()), float(reward), over)

    def close(self) -> None:
        """Do nothing: the game holds no resources."""

    def _picture(self, planes: Planes) -> Frame:
        """Colour each cell by the last of its planes that is set; empty cells are black."""
        last = (planes * np.arange(1, planes.shape[2] + 1)).max(axis=2)
        cells: Frame = np.concatenate([np.zeros((1, 3), np.uint8), self._colours])[last]
        return cells.repeat(_CELL_PIXELS, axis=0).repeat(_CELL_PIXELS, axis=1)


def cubehelix(colours: int) -> npt.NDArray[np.uint8]:
    """Return evenly spaced colours of the scheme cubehelix, (colours, 3): seaborn's palette, which the viewer uses.

    Source: Green 2011 (https://arxiv.org/abs/1108.5083), with Matplotlib's parameters s = 0.5, r = −1.5, h = γ = 1 and
    its table of 256 entries.
    """
    level = (np.linspace(0, 1, colours + 2)[1:-1] * 256).astype(int) / 255
    angle = 2 * np.pi * (0.5 / 3 - 1.5 * level)
    mix = np.array([[-0.14861, 1.78277], [-0.29227, -0.90649], [1.97294, 0.0]])
    deviation = (level * (1 - level) / 2)[:, None] * (np.stack([np.cos(angle), np.sin(angle)], axis=1) @ mix.T)
    rgb = (level[:, None] + deviation).clip(0, 1)
    return np.asarray(np.rint(rgb * 255), dtype=np.uint8)
