"""Images that a run writes to TensorBoard while it trains. One that cannot be drawn is a warning, not an error."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.logger import Image, Logger
from torch import Tensor


@contextmanager
def optional_picture(what: str) -> Iterator[None]:
    """Turn every error of the block into a warning: a picture is not worth the end of a training.

    Args:
        what: What would have been shown, for the warning.
    """
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"TensorBoard lacks {what}, training continues: {reason}", stacklevel=3)


def log_heatmap(logger: Logger, tag: str, frozen_bits: Tensor, total_bits: int, title: str) -> None:
    """Record the heatmap of a layer's frozen bits.

    Args:
        logger: The run's.
        tag: Name of the image in TensorBoard.
        frozen_bits: (outputs, ...) bits of every weight.
        total_bits: Upper end of the colour scale.
        title: Which layer, after which task.
    """
    with optional_picture(f"the heatmap of {title}"):
        from blip_rl.report.heatmaps import block_mean, frozen_bits_image  # matplotlib: 0.5 s of a run's start

        small = block_mean(frozen_bits.flatten(1).cpu().numpy())  # millions of weights do not fit on a screen
        image: Any = frozen_bits_image(small, total_bits, title)
        logger.record(tag, Image(image, "HWC"))
