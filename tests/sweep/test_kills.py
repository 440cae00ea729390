"""Nothing is lost, whatever is killed and when: the committed script, with fewer kills."""

from pathlib import Path

import pytest
from kills import check


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    assert "every run came to the same bits" in check(tmp_path, kills=5, seed=0)
