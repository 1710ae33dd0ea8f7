"""A record stored and read again, and files that hold something else."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from calib.cards import stored
from calib.cards.stored import StoredError, read_record, write_record


@dataclass(frozen=True)
class Leaf:
    weights: np.ndarray
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stump:
    height: float


@dataclass(frozen=True)
class Tree:
    name: str
    size: int
    bright: bool
    branch: Leaf | Stump
    other: Leaf | Stump | None
    pair: tuple[float, int]
    by_key: dict[tuple[str, str], Leaf] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


TREE = Tree(
    name="ash",
    size=3,
    bright=True,
    branch=Leaf(np.linspace(0, 1, 7), ("a", "b")),
    other=Stump(2.5),
    pair=(np.float64(1.5), np.int64(4)),
    by_key={("x", "y"): Leaf(np.arange(6, dtype=np.uint16).reshape(2, 3))},
    counts={"n": 2},
)


@dataclass(frozen=True)
class Bush:
    name: str
    size: str


@dataclass(frozen=True)
class Bag:
    anything: object


def test_round_trip(tmp_path):
    back = read_record(write_record(tmp_path / "tree.npz", TREE), Tree)
    np.testing.assert_allclose(back.branch.weights, TREE.branch.weights, rtol=1e-7)
    assert back.branch.weights.dtype == np.float64 and back.branch.names == ("a", "b")
    leaf = back.by_key["x", "y"].weights
    assert leaf.dtype == np.uint16 and np.array_equal(leaf, TREE.by_key["x", "y"].weights)
    assert (back.name, back.size, back.bright, back.counts) == ("ash", 3, True, {"n": 2})
    assert back.other == Stump(2.5) and back.pair == (1.5, 4)
    assert type(back.pair[0]) is float and type(back.pair[1]) is int


def test_a_union_keeps_the_member_that_was_meant(tmp_path):
    for other in (None, Stump(1.0), Leaf(np.ones(2))):
        path = write_record(tmp_path / "tree.npz", replace(TREE, other=other))
        assert type(read_record(path, Tree).other) is type(other)


def test_nothing_is_pickled_and_nothing_is_left_behind(tmp_path):
    path = write_record(tmp_path / "tree.npz", TREE)
    with np.load(path, allow_pickle=False) as held:
        assert all(held[name].dtype != object for name in held.files)
    assert [p.name for p in tmp_path.iterdir()] == ["tree.npz"]


def test_a_type_that_is_not_understood_is_refused_when_written(tmp_path):
    with pytest.raises(TypeError, match="no stored form"):
        write_record(tmp_path / "bag.npz", Bag({1, 2}))
    assert not list(tmp_path.iterdir())


def test_another_class_is_one_error(tmp_path):
    path = write_record(tmp_path / "tree.npz", TREE)
    with pytest.raises(StoredError, match="does not hold a Bush"):
        read_record(path, Bush)


def test_another_version_is_one_error(tmp_path, monkeypatch):
    path = write_record(tmp_path / "tree.npz", TREE)
    monkeypatch.setattr(stored, "SCHEMA_VERSION", 99)
    with pytest.raises(StoredError, match="schema version 1: expected 99"):
        read_record(path, Tree)


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_a_broken_file_is_one_error(tmp_path, keep):
    path = write_record(tmp_path / "tree.npz", TREE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoredError, match=r"tree\.npz is not a whole record"):
        read_record(path, Tree)


def test_a_flipped_byte_is_one_error(tmp_path):
    path = write_record(tmp_path / "tree.npz", TREE)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(StoredError):
        read_record(path, Tree)


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(StoredError, match="absent"):
        read_record(tmp_path / "absent.npz", Tree)


def test_a_file_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", record=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StoredError, match="evil"):
        read_record(tmp_path / "evil.npz", Tree)


def test_of_a_symmetric_matrix_one_half_is_kept(tmp_path):
    """And of one that is not, or is small, all."""
    rows = np.random.default_rng(0).normal(size=(40, 40))
    for matrix, kept in ((rows + rows.T, 820), (rows, 1600), ((rows + rows.T)[:8, :8], 64)):
        path = write_record(tmp_path / "leaf.npz", Leaf(matrix))
        with np.load(path) as found:
            assert max(a.size for a in found.values() if a.dtype == np.float32) == kept
        back = read_record(path, Leaf).weights
        assert back.dtype == np.float64
        np.testing.assert_array_equal(back, matrix.astype(np.float32))


@pytest.mark.parametrize("size", [39, 41, -1, "x"])
def test_half_of_another_matrix_is_one_error(tmp_path, monkeypatch, size):
    pack = stored._pack
    monkeypatch.setattr(
        stored,
        "_pack",
        lambda *given: [*pack(*given)[:2], size] if given[0] is np.ndarray else pack(*given),
    )
    path = write_record(tmp_path / "leaf.npz", Leaf(np.eye(40)))
    with pytest.raises(StoredError):
        read_record(path, Leaf)
