"""A puncturable pseudorandom function: a binary tree of seeds, from which single leaves can be taken away for good.

A *frontier* is what is left of a tree: the roots of the largest subtrees without a punctured leaf. From it every other leaf can be
computed, and no punctured one. Puncturing replaces a subtree's root by the siblings of the path to the leaf.

The tree is that of Goldreich, Goldwasser and Micali, "How to Construct Random Functions" (JACM 33(4), 1986). That such a tree can be
punctured was seen by Boneh and Waters (Asiacrypt 2013), Boyle, Goldwasser and Ivan (PKC 2014) and Kiayias, Papadopoulos,
Triandopoulos and Zacharias (CCS 2013); keys wrapped under it are those of Backendal, Günther and Paterson, "Puncturable Key Wrapping
and Its Applications" (Asiacrypt 2022).

What is assumed:

- SHA-512 of a fixed label and a uniform 32-byte seed is a length-doubling pseudorandom generator;
- whoever keeps a frontier replaces it by the punctured one and destroys the old one, with every copy. A puncture in memory destroys
  nothing; custody does (Reardon, Ritzdorf, Basin and Capkun, "Secure Data Deletion from Persistent Media", CCS 2013).

What Python cannot promise: `wipe` overwrites the frontier's own buffer. Seeds on the way to a leaf pass through immutable `bytes`,
which are freed and not overwritten. The format's page is docs/formats/punctured-state.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha512
from itertools import accumulate, pairwise

from keyvault.errors import InvalidFormatError, InvalidInputError, KeyVaultError, PuncturedError
from keyvault.formats import Bytes, wipe

SEED_BYTES = 32
MAX_HEIGHT = 63
"""Levels below the root of the highest tree; its leaves are numbered by 63 bits."""

_LABEL = b"keyvault/ggm/1"
_LABELLED = sha512(_LABEL)
"""What every node is hashed after: to go on from it takes less time than to begin."""
_WIPED = bytes(SEED_BYTES)
_HALVES = {"0": slice(SEED_BYTES), "1": slice(SEED_BYTES, None)}
"""Of an expanded seed: the left child's, and the right child's."""


def expand(seed: Bytes) -> tuple[bytes, bytes]:
    """Return the seeds (32 bytes each) of a node's left and right child: the halves of SHA-512("keyvault/ggm/1" ‖ seed)."""
    pair = _expanded(seed)
    return pair[:SEED_BYTES], pair[SEED_BYTES:]


def _expanded(seed: Bytes) -> bytes:
    hashed = _LABELLED.copy()
    hashed.update(seed)
    return hashed.digest()


def usable(secret: bytearray) -> bytes:
    """Return 32 secret bytes, unless they are zeros: keys derived from a wiped secret would be known to everybody.

    Raises `KeyVaultError`.
    """
    if secret == _WIPED:
        raise KeyVaultError("this secret state was wiped; read it again")
    return bytes(secret)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Frontier:
    """What is left of a tree, or of an aligned part of one, after punctures. Immutable but for `wipe`; thread-safe.

    The tree has 2^`height` leaves (`height` 0 to 63), numbered from `first`, a multiple of that. `punctured` are leaves, ascending.
    They alone decide which nodes are left, so a set of punctures has one frontier, whatever their order. `seeds` are those nodes'
    seeds from left to right, 32 bytes each; the frontier owns the buffer. Raises `InvalidFormatError` outside these bounds.
    """

    height: int
    seeds: bytearray
    first: int = 0
    punctured: tuple[int, ...] = ()
    _offsets: tuple[int, ...] = field(init=False, compare=False)
    """How many nodes lie left of each gap between punctured leaves; last, how many there are."""

    def __post_init__(self) -> None:
        _check_place(self.first, self.height)
        leaves = (self.first - 1, *self.punctured, self.first + (1 << self.height))
        if any(left >= right for left, right in pairwise(leaves)):
            raise InvalidFormatError("punctured leaves must ascend, without repetition, within their tree")
        counts = (_count_nodes(left + 1, right) for left, right in pairwise(leaves))
        object.__setattr__(self, "_offsets", tuple(accumulate(counts, initial=0)))
        if len(self.seeds) != self.nodes * SEED_BYTES:
            raise InvalidFormatError(
                f"this frontier has {self.nodes} nodes of {SEED_BYTES} bytes, not {len(self.seeds)} bytes"
            )

    @property
    def nodes(self) -> int:
        """How many seeds there are."""
        return self._offsets[-1]

    @property
    def end(self) -> int:
        """The number after the last leaf's."""
        return self.first + (1 << self.height)

    def derive(self, leaf: int) -> bytearray:
        """Return the seed of a leaf (32 bytes), which the caller wipes.

        Raises `PuncturedError` for a punctured leaf, `InvalidInputError` for one outside the tree, `KeyVaultError` after `wipe`.
        """
        self._check_leaf(leaf)
        gap = bisect_right(self.punctured, leaf)
        if gap and self.punctured[gap - 1] == leaf:
            raise PuncturedError(f"leaf {leaf} was punctured; nothing can be derived from it any more")
        index, height = _find_node(*self._gap(gap), leaf)
        return bytearray(_descend(self._seed(self._offsets[gap] + index), leaf, height))

    def derive_many(self, leaves: Iterable[int]) -> dict[int, bytearray]:
        """Return the seeds of many leaves, by leaf, each inner node expanded once; punctured leaves are left out.

        The caller wipes them. Raises as `derive` for leaves outside the tree and after `wipe`.
        """
        wanted = sorted(set(leaves).difference(self.punctured))
        for leaf in wanted[:1] + wanted[-1:]:
            self._check_leaf(leaf)
        derived: dict[int, bytearray] = {}
        low = 0
        while low < len(wanted):
            gap = bisect_right(self.punctured, wanted[low])
            index, height = _find_node(*self._gap(gap), wanted[low])
            first = wanted[low] >> height << height
            high = bisect_left(wanted, first + (1 << height), low)
            _derive_below(self._seed(self._offsets[gap] + index), first, height, wanted[low:high], derived)
            low = high
        return derived

    def puncture(self, leaves: Iterable[int]) -> Frontier:
        """Return a new frontier, with its own buffer, without these leaves; those punctured before do no harm.

        Raises `InvalidInputError` for a leaf outside the tree, and `KeyVaultError` after `wipe`.
        """
        new = sorted(set(leaves).difference(self.punctured))
        for leaf in new[:1] + new[-1:]:
            self._check_leaf(leaf)
        punctured = tuple(sorted((*self.punctured, *new)))
        seeds = bytearray(count_nodes(self.first, self.height, punctured) * SEED_BYTES)
        position = 0
        for gap in range(len(self._offsets) - 1):
            for seed in self._carve(gap, new):
                seeds[position : position + len(seed)] = seed
                position += len(seed)
        self.check_usable()  # last, because another thread may wipe meanwhile
        return Frontier(height=self.height, seeds=seeds, first=self.first, punctured=punctured)

    def check_usable(self) -> None:
        """Raise `KeyVaultError` after `wipe`."""
        if self.nodes:
            self._seed(0)

    def wipe(self) -> None:
        """Overwrite the seeds with zeros; deriving, puncturing and encoding raise afterwards, in other threads too."""
        wipe(self.seeds)

    def _carve(self, gap: int, new: Sequence[int]) -> Iterator[Bytes]:
        """Give the seeds that are left of a gap without the new leaves, from left to right."""
        start, end = self._gap(gap)
        low, high = bisect_left(new, start), bisect_left(new, end)
        if low == high:
            yield memoryview(self.seeds)[self._offsets[gap] * SEED_BYTES : self._offsets[gap + 1] * SEED_BYTES]
            return
        for index, (first, height) in enumerate(_nodes_between(start, end), self._offsets[gap]):
            cut = bisect_left(new, first + (1 << height), low, high)
            yield from _siblings(self._seed(index), first, height, new[low:cut])
            low = cut

    def _gap(self, gap: int) -> tuple[int, int]:
        """Return the first leaf of a gap between punctured leaves, and the number after its last."""
        start = self.punctured[gap - 1] + 1 if gap else self.first
        return start, self.punctured[gap] if gap < len(self.punctured) else self.end

    def _seed(self, index: int) -> bytes:
        return usable(self.seeds[index * SEED_BYTES : (index + 1) * SEED_BYTES])

    def _check_leaf(self, leaf: int) -> None:
        if not self.first <= leaf < self.end:
            raise InvalidInputError(f"leaf {leaf} is not one of this tree's: {self.first} to {self.end - 1}")


def new_frontier(height: int, seed: Bytes) -> Frontier:
    """Return the frontier of a whole tree, without punctures, over a copy of its root's seed (32 uniform random bytes).

    Raises `InvalidFormatError` for another height or length.
    """
    return Frontier(height=height, seeds=bytearray(seed))


def count_nodes(first: int, height: int, punctured: Sequence[int]) -> int:
    """Return how many nodes are left of a tree without these leaves, which ascend."""
    return sum(
        _count_nodes(left + 1, right) for left, right in pairwise((first - 1, *punctured, first + (1 << height)))
    )


def _siblings(seed: bytes, first: int, height: int, leaves: Sequence[int]) -> Iterator[bytes]:
    """Give the seeds that are left of a subtree without `leaves`, from left to right."""
    stack = [(seed, first, height, 0, len(leaves))]
    while stack:
        seed, first, height, low, high = stack.pop()
        if low == high:
            yield seed
        elif height > 0:
            middle = first + (1 << height - 1)
            cut = bisect_left(leaves, middle, low, high)
            left, right = expand(seed)
            stack += (right, middle, height - 1, cut, high), (left, first, height - 1, low, cut)


def _derive_below(seed: bytes, first: int, height: int, leaves: Sequence[int], derived: dict[int, bytearray]) -> None:
    """Put the seeds of these leaves of a subtree, which ascend, into `derived`."""
    stack = [(seed, first, height, 0, len(leaves))]
    while stack:
        seed, first, height, low, high = stack.pop()
        if high - low == 1:
            derived[leaves[low]] = bytearray(_descend(seed, leaves[low], height))
            continue
        if high - low == 1 << height:
            derived |= zip(leaves[low:high], map(bytearray, _all_below(seed, height)), strict=True)
            continue
        left, right = expand(seed)
        middle = first + (1 << height - 1)
        cut = bisect_left(leaves, middle, low, high)
        if cut < high:
            stack.append((right, middle, height - 1, cut, high))
        if low < cut:
            stack.append((left, first, height - 1, low, cut))


def _all_below(seed: bytes, height: int) -> list[bytes]:
    """Return the seeds of all leaves that lie `height` levels below the node of `seed`, from left to right."""
    seeds = [seed]
    for _ in range(height):
        pairs = [_expanded(seed) for seed in seeds]
        seeds = [half for pair in pairs for half in (pair[:SEED_BYTES], pair[SEED_BYTES:])]
    return seeds


def _descend(seed: bytes, leaf: int, height: int) -> bytes:
    """Return the seed of a leaf that lies `height` levels below the node of `seed`."""
    for bit in f"{leaf:0{MAX_HEIGHT}b}"[MAX_HEIGHT - height :]:
        hashed = _LABELLED.copy()  # `_expanded`, without a call for each of up to 63 levels
        hashed.update(seed)
        seed = hashed.digest()[_HALVES[bit]]
    return seed


def _nodes_between(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Give first leaf and height of the largest subtrees that make up the leaves from `start` to before `end`."""
    while start < end:
        height = (end - start).bit_length() - 1
        if start:
            height = min(height, (start & -start).bit_length() - 1)
        yield start, height
        start += 1 << height


def _count_nodes(start: int, end: int) -> int:
    """Return the length of `_nodes_between(start, end)`."""
    summit = _summit(start, end)
    return (summit - start).bit_count() + (end - summit).bit_count()


def _find_node(start: int, end: int, leaf: int) -> tuple[int, int]:
    """Return the index in `_nodes_between(start, end)` of the subtree with `leaf`, and its height.

    Subtrees grow up to the summit and shrink from there: seen from it, their heights are the bits of what lies on either side.
    """
    summit = _summit(start, end)
    if leaf < summit:
        height = (summit - 1 - leaf ^ summit - start).bit_length() - 1
        return (summit - start & (1 << height) - 1).bit_count(), height
    height = (leaf - summit ^ end - summit).bit_length() - 1
    return (summit - start).bit_count() + (end - summit >> height + 1).bit_count(), height


def _summit(start: int, end: int) -> int:
    """Return the number in (start, end] that most powers of two divide, or `end` when there is none."""
    level = max((start ^ end).bit_length() - 1, 0)
    return end >> level << level


def _check_place(first: int, height: int) -> None:
    if not 0 <= height <= MAX_HEIGHT:
        raise InvalidFormatError(f"a tree has 0 to {MAX_HEIGHT} levels below its root")
    if first < 0 or first % (1 << height) or first + (1 << height) > 1 << MAX_HEIGHT:
        raise InvalidFormatError("a tree's first leaf is a multiple of its size, below 2^63")
