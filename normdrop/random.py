"""Random streams: where the key and the call number of a dropout mask come from.

A mask is a pure function of (key, call, element index, p): the mask law, version 1. It depends on nothing else: not on
threads, block sizes, dtype, memory layout or device.

- ``i`` is the C-order index of the element in the mask.
- ``g = i // 128``, ``e = i % 128``; word ``r = e // 32``, half ``h = (e // 16) % 2``, lane ``t = e % 16``;
  ``b = 16 * g + t``.
- ``W = Philox4x32-10(counter=(b lo, b hi, call lo, call hi), key)`` in 32-bit words; ``u_hi`` is the low (``h = 0``) or
  high (``h = 1``) half of ``W[r]``.
- ``T = round(p * 2**32)``, ``T_hi = T >> 16``, ``T_lo = T & 0xffff``.
- If ``u_hi != T_hi``, the element is kept iff ``u_hi > T_hi``. Otherwise ``u_lo`` is the same half of the same word of
  Philox with the top bit of the fourth counter word flipped, and the element is kept iff ``u_lo >= T_lo``.

With ``sample_ids``, the mask of a sample with id ``s``, modulo 2**64, is that of the sample alone, without its batch
axis, under the key ``Philox4x32-10(counter=(0, 2**32 - 1, s lo, s hi), key)[:2]``.

So an element is kept iff a 32-bit uniform number is at least ``T``: P(drop) is ``T / 2**32`` exactly. Kept elements are
scaled by ``1 / (1 - T / 2**32)``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from normdrop import _checks, _process, _state

if TYPE_CHECKING:  # NumPy imports its random module on first use, which takes as long as importing normdrop
    from numpy.random import Generator, SeedSequence

T = TypeVar("T")
Key: TypeAlias = tuple[int, int]
RNG: TypeAlias = "int | SeedSequence | Generator | MaskStream | None"

__all__ = ["MaskStream", "seed"]

_MAX_CALL = 2**63  # the top bit of the fourth counter word selects the second 16 bits of a tie


@cache
def _import_numpy_random() -> None:
    """Import what `np.random` would import on its own, without regard to forks."""
    _process.load("numpy.random")


# The thread that holds a lock may ask for it again: a signal handler or a finalizer can run between two lines, in the
# midst of a pass, and make a pass of its own.
_new_lock = threading.RLock


class _DefaultSource:
    """Seeds for everything that is created without `rng`; never NumPy's global state."""

    def __init__(self) -> None:
        self._lock = _new_lock()
        self._root: SeedSequence | None = None
        self._seeded = False
        self._pid = 0

    def reset(self, n: int | None) -> None:
        if n is not None:
            _import_numpy_random()  # not under the lock, which no import must wait for
        with self._lock:
            self._seeded = n is not None
            self._root = None if n is None else np.random.SeedSequence(n)

    def next(self) -> SeedSequence:
        with self._lock:
            pid = os.getpid()  # of code in C that forks, no hook tells
            if self._root is None or (pid != self._pid and not self._seeded):
                self._root, self._pid = np.random.SeedSequence(), pid
            return self._root.spawn(1)[0]

    def after_fork(self) -> None:
        self._lock = _new_lock()  # another thread of the parent may have held it
        if not self._seeded:
            self.reset(None)  # a child must not repeat its parent's keys


_default_source = _DefaultSource()
_stream_lock = _new_lock()  # one for all streams: it is held for a moment only


def _after_fork() -> None:
    global _stream_lock
    _stream_lock = _new_lock()
    _default_source.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def seed(n: int | None) -> None:
    """Make the keys of all later layers and streams without `rng` reproducible.

    NumPy's global random state is neither read nor changed.

    Parameters
    ----------
    n : int or None
        Non-negative seed. ``None`` returns to fresh, unpredictable keys.

    Examples
    --------
    >>> import normdrop
    >>> normdrop.seed(7)
    >>> first = normdrop.MaskStream()
    >>> normdrop.seed(7)
    >>> normdrop.MaskStream() == first
    True
    >>> normdrop.seed(None)
    """
    _default_source.reset(None if n is None else _checks.integer(n, "n", 0))


def _seed_sequence(rng: int | SeedSequence | None) -> SeedSequence:
    if rng is None:
        return _default_source.next()
    if isinstance(rng, np.random.SeedSequence):
        return rng.spawn(1)[0]  # two layers given the same sequence get different keys
    return np.random.SeedSequence(rng)


def check_rng(rng: object) -> None:
    """Refuse what is none of the kinds of `rng`; nothing is drawn."""
    if isinstance(rng, MaskStream):  # the usual one first
        return
    _import_numpy_random()
    if rng is None or isinstance(rng, (np.random.SeedSequence, np.random.Generator)):
        return
    if isinstance(rng, (bool, np.bool_)) or not isinstance(rng, (int, np.integer)):
        raise TypeError(
            f"rng must be None, an int, a SeedSequence, a Generator or a MaskStream; got {_checks.kind(rng)}. "
            "Pass np.random.default_rng(...) or an int."
        )
    _checks.integer(rng, "rng", 0)


def as_generator(rng: RNG) -> Generator:
    """Return the NumPy generator that `rng` stands for (SPEC 7), for drawing initial parameters."""
    check_rng(rng)
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, MaskStream):
        call = rng.take()
        return np.random.default_rng([*rng.key, call])
    return np.random.default_rng(_seed_sequence(rng))


def with_call(rng: RNG, run: Callable[[Key, int], T]) -> T:
    """Return what `run` makes of a key and a call of the stream, which gets the call back if that fails."""
    stream, call = as_stream(rng), None
    try:
        call = stream.take()
        return run(stream.key, call)
    except BaseException:  # an interrupt, too
        if call is not None:
            stream.give_back(call)
        raise


def as_stream(rng: RNG) -> MaskStream:
    """Return `rng` itself if it is a stream, so that it can be shared, else a new stream made from it."""
    return rng if isinstance(rng, MaskStream) else MaskStream(rng)


def check_stream(value: object) -> MaskStream:
    """Return a layer's stream."""
    if not isinstance(value, MaskStream):
        raise TypeError(f"stream must be a MaskStream; got {_checks.kind(value)}. Use MaskStream(...) to make one.")
    return value


class MaskStream:
    """A source of dropout masks: a key and the number of the next call.

    Each training forward pass of a dropout layer takes one call. The mask of a call is a pure function of
    (key, call, element index, p), the mask law in `normdrop.random`; it never depends on threads, dtype or layout.

    Parameters
    ----------
    rng : None, int, SeedSequence, Generator or MaskStream, optional
        Where the key comes from. ``None``: a fresh key that no other stream has (reproducible after `normdrop.seed`).
        An int always gives the same key. A `numpy.random.SeedSequence` is asked for one child, a
        `numpy.random.Generator` for two words, so that using either twice gives two keys. A `MaskStream` is copied.

    Attributes
    ----------
    key : tuple of two int
        32-bit words of the Philox key.
    call : int
        Number of the next call, from 0 to 2**63 - 1.

    See Also
    --------
    normdrop.seed : make the default keys reproducible.

    References
    ----------
    .. [1] J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
       SC11, 2011, section 3.2 (Philox).

    Examples
    --------
    >>> stream = MaskStream(42)
    >>> stream.call
    0
    >>> twin = stream.copy()
    >>> twin == stream
    True
    """

    __slots__ = ("_call", "_key")
    __hash__ = None  # type: ignore[assignment]  # mutable

    def __init__(self, rng: RNG = None) -> None:
        check_rng(rng)
        call = 0
        if isinstance(rng, MaskStream):
            key, call = rng.key, rng.call
        elif isinstance(rng, np.random.Generator):
            key = _key_of(rng.integers(0, 2**32, size=2, dtype=np.uint32))
        else:
            key = _key_of(_seed_sequence(rng).generate_state(2, np.uint32))
        self._key = key
        self._call = call

    @classmethod
    def from_key(cls, key: Key, call: int = 0) -> MaskStream:
        """Return the stream with this key, at this call.

        Parameters
        ----------
        key : tuple of two int
            32-bit words.
        call : int, default 0
            Number of the next call.

        Returns
        -------
        MaskStream
            A new stream.

        Examples
        --------
        >>> MaskStream.from_key((1, 2), call=3)
        MaskStream(key=(1, 2), call=3)
        """
        stream = cls.__new__(cls)
        stream._key = _check_key(key)
        stream._call = _checks.integer(call, "call", 0, _MAX_CALL - 1)
        return stream

    @property
    def key(self) -> Key:
        """The two 32-bit words of the key."""
        return self._key

    @property
    def call(self) -> int:
        """Number of the next call; may be set to go back or ahead."""
        return self._call

    @call.setter
    def call(self, value: int) -> None:
        self._call = _checks.integer(value, "call", 0, _MAX_CALL - 1)

    def take(self) -> int:
        """Return the number of the next call and move past it.

        Returns
        -------
        int
            The call that is now the caller's alone, also when several threads ask at once.
        """
        return self._take(1)

    def reserve(self, n: int) -> int:
        """Return the number of the next call and move past `n` calls, for a loop that counts them itself.

        Such a loop is one that Numba compiles, which cannot ask a stream: see ``normdrop.numba``.

        Parameters
        ----------
        n : int
            How many, at least 0; none take no call.

        Returns
        -------
        int
            The first of the calls that are now the caller's alone; the others follow it.

        Raises
        ------
        TypeError, ValueError
            `n` is not an int, or negative; the stream is then unchanged.
        RuntimeError
            The stream has not so many calls left, and is unchanged.

        Examples
        --------
        >>> stream = MaskStream(42)
        >>> stream.reserve(1000)
        0
        >>> stream.call
        1000
        """
        return self._take(_checks.integer(n, "n", 0))

    def _take(self, n: int) -> int:
        taken = False
        try:
            with _stream_lock:
                call = self._call
                if call + n > _MAX_CALL - 1:
                    raise RuntimeError(f"stream is exhausted: call has reached {call}; use a stream with another key")
                self._call, taken = call + n, True
                return call
        except BaseException:  # an interrupt: nobody has got the calls
            if taken:
                with _stream_lock:
                    if self._call == call + n:
                        self._call = call
            raise

    def give_back(self, call: int) -> None:
        """Undo `take` after a pass that failed, unless somebody has taken a later call meanwhile.

        Parameters
        ----------
        call : int
            What `take` returned.
        """
        with _stream_lock:
            if self._call == call + 1:
                self._call = call

    def spawn(self, n: int) -> list[MaskStream]:
        """Return independent streams, one for each worker or member of an ensemble, as NumPy's generators do.

        Takes one call of this stream, so that spawning again gives other children. Child ``i`` has the key
        ``SeedSequence(key, spawn_key=(call lo, call hi, i)).generate_state(2)``, with the call in 32-bit words, and
        starts at call 0.

        Parameters
        ----------
        n : int
            How many, at least 0; none take no call.

        Returns
        -------
        list of MaskStream
            Streams whose keys differ from one another's and from this one's.

        Raises
        ------
        TypeError, ValueError
            `n` is not an int, or negative; the stream is then unchanged.
        RuntimeError
            The stream has no call left.

        See Also
        --------
        MaskStream.copy : a stream that gives the same masks.

        Examples
        --------
        >>> stream = MaskStream(42)
        >>> first, second = stream.spawn(2)
        >>> first.key == second.key
        False
        >>> stream.call
        1
        """
        if _checks.integer(n, "n", 0) == 0:
            return []
        _import_numpy_random()
        call = None
        try:
            call = self.take()
            words = call % 2**32, call >> 32
            sequences = (np.random.SeedSequence(self._key, spawn_key=(*words, i)) for i in range(n))
            return [MaskStream.from_key(_key_of(each.generate_state(2, np.uint32))) for each in sequences]
        except BaseException:  # an interrupt, or no memory: nobody has got the children
            if call is not None:
                self.give_back(call)
            raise

    def copy(self) -> MaskStream:
        """Return a stream of its own that will give the same masks; `spawn` gives streams that will not.

        Returns
        -------
        MaskStream
            Same key, same call.
        """
        return MaskStream(self)

    def state_dict(self) -> dict[str, Any]:
        """Return key and call as arrays.

        Returns
        -------
        dict
            ``key`` (uint32, shape (2,)) and ``call`` (int64, shape ()).
        """
        return {"key": np.array(self._key, np.uint32), "call": np.array(self._call, np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set key and call from what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            Exactly the entries ``key`` and ``call``.

        Raises
        ------
        TypeError, ValueError
            Missing, extra or misshapen entries; the stream is then unchanged.
        """
        _state.check_keys(state, ("key", "call"))
        words = _state.entry(state, "key", (2,), "iu")
        number = _state.entry(state, "call", (), "iu")
        key = _check_key(_key_of(words))
        call = _checks.integer(int(number), "state['call']", 0, _MAX_CALL - 1)
        with _stream_lock:
            self._key, self._call = key, call

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskStream):
            return NotImplemented
        return self._key == other._key and self._call == other._call

    def __reduce__(self) -> tuple[Any, tuple[Key, int]]:
        return MaskStream.from_key, (self._key, self._call)

    def __repr__(self) -> str:
        return f"MaskStream(key={self._key}, call={self._call})"


def _key_of(words: Any) -> Key:
    return int(words[0]), int(words[1])


def _check_key(key: object) -> Key:
    if not isinstance(key, tuple) or len(key) != 2:
        raise TypeError(f"key must be a tuple of two ints from 0 to 2**32 - 1; got {key!r}")
    first, second = (_checks.integer(word, "key", 0, 2**32 - 1) for word in key)
    return first, second
