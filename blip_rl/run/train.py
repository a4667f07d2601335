"""The training loop: for each task learn, evaluate, (distil,) consolidate, evaluate again, save a checkpoint.

A method that learns all tasks at once has only one stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from blip_rl.config import RunConfig
from blip_rl.console import Console, ProgressMode, optional_picture
from blip_rl.errors import FinishedRunError, InterruptedRunError, UserError
from blip_rl.learner.ppo import ContinualPPO
from blip_rl.learner.separate_trunk import build_method
from blip_rl.methods.base import Method
from blip_rl.recipes import dump_run_config, load_run_config
from blip_rl.run.autosave import Autosave
from blip_rl.run.callbacks import as_callback, joined
from blip_rl.run.consolidation import consolidate
from blip_rl.run.context import RunContext, stage_seed, training_seed
from blip_rl.run.device import cpu_threads, resolve_device
from blip_rl.run.interruption import StopRequest, StopRequestError, resume_hint, with_resume_hint
from blip_rl.run.multitask import multitask_training
from blip_rl.run.plasticity import PlasticityRecorder
from blip_rl.run.resume import check_scores, newest_snapshot, restore_task, resume_message, roll_back
from blip_rl.run.scores import ScoreBook
from blip_rl.run.summary import boundary_line, closing_text, opening_text
from blip_rl.run.task_checks import check_tasks
from blip_rl.run.tensorboard import LockedEventFile, hyperparameters, log_report
from blip_rl.run.training_callback import TrainingCallback
from blip_rl.storage import paths, provenance, snapshot, validation
from blip_rl.storage.checkpoint import save_stage
from blip_rl.storage.returns import TrainingReturns
from blip_rl.storage.run_folder import RunFolder, planned_folder
from blip_rl.storage.snapshot import RunSnapshot
from blip_rl.tracking.names import TrackChoice, check_installed
from blip_rl.tracking.saved import chosen_tracker
from blip_rl.tracking.sink import TrackedRun
from blip_rl.tracking.tracker import open_tracker, trackers


def train(
    config: RunConfig,
    *,
    out: Path | None = None,
    threads: int = 0,
    quiet: bool = False,
    progress: ProgressMode = "auto",
    callback: MaybeCallback = None,
    take_over: bool = False,
    track: TrackChoice | None = None,
) -> Path:
    """Learn a sequence of tasks with one agent, and write a run folder.

    Args:
        config: The resolved recipe.
        out: Folder to create; None picks a new name below ``runs/``.
        threads: CPU threads of torch; 0 keeps torch's default on a CPU (OMP_NUM_THREADS, or every core) and uses one on
            a GPU.
        quiet: Print nothing.
        progress: How to show progress, unless ``quiet``.
        callback: Callbacks of stable-baselines3, called in the training of every task.
        take_over: Take the folder from a process that is suspended or whose machine is lost (:meth:`RunFolder.locked`).
        track: Tracker that gets what TensorBoard gets; ``none`` or None: no tracker.

    Returns:
        The run folder.

    Raises:
        UserError: The recipe or the folder is invalid; nothing is written.
        RunError: Training diverged, a game failed, a file could not be written, or memory ran out.
        InterruptedRunError: A signal requested a stop; the run is saved.
    """
    check_installed(track)
    folder, called = planned_folder(out, config), as_callback(callback)
    device = resolve_device(config.device)
    if count := cpu_threads(threads, device):
        torch.set_num_threads(count)  # otherwise torch's default: OMP_NUM_THREADS, or every core
    method = build_method(config.agent)
    check_tasks(config, method)
    folder = folder.create(dump_run_config(config), device, _seeds(config), take_over=take_over)
    with with_resume_hint(folder), folder.locked(take_over=take_over):
        console = Console(quiet, progress)
        console.say(opening_text(config, folder.path, device))
        run = _open(config, folder, device, method, console, called, chosen_tracker(folder.path, track))
        _learn(run, None)
    run.console.show_result(closing_text(config, run.scores, folder.path))
    return folder.path


def resume(
    path: Path,
    *,
    accept_changes: bool = False,
    threads: int = 0,
    quiet: bool = False,
    progress: ProgressMode = "auto",
    callback: MaybeCallback = None,
    take_over: bool = False,
    track: TrackChoice | None = None,
) -> Path:
    """Resume a stopped or killed run. Results are bit-identical to those of an uninterrupted run.

    Args:
        path: The run folder.
        accept_changes: Resume although files, versions, device or threads have changed, which may change the results.
        threads: CPU threads of torch; 0 uses as many as before.
        quiet: Print nothing.
        progress: How to show progress, unless ``quiet``.
        callback: Callbacks of stable-baselines3, called in the training of every task.
        take_over: Take the folder from a process that is suspended or whose machine is lost (:meth:`RunFolder.locked`).
        track: A tracker, or ``none``; None: continue the run of the tracker that the folder was tracked with, if any.

    Returns:
        The run folder.

    Raises:
        UserError: Not a run folder; the run is finished; another process writes it; or files, versions, device or
            threads have changed.
        RunError: No snapshot is readable; or an error as in :func:`train`.
        InterruptedRunError: A signal requested a stop; the run is saved.
    """
    folder, called = RunFolder.existing(path), as_callback(callback)
    paths.check_utf8(path)
    config, tracked = load_run_config(folder.config), chosen_tracker(path, track)
    device = resolve_device(config.device)
    folder.recover()
    _check_unfinished(folder, config)  # a finished run is not locked, so that no file of it changes
    with ExitStack() as held:
        with with_resume_hint(folder):
            held.enter_context(folder.locked(take_over=take_over))
        _check_unfinished(folder, config)  # its process may have finished it meanwhile
        torch.set_num_threads(threads or provenance.saved_threads(path))
        provenance.check_environment(path, device, accept_changes)
        method = build_method(config.agent)
        tasks, saved = check_tasks(config, method), newest_snapshot(folder, accept_changes)
        if saved is None:
            provenance.check_initial_recipe(path, folder.recipe(), accept_changes)
        else:
            provenance.check_recipe(folder.config, saved.recipe, accept_changes)
            if saved.stage > config.stages:
                raise UserError(f"'{folder.config}' has {config.stages} stages: the run is at stage {saved.stage}")
            validation.check_actions(saved.known_tasks, tasks)
            snapshot.check_fits(saved, config, folder.config)  # before roll_back: an error must leave the run as it is
            check_scores(folder, saved, config)
        resuming, console = resume_message(folder, config, saved), Console(quiet, progress)
        with with_resume_hint(folder):
            roll_back(folder, saved)
            console.say(resuming)
            run = _open(config, folder, device, method, console, called, tracked)
            run.scores.restore(folder.read_scores())
            _learn(run, saved)
        run.console.show_result(closing_text(config, run.scores, path))
    return folder.path


def _check_unfinished(folder: RunFolder, config: RunConfig) -> None:
    if folder.finished(config.stages):
        raise FinishedRunError(
            f"the run in '{folder.path}' is finished: there is nothing to resume (blip-rl evaluate, or train)"
        )


def _learn(run: RunContext, saved: RunSnapshot | None) -> None:
    """Run all stages, or the remaining ones of a resumed run, and handle stops."""
    try:
        with run.stop.handle_signals():
            if run.method.interleaved:
                _learn_multitask(run, saved)
            else:
                for stage in range(saved.stage if saved else 1, run.config.stages + 1):
                    _learn_stage(run, stage, saved if saved and saved.stage == stage else None)
            run.folder.finish()
            log_report(run.logger, run.folder, run.agent.num_timesteps)
    except StopRequestError:
        raise InterruptedRunError(f"stopped: {resume_hint(run.folder)}", run.stop.signal_number or 0) from None
    except KeyboardInterrupt:
        for tracker in trackers(run.logger):
            tracker.patience = 0.0  # the second Ctrl-C: exit at once
        run.console.say(f"\nstopped immediately: {resume_hint(run.folder)}")
        raise
    finally:
        with suppress(OSError):  # on a full disk, the error of the last flush would hide the original one
            run.logger.close()


def _seeds(config: RunConfig) -> dict[str, Any]:
    stages = config.all_stages
    return {
        "run": config.seed,
        "first_training_seed_of_each_stage": [training_seed(config.seed, stage) for stage in stages],
        "first_evaluation_seed": config.evaluation.seed,
    }


def _open(
    config: RunConfig,
    folder: RunFolder,
    device: str,
    method: Method,
    console: Console,
    callback: BaseCallback | None,
    tracked: TrackedRun | None,
) -> RunContext:
    tracker = tracked and open_tracker(folder.path, tracked, hyperparameters(config), console.say)
    logger = Logger(str(folder.path), [LockedEventFile(folder), *([tracker] if tracker else [])])
    stop = StopRequest(console.say)
    plasticity = PlasticityRecorder(folder, logger, method)
    return RunContext(
        config,
        folder,
        device,
        method,
        logger,
        scores=ScoreBook(config, folder, logger, console, method, stop, plasticity),
        plasticity=plasticity,
        returns=TrainingReturns(folder),
        console=console,
        stop=stop,
        callback=callback,
    )


@contextmanager
def _environments(run: RunContext, stage: int, saved: RunSnapshot | None) -> Iterator[VecEnv]:
    """Create a task's training environments and select the task in the agent; close them after the block."""
    seed, task = run.config.seed, run.config.task_of(stage)
    env = run.make_games(stage)
    try:
        if run.has_agent:
            # A process that resumes this task restores the generators from the snapshot instead.
            set_random_seed(stage_seed(seed, stage))
            run.agent.switch_task(task.name, env)
        else:
            run.start_agent(task.name, env, saved.known_tasks if saved else ())
        env.seed(training_seed(seed, stage))  # stable-baselines3 reseeds them when the agent is created
        yield env
    finally:
        env.close()


def _learn_stage(run: RunContext, stage: int, saved: RunSnapshot | None) -> None:
    """Learn one task, or the rest of it from a snapshot; consolidate it and save its checkpoint."""
    with _environments(run, stage, saved):
        agent = run.agent
        autosave = restore_task(run, saved) if saved else Autosave(run, stage, training_seed(run.config.seed, stage))
        if saved is None or saved.phase == "learning":
            _learn_task(run, stage, autosave)
            autosave.save_learned()
        else:
            # end_task needs what the method attaches to when a task starts or resumes.
            with agent.protected_by(run.method, resume=True):
                pass
        consolidate(run, agent, stage)
    _save_stage(run, agent, stage)
    _show_gifs(run, agent)
    run.console.say(boundary_line(run.config, run.scores, stage, run.method.frozen_bits()))


def _learn_task(run: RunContext, stage: int, autosave: Autosave) -> None:
    agent, callback = run.agent, TrainingCallback(run, stage, autosave)
    with agent.protected_by(run.method, resume=autosave.resumed):
        try:
            began_at = agent.task_began_at if autosave.resumed else None
            agent.learn_task(run.config.learning_steps(stage), joined(callback, run.callback), began_at)
        finally:
            callback.close()


def _learn_multitask(run: RunContext, saved: RunSnapshot | None) -> None:
    """Learn all tasks in one stage. Its number is the last task's: only the last row of the score matrix is filled."""
    stage = run.config.stages
    with multitask_training(run, saved) as agent:
        consolidate(run, agent, stage)
    _save_stage(run, agent, stage)
    _show_gifs(run, agent)


def _save_stage(run: RunContext, agent: ContinualPPO, stage: int) -> None:
    path, check = run.folder.stage_path(stage), run.folder.check_lock
    save_stage(path, stage, agent.num_timesteps, agent.policy, run.method, check)


def _show_gifs(run: RunContext, agent: ContinualPPO) -> None:
    if run.config.evaluation.gifs:
        with optional_picture(f"the videos at step {agent.num_timesteps:,}"):
            # Imported here, because its libraries would delay every run's first step.
            from blip_rl.video.tensorboard import log_boundary_gifs

            log_boundary_gifs(run.logger, run.config, run.scores.boundary_games, agent.num_timesteps)
