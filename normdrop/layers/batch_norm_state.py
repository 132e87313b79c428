"""What batch normalization layers learn and save: parameters, state, pickles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from normdrop import _checks, _device, _process, _state
from normdrop.layers.attributes import writable
from normdrop.layers.base import Array, Layer
from normdrop.random import MaskStream

STATE = ("gamma", "beta", "running_mean", "running_var")
COUNTS = ("num_batches", "num_values")


class BatchNormState(Layer):
    """The parameters of `BatchNorm`, and what it gives to be saved and takes back."""

    if TYPE_CHECKING:
        gamma: Array | None
        beta: Array | None
        dgamma: Array | None
        dbeta: Array | None

    def parameters(self) -> Iterator[tuple[str, Array, Array | None]]:
        """Yield ``("gamma", gamma, dgamma)`` and ``("beta", beta, dbeta)``, as far as the layer has them.

        Yields
        ------
        name : str
            Name of the parameter.
        value : ndarray
            The parameter itself, to be changed in place.
        gradient : ndarray or None
            Its gradient; ``None`` before the first backward pass, and after one of inference without `x`.
        """
        if self.gamma is not None:
            yield "gamma", self.gamma, self.dgamma
        if self.beta is not None:
            yield "beta", self.beta, self.dbeta

    def _arrays(self) -> dict[str, Array]:
        names = (*STATE, "dgamma", "dbeta")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _state(self) -> dict[str, Array]:
        return {name: values for name, values in self._arrays().items() if name in STATE}

    def state_dict(self) -> dict[str, Array]:
        """Return copies of parameters, running statistics and counts.

        Returns
        -------
        dict
            ``gamma``, ``beta``, ``running_mean``, ``running_var`` as far as the layer has them, each of shape (C,);
            ``num_batches`` and ``num_values`` (int64, shape ()).
        """
        with _process.updating:
            state = {name: _device.to_host(values) for name, values in self._state().items()}
            return state | {name: np.array(min(getattr(self, name), _state.MOST), np.int64) for name in COUNTS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, rounded to the layer's dtype.

        Parameters
        ----------
        state : mapping
            Exactly the entries of this layer's `state_dict`.

        Raises
        ------
        TypeError, ValueError
            Missing, extra or misshapen entries; the layer is then unchanged.
        """
        self._load(state)

    def _load(self, state: Mapping[str, Any], stream: MaskStream | None = None) -> None:
        """Take over state, with that of a stream."""
        arrays, of_stream = self._state(), () if stream is None else ("key", "call")
        _state.check_keys(state, [*arrays, *COUNTS, *of_stream])
        values = {}
        for name, array in arrays.items():
            like = _checks.array(array, name)
            new = _state.entry(state, name, like.shape, "f")
            values[name] = _state.rounded(new, like.dtype, f"state[{name!r}]")
        counts = {
            name: _checks.integer(int(_state.entry(state, name, (), "iu")), f"state[{name!r}]", 0) for name in COUNTS
        }
        if "running_var" in values:
            _checks.not_negative(np.asarray(state["running_var"]), "state['running_var']")
        with _process.updating:
            moved = None if stream is None else (stream, {name: state[name] for name in of_stream})
            _state.assign(arrays, values, self, counts, moved)

    def __getstate__(self) -> dict[str, Any]:
        with _process.updating:  # a whole number of batches, whoever trains meanwhile
            return super().__getstate__() | {name: _device.to_host(values) for name, values in self._arrays().items()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(state)
        own = vars(self)
        for name, value in (("reduce", None), ("debias", False), ("frozen", False)):
            own.setdefault(name, value)  # in pickles from before there was one
        own.update({name: writable(own[name]) for name in (*STATE, "dgamma", "dbeta")})

    @classmethod
    def _upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = super()._upgraded(values)
        gamma, mean = values["gamma"], values["running_mean"]
        affine, tracks = gamma is not None, mean is not None
        for name in ("running_mean", "running_var"):  # in the dtype of the parameters before
            if tracks and isinstance(values[name], np.ndarray):
                values[name] = values[name].astype(np.float64)
        made = {"affine": affine, "scale": affine, "shift": affine, "track_running_stats": tracks}
        dtype = np.dtype(gamma.dtype if affine else np.float32)
        return {"on_nonfinite": "propagate", "dtype": dtype} | made | values
