"""Hydra's hooks around the jobs of a sweep (-m)."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from dl2pa.errors import UserError


class Jobs(Callback):
    """Says at once which job failed and why.

    Hydra's launcher goes on with the other jobs, and at the end of the sweep raises the first failure alone.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit if Hydra's own files cannot be written: it would show a traceback (and catches exceptions of hooks)."""
        from dl2pa.folder import writing

        folder = Path(config.hydra.sweep.dir)
        try:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK):
                    raise PermissionError(None, "no permission to write", str(folder))
        except UserError as error:
            sys.exit(str(error))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN or job_return.status != JobStatus.FAILED:
            return
        error = job_return._return_value  # reading return_value would raise it
        words = " ".join(config.hydra.overrides.task)
        print(f"job {config.hydra.job.num} failed ({words}): {error or type(error).__name__}", file=sys.stderr)
        if not isinstance(error, UserError) or os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exception(error)
