"""Train one run, or with -m a sweep of runs: python launch.py dataset=cifar10_lt imbalance=0.01 seed=1."""

import hydra
from omegaconf import DictConfig

from dl2pa import config
from dl2pa.errors import told
from dl2pa.validate import validate

config.register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    validate(cfg)  # a wrong value is reported before torch is imported, which takes seconds
    from dl2pa.folder import objective
    from dl2pa.run import run

    return objective(run(cfg))


if __name__ == "__main__":
    with told():
        main()
