"""Launchers: jobs become run folders, and an executor of dl2pa.sweep works them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from dl2pa.sweep.plan import Run


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
        self.launched: list[Run] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """A job whose run is not waited for counts as completed, with no value; one that failed carries its error."""
        from dl2pa.sweep.launch import launch, outcomes
        from dl2pa.sweep.plan import planned

        runs = planned(job_overrides)
        self.launched += runs  # a search launches batch after batch
        launch(self.launched, self.name, self.executor, self.settings, self.wait)
        for run in runs:
            run.cfg.rerun = False  # the next batch of a search leaves them alone
        ended = outcomes([run.folder for run in runs])
        return [_returned(run.words, *outcome) for run, outcome in zip(runs, ended, strict=True)]


def _returned(words: Sequence[str], value: float | None, error: Exception | None) -> JobReturn:
    status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
    returned = JobReturn(overrides=words, status=status)
    returned.return_value = value if error is None else error
    return returned
