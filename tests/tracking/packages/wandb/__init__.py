"""Stand-in for wandb: the calls that blip-rl makes, with their argument names; they are kept in ``calls``."""

from pathlib import Path

calls = []


class Settings:
    def __init__(self, console, silent):
        assert (console, silent) == ("off", True)


class _Value:
    def __init__(self, value, format=None):
        self.value, self.format = value, format


class Image(_Value):
    pass


class Histogram(_Value):
    pass


class Video(_Value):
    pass


class Artifact:
    def __init__(self, name, type):
        self.name, self.files = name, {}

    def add_file(self, local_path, name):
        self.files[name] = Path(local_path).read_text()


class Run:
    url, offline, dir = "https://wandb.example/run", False, "wandb/run/files"

    def define_metric(self, name, step_metric=None):
        calls.append(("define_metric", name, step_metric))

    def log(self, data):
        calls.append(("log", data))

    def log_artifact(self, artifact):
        calls.append(("file", artifact.name, artifact.files))

    def finish(self, exit_code):
        calls.append(("finish", exit_code))


def init(project, name, id, resume, config, allow_val_change, settings):
    assert resume == "allow"
    calls.append(("init", project, name, id, config))
    return Run()
