"""Train one run, or with -m a sweep of runs: python launch.py dataset=cifar10_lt imbalance=0.01 seed=1."""

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dl2pa import config
from dl2pa.errors import UserError, told
from dl2pa.validate import validate

config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    words = HydraConfig.get().overrides.hydra
    if word := next((word for word in words if word.startswith(("hydra/launcher", "hydra.launcher"))), None):
        raise UserError(f"{word} does nothing without -m, which makes a sweep, if of one run")
    validate(cfg)  # a wrong value is reported before torch is imported, which takes seconds
    from dl2pa.folder import objective
    from dl2pa.run import run

    return objective(run(cfg))


if __name__ == "__main__":
    with told():
        main()
