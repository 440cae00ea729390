"""Matching where there are too many pairs to solve on all of them: exact on candidates, checked against all pairs.

Give every prototype p a price v_p, so that class c wants the p with the largest score[c, p] - v_p. For any prices, the
sum of them and of what each class so gains bounds the value of every matching from above; a matching that gives each
class what it wants is therefore the best there is (the dual of the assignment problem). So:

1. A pass over all pairs, a block of rows at a time, at prices that are the prototypes' mean scores. If each class wants
   another one, as all do once they sit near their prototypes, or what it has, that is it. If many want the same,
   prices are guessed by Sinkhorn's iteration (Cuturi 2013) on a sample of those.
2. A pass finds what each class wants most. These pairs and those of the old assignment are the candidates.
3. On the candidates classes are matched by shortest augmenting paths (Jonker and Volgenant 1987), from all that are
   still free at once, which brings the prices with it. Those that want what they had keep it for a start.
4. Another pass adds up by how much classes would want something else at these prices. No matching can be better by
   more than that sum, the gap. Over ``TOLERANCE`` for the mean class, these pairs become candidates, too, their classes
   are set free, and 3 goes on from there.

The result is exact, up to TOLERANCE and the rounding of the scores themselves, with the gap as its certificate.
(Candidates that grow until the prices hold for all pairs: Volgenant 1996, "Linear and semi-assignment problems".)
Memory: the candidates, some tens of pairs a class, and two blocks of rows.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

LARGE = 1000
"""Classes from which on ``match`` comes here. Scipy on scores centred as there takes .5 to .7 of its time at 1,000
where classes differ, some .1 s, and six times as long at 3,000 where they are flat (docs/performance.md)."""

TOLERANCE = 1e-7
"""Of the mean score; less is what ``match`` takes for a tie, too."""

WANTED, MORE = 60, 60  # candidates a class at first, and what a later pass adds at most: fewer take more passes
RARE = 5  # a prototype wanted by no more classes than this looks for classes itself
BLOCK = 1 << 24  # scores held at once: 64 MB, and 128 MB of them less the prices
SAMPLE = 2048  # classes from which prices are guessed
WORTHWHILE = 1e-3  # by how much, of the scores' spread, a guess has to get better to be carried on
SHARED = 0.1  # share of classes whose favourite others favour, too, from which on prices are guessed
_TIGHT = 1e-12  # less is rounding of the sums and differences of scores that prices are


class Pairs(Protocol):
    """A score matrix [n, m], float32 or float64, that need not be there as a whole."""

    def __len__(self) -> int: ...

    def rows(self, which: Tensor) -> Tensor:
        """[k, m], the rows ``which`` [k]."""

    def columns(self, which: Tensor) -> Tensor:
        """[n, k], the columns ``which`` [k]."""

    def part(self, rows: np.ndarray, columns: np.ndarray) -> "Pairs":
        """The scores of these rows and columns alone."""

    def finite(self) -> bool:
        """Whether all scores are."""

    def __getitem__(self, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """[k] float64, the scores of the pairs (rows [k], columns [k])."""


@dataclass(frozen=True)
class Product:
    """The scores left @ right.T, [n, d] and [m, d]: as many numbers as ``left`` and ``right`` have."""

    left: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.left)

    def rows(self, which: Tensor) -> Tensor:
        return self.left[which] @ self.right.T

    def columns(self, which: Tensor) -> Tensor:
        return self.left @ self.right[which].T

    def part(self, rows: np.ndarray, columns: np.ndarray) -> "Product":
        return Product(self.left[torch.from_numpy(rows)], self.right[torch.from_numpy(columns)])

    def finite(self) -> bool:
        return bool(self.left.isfinite().all()) and bool(self.right.isfinite().all())

    def __getitem__(self, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        rows, columns = (torch.from_numpy(side) for side in pairs)
        return (self.left[rows].double() * self.right[columns]).sum(dim=1).cpu().numpy()


@dataclass(frozen=True)
class Table:
    """The scores factor * matrix[rows][:, columns]."""

    matrix: Tensor
    row: Tensor
    column: Tensor
    factor: float = 1.0

    def __len__(self) -> int:
        return len(self.row)

    def rows(self, which: Tensor) -> Tensor:
        return self.matrix[self.row[which]].index_select(1, self.column).mul_(self.factor)

    def columns(self, which: Tensor) -> Tensor:
        return self.matrix[:, self.column[which]].index_select(0, self.row).mul_(self.factor)

    def part(self, rows: np.ndarray, columns: np.ndarray) -> "Table":
        row, column = self.row[torch.from_numpy(rows)], self.column[torch.from_numpy(columns)]
        return Table(self.matrix, row, column, self.factor)

    def finite(self) -> bool:
        return all(bool(self.matrix[part].isfinite().all()) for part in self.row.split(max(1, BLOCK // len(self))))

    def __getitem__(self, pairs: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        rows, columns = (torch.from_numpy(side) for side in pairs)
        return (self.matrix[self.row[rows], self.column[columns]] * self.factor).double().cpu().numpy()


@dataclass(frozen=True)
class Solution:
    """``chosen`` [n], the column of each row; ``prices`` [n] of the columns that show it; ``gap``, of the mean row."""

    chosen: np.ndarray
    prices: np.ndarray
    gap: float


def solve(pairs: Pairs, old: np.ndarray) -> Solution:
    """The bijection with the largest sum of the scores [n, n], which are finite; ``old`` [n] is one to start from."""
    size = len(pairs)
    sample = min(SAMPLE, size, max(2, 4 * BLOCK // size))
    # The mean scores: what all classes like alike is no reason to choose it.
    prices = pairs.rows(_spread(torch.arange(size), sample)).mean(dim=0, dtype=torch.float64).cpu().numpy()
    found = _look(pairs, prices, old)
    if found.gap <= TOLERANCE:
        return Solution(old.copy(), prices, found.gap)
    shared = np.flatnonzero(np.bincount(found.favourites, minlength=size)[found.favourites] > 1)
    if len(shared) == 0:
        return Solution(found.favourites, prices, 0.0)
    if len(shared) > SHARED * size:
        prices = prices + _guess(pairs.rows(_spread(torch.from_numpy(shared), sample)), prices)
    problem = _Candidates(pairs, old, prices)
    while True:
        problem.augment()
        found = _look(pairs, problem.prices, problem.chosen, MORE)
        if found.gap <= TOLERANCE:
            return Solution(problem.chosen, problem.prices, found.gap)
        problem.add(*found.wanted)
        problem.release()


def _spread(rows: Tensor, count: int) -> Tensor:
    """``count`` of the rows, or all, evenly spread."""
    return rows[torch.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=torch.float64).long()]


@dataclass(frozen=True)
class _Look:
    """What a pass over all pairs finds, for prices and a matching.

    gap: by how much the mean row would like its favourite column better than its own. favourites: [n]. own: [n], the
    scores of the matching. wanted: rows, columns, scores of pairs that are better for their row than its own.
    """

    gap: float
    favourites: np.ndarray
    own: np.ndarray
    wanted: tuple[np.ndarray, np.ndarray, np.ndarray]


def _look(pairs: Pairs, prices: np.ndarray, chosen: np.ndarray, count: int = 0, everyone: bool = False) -> _Look:
    """One pass. Up to ``count`` pairs of each row are wanted; with ``everyone`` so many, also if its own is better."""
    size = len(pairs)
    found: list[tuple[Tensor, ...]] = []
    for rows in torch.arange(size).split(max(1, BLOCK // size)):
        scores = pairs.rows(rows)
        if not found:
            device = scores.device
            charge, partner = torch.from_numpy(prices).to(device), torch.from_numpy(chosen).to(device)
            buffer = torch.empty(scores.shape, dtype=torch.float64, device=device)  # a new one a block costs as much
        worth = buffer[: len(rows)].copy_(scores).sub_(charge)  # in double precision: the certificate holds exactly
        own = partner[rows.to(device)].unsqueeze(1)
        have = worth.gather(1, own)
        best, favourites = worth.max(dim=1, keepdim=True)
        bar = torch.full_like(have, -torch.inf) if everyone else have
        asking = (best > bar).squeeze(1).nonzero().squeeze(1)
        ranked = (worth if len(asking) == len(rows) else worth[asking]).topk(min(count, size), dim=1)
        keep = ranked.values > bar[asking]
        row, columns = asking.unsqueeze(1).expand_as(keep)[keep], ranked.indices[keep]
        wanted = row + rows[0], columns, scores[row, columns].double()
        found.append((best - have, favourites, scores.gather(1, own).double(), *wanted))
    above, *rest = (torch.cat([part.flatten() for part in parts]).cpu().numpy() for parts in zip(*found, strict=True))
    return _Look(float(above.sum()) / size, rest[0], rest[1], (rest[2], rest[3], rest[4]))


def _guess(scores: Tensor, prices: np.ndarray) -> np.ndarray:
    """[n], what to add to the prices so that the rows of scores [k, n] want all columns about equally often.

    The temperature falls as long as the bound on the value of a matching, as half of the rows have it, that the prices
    were not made from, falls with it: by chance alone single rows of many dimensions want single columns.
    """
    scores = scores - torch.from_numpy(prices).to(scores)
    made_from, held_out = scores[::2], scores[1::2]
    rise, plan = torch.zeros_like(scores[0]), torch.empty_like(made_from)
    temperature = spread = max(float(scores.std()), 1e-30)
    bound, kept = torch.inf, rise
    while True:
        for _ in range(2):
            torch.sub(made_from, rise, out=plan)
            plan -= plan.amax(dim=1, keepdim=True)
            plan.div_(temperature).exp_()
            plan /= plan.sum(dim=1, keepdim=True)
            rise = rise + temperature * plan.mean(dim=0).mul_(len(rise)).clamp_(min=1e-6).log_()
        fallen = bound - (found := float(rise.mean() + (held_out - rise).amax(dim=1).mean()))
        if not fallen >= WORTHWHILE * spread:  # NaN, too, ends it
            return (rise if fallen > 0 else kept).double().cpu().numpy()
        bound, kept, temperature = found, rise, temperature / 2


class _Candidates:
    """The problem on some of the pairs, which lie in order of rows, and what is known of its solution.

    prices [n] of columns; profits [n], what the best candidate is worth to each row; chosen [n] and owner [n], the
    column of each row and the row of each column, -1 while it is free. Every matched row has its best candidate.
    """

    def __init__(self, pairs: Pairs, old: np.ndarray, prices: np.ndarray) -> None:
        self.size = size = len(pairs)
        self.prices = prices
        self.chosen, self.owner = np.full(size, -1), np.full(size, -1)
        found = _look(pairs, prices, old, WANTED, everyone=True)
        self.keys, self.values = self._key(np.arange(size), old), found.own
        self.add(*found.wanted)
        self._add_for_rare_columns(pairs)
        self._begin(old)

    def _key(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return rows * self.size + columns

    def add(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        self.keys, first = np.unique(np.concatenate([self.keys, self._key(rows, columns)]), return_index=True)
        self.values = np.concatenate([self.values, values])[first]
        self.rows, self.columns = np.divmod(self.keys, self.size)
        self.starts = np.searchsorted(self.rows, np.arange(self.size + 1))
        self.profits = np.maximum.reduceat(self.values - self.prices[self.columns], self.starts[:-1])

    def _add_for_rare_columns(self, pairs: Pairs) -> None:
        """Without rows that would have them nearly gladly, their prices would have to fall far below the right ones."""
        rare = np.flatnonzero(np.bincount(self.columns, minlength=self.size) <= RARE)
        found = []
        for part in torch.from_numpy(rare).split(max(1, BLOCK // self.size)):
            scores = pairs.columns(part)
            worth = scores - torch.from_numpy(self.profits).to(scores).unsqueeze(1)
            rows = worth.topk(min(MORE, self.size), dim=0).indices
            found.append((rows.cpu(), part.expand_as(rows), scores.gather(0, rows).double().cpu()))
        for triple in found:
            self.add(*(side.flatten().numpy() for side in triple))

    def _slack(self) -> np.ndarray:
        """By how much each candidate is worth less than its row's best."""
        return np.maximum(self.profits[self.rows] + self.prices[self.columns] - self.values, 0)

    def _begin(self, old: np.ndarray) -> None:
        """Give rows their best candidate where nobody else has it, first those that own it already."""
        tight = self._slack() <= _TIGHT
        stays = np.flatnonzero(tight[np.searchsorted(self.keys, self._key(np.arange(self.size), old))])
        self.chosen[stays], self.owner[old[stays]] = old[stays], stays
        free = np.flatnonzero(tight & (self.chosen[self.rows] < 0) & (self.owner[self.columns] < 0))
        for side in (self.columns, self.rows):
            free = free[np.unique(side[free], return_index=True)[1]]
        self.chosen[self.rows[free]], self.owner[self.columns[free]] = self.columns[free], self.rows[free]

    def release(self) -> None:
        """Set rows free for which there is a better candidate now."""
        own = np.searchsorted(self.keys, self._key(np.arange(self.size), self.chosen))
        loose = self._slack()[own] > _TIGHT
        self.owner[self.chosen[loose]] = -1
        self.chosen[loose] = -1

    def augment(self) -> None:
        """Match all rows, along shortest paths from free rows to free columns.

        A path's length is the sum of the slacks of its candidates; from a column that is owned it goes on at its owner.
        Paths from each column's nearest free row make one tree for every free row. No two trees share a node, so in
        each of them one path is changed, at once; prices and profits move by the distances, cut off at the longest of
        these paths, which keeps slacks from being negative, and those on the paths and of matched rows at zero.
        """
        # Half a second, which a run's start need not wait for.
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import dijkstra

        size = self.size
        ends = np.concatenate([self.starts, np.full(size, len(self.keys))])
        while len(free := np.flatnonzero(self.chosen < 0)):
            # Node r < n is row r and the column that it owns, node n + p is column p while it is free.
            node = np.where(self.owner < 0, size + np.arange(size), self.owner)
            graph = csr_matrix((self._slack(), node[self.columns], ends), shape=(2 * size, 2 * size))
            far, before, root = dijkstra(graph, indices=free, return_predecessors=True, min_only=True)
            open_ = np.flatnonzero((self.owner < 0) & np.isfinite(far[size:]))
            open_ = open_[np.lexsort((far[size + open_], root[size + open_]))]
            columns = open_[np.unique(root[size + open_], return_index=True)[1]]  # the nearest one in each tree
            longest = far[size + columns].max()
            self.profits += np.minimum(far[:size], longest)
            self.prices = self.prices - np.minimum(far[node], longest)
            rows = before[size + columns]
            while len(columns):
                passed = self.chosen[rows]
                self.chosen[rows], self.owner[columns] = columns, rows
                inner = passed >= 0
                columns, rows = passed[inner], before[rows[inner]]
