"""Stand-in for trackio: the calls that blip-rl makes, with their argument names; they are kept in ``calls``."""

from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace

calls = []
context_vars = SimpleNamespace(current_run=ContextVar("current_run"))


class _Value:
    def __init__(self, value):
        self.value = Path(value).read_bytes() if isinstance(value, str | Path) else value


class Image(_Value):
    pass


class Histogram(_Value):
    pass


class Video(_Value):
    pass


class Run:
    def log(self, metrics, step):
        calls.append(("log", metrics, step))

    def log_artifact(self, artifact_or_path, name, type):
        calls.append(("file", name, Path(artifact_or_path).read_text()))

    def finish(self):
        print("* Run finished.")
        calls.append(("finish",))


def init(project, name, resume, config, embed):
    assert resume == "allow"
    print("* Trackio project initialized")
    context_vars.current_run.set(name)
    calls.append(("init", project, name, config))
    return Run()
