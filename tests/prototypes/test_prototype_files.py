"""Prototypes read from files."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dl2pa.errors import UserError
from dl2pa.prototypes.build import build, cached
from dl2pa.prototypes.files import content_hash

ROWS = torch.tensor([[3.0, 4.0, 0.0], [0.0, 2.0, 0.0]])
UNIT = torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0]])


def save(path: Path, array: torch.Tensor, key: str = "w") -> str:
    if path.suffix == ".npy":
        np.save(path, array.numpy())
    elif path.suffix == ".npz":
        np.savez(path, **{key: array.numpy()})
    elif path.suffix == ".safetensors":
        save_file({key: array.contiguous()}, path)
    else:
        torch.save({key: array}, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pth", ".pt"])
def test_every_format_either_way_round(tmp_path: Path, suffix: str) -> None:
    upright = save(tmp_path / f"upright{suffix}", ROWS)
    lying = save(tmp_path / f"lying{suffix}", ROWS.T)
    torch.testing.assert_close(build(2, 3, "file", file=upright), UNIT)
    torch.testing.assert_close(build(2, 3, "file", file=lying), UNIT)


def test_a_square_matrix_follows_the_convention_of_its_origin(tmp_path: Path) -> None:
    square = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    unit_rows = torch.nn.functional.normalize(square, dim=1)
    unit_columns = torch.nn.functional.normalize(square.T, dim=1)
    torch.testing.assert_close(build(2, 2, "file", file=save(tmp_path / "a.npy", square)), unit_rows)
    torch.testing.assert_close(build(2, 2, "file", file=save(tmp_path / "a.pth", square)), unit_columns)
    other = save(tmp_path / "b.pth", square, key="prototypes")
    torch.testing.assert_close(build(2, 2, "file", file=other, key="prototypes"), unit_rows)


def test_key_chooses_among_several(tmp_path: Path) -> None:
    path = tmp_path / "two.npz"
    np.savez(path, first=ROWS.numpy(), second=-ROWS.numpy())
    torch.testing.assert_close(build(2, 3, "file", file=str(path), key="second"), -UNIT)
    with pytest.raises(UserError, match="first, second"):
        build(2, 3, "file", file=str(path))
    with pytest.raises(UserError, match="key=third"):
        build(2, 3, "file", file=str(path), key="third")


def test_a_bare_tensor_in_pth(tmp_path: Path) -> None:
    torch.save(ROWS, tmp_path / "bare.pth")
    torch.testing.assert_close(build(2, 3, "file", file=str(tmp_path / "bare.pth")), UNIT)


def test_missing_default_key_in_pth(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prototypes"):
        build(2, 3, "file", file=save(tmp_path / "a.pth", ROWS, key="prototypes"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (torch.ones(4, 3), "4 x 3"),
        (torch.ones(6), "1 axes"),
        (torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), "prototype 1 is zero"),
        (torch.tensor([[1.0, 0.0, 0.0], [0.0, float("nan"), 0.0]]), "NaN"),
        (torch.ones(2, 3, dtype=torch.complex64), "real numbers"),
    ],
)
def test_unusable_contents(tmp_path: Path, array: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(2, 3, "file", file=save(tmp_path / "a.npy", array))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".pth"])
def test_a_damaged_file_is_the_users_to_mend(tmp_path: Path, suffix: str) -> None:
    path = Path(save(tmp_path / f"a{suffix}", ROWS))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read"):
        build(2, 3, "file", file=str(path))


def test_no_file_or_no_known_ending(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        build(2, 3, "file", file=str(tmp_path / "absent.npy"))
    with pytest.raises(UserError, match=r"\.txt"):
        build(2, 3, "file", file=str(tmp_path / "a.txt"))
    with pytest.raises(UserError, match="needs file=PATH"):
        build(2, 3, "file")


def test_a_pth_cannot_run_code(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    torch.save({"w": Bomb(witness)}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="cannot be read"):
        build(2, 3, "file", file=str(tmp_path / "bomb.pth"))
    assert not witness.exists()


class Bomb:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.witness,)


def test_identity_is_the_content(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a.npy", ROWS), save(tmp_path / "b.npy", ROWS)
    assert content_hash(first) == content_hash(second) == hashlib.sha256(Path(first).read_bytes()).hexdigest()
    assert content_hash(save(tmp_path / "c.npy", 2 * ROWS)) != content_hash(first)
    with pytest.raises(UserError, match="no such file"):
        content_hash(tmp_path / "absent.npy")


def test_a_file_is_not_cached(tmp_path: Path) -> None:
    stored = save(tmp_path / "a.npy", ROWS)
    torch.testing.assert_close(cached(tmp_path / "cache", 2, 3, "file", file=stored), UNIT)
    assert not (tmp_path / "cache").exists()
