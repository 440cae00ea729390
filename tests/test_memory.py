"""What a run takes at most does not depend on how long it is. (What classes and images take: see their own tests.)"""

from pathlib import Path

import pytest
from processes import python

TWO = """
import resource, sys
from composing import compose_config
from dl2pa.run import run

def peak(*words):
    run(compose_config("device=cpu", "runtime.threads=1", *sys.argv[1:], *words))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

peak("epochs=4", "runs_dir=first")  # a second run finds something of the first still there, a third no more than that
print(peak("epochs=4", "runs_dir=short"), peak("epochs=40", "runs_dir=long"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", [["method=dl2pa", "assignment.statistic=loss_matrix"], ["method=dnc"]])
def test_epochs_do_not_add_up_in_memory(words: list[str], tmp_path: Path) -> None:
    """In MB; graphs or batches that were kept would be 1 MB an epoch and more."""
    ended = python("-c", TWO, *words, cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parent)})
    assert ended.code == 0, ended.said
    short, long = map(float, ended.said.splitlines()[-1].split())
    assert long - short < 12
