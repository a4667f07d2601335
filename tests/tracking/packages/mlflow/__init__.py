"""Stand-in for mlflow: the calls that blip-rl makes, with their argument names; they are kept in ``calls``."""

from pathlib import Path
from types import SimpleNamespace

calls = []


def _run(run_id):
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id))


class MlflowClient:
    tracking_uri = "https://mlflow.example"

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return name

    def create_run(self, experiment_id, run_name):
        calls.append(("create", experiment_id, run_name))
        return _run("abc123")

    def get_run(self, run_id):
        return _run(run_id)

    def update_run(self, run_id, status):
        calls.append(("update", run_id, status))

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(params) <= 100
        calls.append(("batch", run_id, [vars(one) for one in metrics], {one.key: one.value for one in params}))

    def log_image(self, run_id, image, key, step):
        calls.append(("image", run_id, image, key, step))

    def log_artifact(self, run_id, local_path, artifact_path=None):
        path = Path(local_path)
        calls.append(
            ("file", run_id, f"{artifact_path}/{path.name}" if artifact_path else path.name, path.read_bytes())
        )

    def set_terminated(self, run_id, status):
        calls.append(("end", run_id, status))
