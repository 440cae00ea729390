"""Launchers: jobs become run folders, and an executor of dl2pa.sweep works them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from dl2pa.folder import RunFolder


class RunFolderLauncher(Launcher):
    """``executor``: local or slurm; ``wait``: come back when all runs have ended; ``settings``: the executor's own."""

    def __init__(self, executor: str, wait: bool, **settings: Any) -> None:
        self.executor, self.wait = executor, wait
        self.settings = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in settings.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        words = config.hydra.overrides.task
        self.name = next((word.removeprefix("sweep=") for word in words if word.startswith("sweep=")), None)
        self.launched: list[RunFolder] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """A job whose run is not waited for counts as completed, with no value; one that failed carries its error."""
        from dl2pa.sweep.launch import launch, outcomes
        from dl2pa.sweep.plan import planned

        runs = planned(job_overrides)
        # A search launches batch after batch, which are one sweep; a point that it comes back to is not trained anew.
        known = {folder.path for folder in self.launched}
        for run in runs:
            run.cfg.rerun = run.cfg.rerun and run.folder.path not in known
        self.name = launch(runs, self.name, self.executor, self.settings, self.wait, self.launched)
        folders = [run.folder for run in runs]
        self.launched += folders
        ended = outcomes(folders)
        return [_returned(run.words, *outcome) for run, outcome in zip(runs, ended, strict=True)]


def _returned(words: Sequence[str], value: float | None, error: Exception | None) -> JobReturn:
    status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
    returned = JobReturn(overrides=words, status=status)
    returned.return_value = value if error is None else error
    return returned
