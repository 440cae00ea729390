"""Hydra's own sweeper is one Cartesian product, composes every job twice and writes a file of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class UnionSweeper(Sweeper):
    """The jobs of a sweep file's grids, or of the command line alone; further words replace what the file says."""

    def __init__(self, common: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]) -> None:
        self.common, self.grids = common, grids

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from dl2pa.errors import UserError
        from dl2pa.sweep.grid import Sweep, expand, read

        for word in arguments:
            if word.startswith("sweep="):
                read(word.removeprefix("sweep="))  # several at once, which Hydra leaves to its sweeper, are no sweep
        words = [word for word in arguments if not word.startswith("sweep=")]
        common, grids = OmegaConf.to_container(self.common), OmegaConf.to_container(self.grids)
        jobs = expand(Sweep(common, grids or [{}]), words)  # type: ignore[arg-type]
        results = self.launcher.launch(jobs, initial_job_idx=0)
        failed = [str(result._return_value) for result in results if result.status is JobStatus.FAILED]
        if failed:  # result.return_value would raise the first alone
            raise UserError("\n".join([*failed, f"{len(failed)} of {len(results)} runs did not finish"]))
        return results
