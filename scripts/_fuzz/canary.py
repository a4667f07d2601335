"""Files and a package that create a marker file if any code in them is run."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from pathlib import Path

import torch

from _fuzz.change import CANARY_PACKAGE


class _Canary:
    """Unpickling it creates the marker."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.makedirs, (str(self._mark), 0o700, True)


class Canaries:
    """The marker, and everything that would create it.

    Attributes:
        files: File contents that run code when they are unpickled: pickles, a file of ``torch.save`` and an archive of
            stable-baselines3.
    """

    def __init__(self, folder: Path) -> None:
        self._mark = folder / "canary-marker"
        plain = pickle.dumps(_Canary(self._mark))
        saved = io.BytesIO()
        torch.save({"state_dict": _Canary(self._mark)}, saved)
        self.files = (plain, pickle.dumps(_Canary(self._mark), 0), saved.getvalue(), _archive(plain, saved.getvalue()))
        package = folder / "packages" / CANARY_PACKAGE
        package.mkdir(parents=True)
        code = f"import os\nos.makedirs({str(self._mark)!r}, exist_ok=True)\n"
        for name in ("__init__.py", "deep.py"):
            (package / name).write_text(code, encoding="utf-8")
        sys.path.insert(0, str(package.parent))

    def triggered(self) -> bool:
        """Return whether code has run since the last call."""
        found = self._mark.exists()
        if found:
            self._mark.rmdir()
            for name in [name for name in sys.modules if name.startswith(CANARY_PACKAGE)]:
                del sys.modules[name]
        return found

    def check(self) -> None:
        """Check that running the code is detected.

        Raises:
            RuntimeError: it is not.
        """
        pickle.loads(self.files[0])
        if not self.triggered():
            raise RuntimeError("unpickling the canary was not detected: the fuzzer would find nothing")
        __import__(CANARY_PACKAGE)
        if not self.triggered():
            raise RuntimeError("importing the canary was not detected: the fuzzer would find nothing")


def _archive(pickled: bytes, saved: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("data", pickled), ("policy.pth", saved), ("pytorch_variables.pth", saved)):
            archive.writestr(name, content)
    return file.getvalue()
