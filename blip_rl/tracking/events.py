"""TensorBoard's event file of a run."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.logger import TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

from blip_rl.tracking.values import Document, Film


class EventFile(TensorBoardOutputFormat):
    """stable-baselines3's event file, which also shows :class:`Film` and :class:`Document`."""

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write the values of one step."""
        for key, value in sorted(key_values.items()):
            if "tensorboard" in (key_excluded[key] or ()):
                continue
            if isinstance(value, Film):
                self._add_film(key, value, step)
            elif isinstance(value, Document) and value.markdown:
                self.writer.add_text(key, value.markdown, step)
        super().write(key_values, key_excluded, step)  # ignores both types, and flushes

    def _add_film(self, key: str, film: Film, step: int) -> None:
        width, height = film.size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=film.encoded)
        writer: Any = self.writer.file_writer
        writer.add_summary(Summary(value=[Summary.Value(tag=key, image=image)]), step)
