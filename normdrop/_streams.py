"""Streams of masks: a key, and which call is next."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from normdrop import _checks, _seeding, _state

if TYPE_CHECKING:
    from numpy.random import Generator, SeedSequence

Key: TypeAlias = tuple[int, int]
RNG: TypeAlias = "int | SeedSequence | Generator | MaskStream | None"

_MAX_CALL = 2**63  # the top bit of the fourth counter word selects the second 16 bits of a tie

_stream_lock = _seeding.new_lock()  # one for all streams: it is held for a moment only


def _after_fork() -> None:
    global _stream_lock
    _stream_lock = _seeding.new_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
        if isinstance(rng, MaskStream):
            self._key, self._call = rng.key, rng.call
            return
        _seeding.check(rng)
        if isinstance(rng, np.random.Generator):
            key = _key_of(rng.integers(0, 2**32, size=2, dtype=np.uint32))
        else:
            key = _key_of(_seeding.sequence(rng).generate_state(2, np.uint32))
        self._key, self._call = key, 0

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
        _seeding.import_numpy_random()
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
