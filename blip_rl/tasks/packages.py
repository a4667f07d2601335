"""Well-known packages of environments, recognised by the ids that they register. None is imported for a suggestion."""

from __future__ import annotations

import re

_MO_NAMES = "deep-sea-treasure|minecart|resource-gathering|four-room|fruit-tree|fishwood|breakable-bottles"
_HIGHWAY_NAMES = "highway|merge|roundabout|parking|intersection|racetrack|exit|u-turn|two-way|lane-keeping"
_ROBOTICS_NAMES = "Fetch|HandReach|HandManipulate|PointMaze_|AntMaze_|AdroitHand|FrankaKitchen-"
_PACKAGES = {
    "minigrid": r"(MiniGrid|BabyAI)-.+",
    "miniworld": r"MiniWorld-.+",
    "highway_env": rf"({_HIGHWAY_NAMES})(-[\w-]+)?-v\d+",
    "mo_gymnasium": rf"(mo-.+|({_MO_NAMES})[\w-]*)-v\d+",
    "gymnasium_robotics": rf"({_ROBOTICS_NAMES}).*-v\d+",
    "panda_gym": r"Panda(Reach|Push|Slide|PickAndPlace|Stack|Flip).*-v\d+",
    "flappy_bird_gymnasium": r"FlappyBird-v\d+",
    "metaworld": r"Meta-World/.+",
}


def id_with_package(game: str) -> str | None:
    """Return ``package:id`` for the id of a well-known package's environment; None for other names."""
    return next((f"{package}:{game}" for package, ids in _PACKAGES.items() if re.fullmatch(ids, game[:200])), None)
