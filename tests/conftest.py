"""Fixtures for all tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

# The tests' networks are small and two tests run at a time: a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on a SLURM come first: one worker takes them, one after the other, while the others do the rest."""
    items.sort(key=lambda item: "cluster" not in getattr(item, "fixturenames", ()))


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def default_data_root(shared: Path) -> None:
    """What tests do not give a data_root of their own is kept once for all: prototypes take seconds to find."""
    os.environ["DL2PA_DATA_ROOT"] = str(shared / "data")


@pytest.fixture(scope="session")
def real_cifar(shared: Path) -> Path:
    """A data_root that holds the whole of CIFAR-10 and CIFAR-100 as published."""
    unpack = SHARED_DATA / "unpack.py"
    if not unpack.is_file():
        pytest.skip("the real CIFAR files are not here: no ../shared/data/unpack.py beside the repository")
    with FileLock(shared / "cifar.lock"):
        subprocess.run([sys.executable, str(unpack), str(shared / "cifar")], check=True)  # keeps what is there
    return shared / "cifar"
