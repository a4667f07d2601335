"""Plans of sweeps whose runs take seconds, and an engine that runs nothing."""

from blip_rl.sweeps import run as sweep_run
from blip_rl.sweeps.job import Outcome
from blip_rl.sweeps.manifest import make_manifest
from blip_rl.sweeps.plan import read_plan
from tests.run.broken_off import CARTPOLES

SEQUENCE = "cartpole-a,cartpole-b"


def small_manifest(settings=CARTPOLES, **values):
    return make_manifest(small_plan(settings, **values))


def small_plan(settings=CARTPOLES, **values):
    changes = dict(setting.split("=", 1) for setting in settings)
    given = {
        "agents": "finetune",
        "sequences": (SEQUENCE,),
        "seeds": "0",
        "steps": "512",
        "device": "cpu",
        "set": {key: eval(value) for key, value in changes.items()},
    }
    return read_plan(None, given | values)


class FakeEngine:
    """Ends each job in the next poll, with the statuses that the test gives for it and then with ``finished``.

    With ``until_stopped`` no job ends before all are asked to.
    """

    def __init__(self, places=2, endings=None, until_stopped=False, at_poll=lambda: None):
        self.places, self.endings = places, {name: list(given) for name, given in (endings or {}).items()}
        self.until_stopped, self.at_poll = until_stopped, at_poll
        self.running, self.submitted, self.stopped, self.open = [], [], False, None

    @property
    def free(self):
        return self.places - len(self.running)

    def submit(self, job):
        assert self.free > 0
        self.running.append(job.name)
        self.submitted.append(job.name)

    def poll(self, seconds):
        if self.until_stopped and not self.stopped:
            self.at_poll()
            return []
        ended, self.running = self.running, []
        return [self._outcome(name) for name in ended]

    def _outcome(self, name):
        if self.stopped:
            return Outcome(name, "interrupted", "saved at step 1")
        status = self.endings[name].pop(0) if self.endings.get(name) else "finished"
        return Outcome(name, status, "" if status == "finished" else f"it was {status}")

    def where(self, name):
        return "nowhere"

    def stop(self):
        self.stopped = True

    def __enter__(self):
        self.open = True
        return self

    def __exit__(self, *error):
        self.open = False


def with_engine(engines):
    """Return a Schedule whose engine runs nothing."""
    real = sweep_run.Schedule

    def schedule(jobs, engine, retries, show):
        engines.append(FakeEngine())
        return real(jobs, engines[-1], retries, show)

    return schedule
