"""Batch normalization of several domains, with statistics for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from normdrop import _checks, _process, _state
from normdrop.layers.attributes import Fixed
from normdrop.layers.base import Array, Layer
from normdrop.layers.batch_norm import BatchNorm

_AFFINE = ("gamma", "beta")


class _OfDomain(BatchNorm):
    """The layer of one domain; its gradients are those of the first one's, if that shares scale and shift with it."""

    _first: BatchNorm | None = None

    def _with_gradients(self) -> dict[str, Any]:
        return vars(self if self._first is None else self._first)


def _shared(name: str) -> Any:
    """Return the property of a parameter or gradient that the domains share."""

    def get(layer: DomainBatchNorm) -> Any:
        return getattr(layer._shared_one(name), name)

    def put(layer: DomainBatchNorm, value: Any) -> None:
        setattr(layer._shared_one(name), name, value)
        layer._share()

    return property(get, put, doc=f"`{name}` of all domains.")


class DomainBatchNorm(Layer):
    """Normalize each batch by the statistics of its domain.

    Where data come from several sources that differ in mean and variance, such as labeled and unlabeled, clean and
    attacked, or one scanner and another, one average over all of them is right for none.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    domains : iterable of str
        Their names, without dots.
    shared_affine : bool, default True
        Whether one learned scale and shift serve all domains, or each has its own.
    **options : optional
        As of `BatchNorm`.

    Attributes
    ----------
    norms : dict of str to BatchNorm
        The layer of each domain: its running statistics, counts and options, and methods such as `BatchNorm.fit` and
        `BatchNorm.freeze`.
    gamma, beta, dgamma, dbeta : ndarray, shape (C,), or None
        Those that the domains share; with ``shared_affine=False``, an error that says where they are.

    See Also
    --------
    BatchNorm : what each domain does.

    References
    ----------
    .. [1] W.-G. Chang, T. You, S. Seo, S. Kwak and B. Han, "Domain-specific batch normalization for unsupervised domain
       adaptation", CVPR 2019.

    Examples
    --------
    >>> import numpy as np
    >>> import normdrop
    >>> layer = normdrop.DomainBatchNorm(1, ["day", "night"], momentum=0.0)
    >>> day, night = np.array([[5.0], [7.0]]), np.array([[-1.0], [1.0]])
    >>> y, z = layer(day, domain="day"), layer(night, domain="night")
    >>> layer.norms["day"].running_mean, layer.norms["night"].running_mean
    (array([6.]), array([0.]))
    >>> sorted(layer.state_dict())[:3]
    ['beta', 'day.num_batches', 'day.num_values']
    """

    norms = Fixed["dict[str, BatchNorm]"]("The layer of each domain, by name.")
    shared_affine = Fixed[bool]("Whether one scale and shift serve all domains.")
    gamma, beta, dgamma, dbeta = (_shared(name) for name in ("gamma", "beta", "dgamma", "dbeta"))

    def __init__(
        self, num_features: int, domains: Iterable[str], *, shared_affine: bool = True, **options: Any
    ) -> None:
        names = _names(domains)
        vars(self)["shared_affine"] = _checks.flag(shared_affine, "shared_affine")
        vars(self)["norms"] = {name: _OfDomain(num_features, **options) for name in names}
        super().__init__()
        self._share()

    def _share(self) -> None:
        """Let all domains have the scale and shift of the first one, if they share them."""
        first, *others = self.norms.values()
        for norm in others if self.shared_affine else ():
            vars(norm).update({name: vars(first)[name] for name in _AFFINE}, _first=first)

    def _shared_one(self, name: str) -> BatchNorm:
        if not self.shared_affine:
            raise AttributeError(f"each domain has its own {name}; write layer.norms[domain].{name}")
        return next(iter(self.norms.values()))

    @property
    def training(self) -> bool:
        """Whether the layer, in all its domains, is in training mode."""
        return next(iter(self.norms.values())).training

    @training.setter
    def training(self, value: bool) -> None:
        value = _checks.flag(value, "training")
        for norm in self.norms.values():
            norm.training = value

    def forward(self, x: Array, *, domain: str, **options: Any) -> Any:
        """Normalize a batch of one domain, as `BatchNorm.forward` does.

        Parameters
        ----------
        x : ndarray of floats
            Batch, as for `BatchNorm`.
        domain : str
            Name of the domain it is from.
        **options : optional
            As of `BatchNorm.forward`.

        Returns
        -------
        y : ndarray
            Shape, dtype and memory order of `x`, or `out`.
        context : BatchNormContext or InferenceContext
            Only with ``return_context=True``.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            There is no such domain, or as by `BatchNorm.forward`; the layer is then unchanged.
        """
        return self._norm(domain).forward(x, **options)

    def backward(
        self,
        dy: Array,
        *,
        domain: str | None = None,
        context: Any = None,
        accumulate: bool = False,
        out: Array | None = None,
    ) -> Array:
        """Compute the gradients of a forward pass, as `BatchNorm.backward` does.

        Parameters
        ----------
        dy : ndarray, shape and dtype of that pass's input
            Gradient with respect to the output.
        domain : str, optional
            That of the pass; by default the only one of which a pass waits. With `context`, it says whose scale and
            shift the gradients belong to, and is needed if the domains do not share them.
        context : BatchNormContext or InferenceContext, optional
            What the forward pass returned; by default the pass is the one that waits.
        accumulate : bool, default False
            Whether to add to ``dgamma`` and ``dbeta`` instead of setting them, as for batches of several domains in a
            step.
        out : ndarray, shape and dtype of `dy`, optional
            Where to write the result. It may be `dy`.

        Returns
        -------
        ndarray
            Gradient with respect to the input; ``dgamma`` and ``dbeta`` are set.

        Raises
        ------
        RuntimeError
            No forward pass waits, or those of several domains do.
        TypeError, ValueError
            An argument does not match the forward pass, or there is no such domain; the layer is then unchanged.
        """
        if domain is not None:
            norm = self._norm(domain)
        elif context is None:
            norm = self._waiting_one()
        elif self.shared_affine:
            norm = next(iter(self.norms.values()))
        else:
            raise ValueError(
                "domain must be given with a context if the domains do not share scale and shift: its name, as in "
                "the forward pass"
            )
        return norm.backward(dy, context=context, accumulate=accumulate, out=out)

    def _norm(self, domain: object) -> BatchNorm:
        if not isinstance(domain, str):
            raise TypeError(f"domain must be a name, one of {list(self.norms)}; got {_checks.kind(domain)}")
        if domain not in self.norms:
            raise ValueError(f"domain must be one of {list(self.norms)}; got {domain!r}")
        return self.norms[domain]

    def _waiting_one(self) -> BatchNorm:
        """Return the layer of the only domain of which a pass waits; the first one says so if none does."""
        asked = [name for name, norm in self.norms.items() if norm._passes.waiting[1] > 0]
        kept = asked or [name for name, norm in self.norms.items() if norm._passes.waiting[0] is not None]
        if len(kept) > 1:
            raise RuntimeError(
                f"forward passes of several domains, {kept}, wait for backward; say to which of them dy belongs by "
                "domain=..."
            )
        return self.norms[kept[0]] if kept else next(iter(self.norms.values()))

    def forget(self) -> None:
        """Let go of the forward passes of this thread that wait for backward, of all domains."""
        for norm in self.norms.values():
            norm.forget()

    def parameters(self) -> Iterator[tuple[str, Array, Array | None]]:
        """Yield name, value and gradient of scale and shift: once if the domains share them, else ``"day.gamma"``.

        Yields
        ------
        name : str
            Name of the parameter.
        value : ndarray
            The parameter itself, to be changed in place.
        gradient : ndarray or None
            Its gradient.
        """
        for domain, norm in self.norms.items():
            for name, value, gradient in norm.parameters():
                yield name if self.shared_affine else f"{domain}.{name}", value, gradient
            if self.shared_affine:
                return

    def _entry(self, domain: str, name: str) -> str:
        """Return the name of an entry of a domain's state in that of all."""
        return name if self.shared_affine and name in _AFFINE else f"{domain}.{name}"

    def state_dict(self) -> dict[str, Array]:
        """Return copies of parameters, running statistics and counts.

        Returns
        -------
        dict
            The entries of `BatchNorm.state_dict` for each domain, after its name and a dot; ``gamma`` and ``beta`` once
            and without a name, if the domains share them.
        """
        with _process.updating:
            return {
                self._entry(domain, name): values
                for domain, norm in self.norms.items()
                for name, values in norm.state_dict().items()
            }

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
        with _process.updating:
            before = {domain: norm.state_dict() for domain, norm in self.norms.items()}
            _state.check_keys(state, list(self.state_dict()))
            try:
                for domain, norm in self.norms.items():
                    norm.load_state_dict({name: state[self._entry(domain, name)] for name in before[domain]})
            except BaseException as error:
                for name, norm in self.norms.items():
                    norm.load_state_dict(before[name])
                if isinstance(error, (TypeError, ValueError)):
                    raise type(error)(f"domain {domain!r}: {error}") from error
                raise

    def _arrays(self) -> dict[str, Array]:
        return {
            self._entry(domain, name): values
            for domain, norm in self.norms.items()
            for name, values in norm._arrays().items()
        }

    def _moved(self, arrays: Mapping[str, Array]) -> Self:
        for domain, norm in self.norms.items():
            norm._moved({name: arrays[self._entry(domain, name)] for name in norm._arrays()})
        self._share()
        return self

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def __repr__(self) -> str:
        of_one = repr(next(iter(self.norms.values())))
        inner = of_one[of_one.index("(") + 1 : -1].split(", ", 1)
        return f"{type(self).__name__}({inner[0]}, {list(self.norms)}, shared_affine={self.shared_affine}, {inner[1]})"


def _names(domains: object) -> list[str]:
    """Return names of domains after checks."""
    if isinstance(domains, str) or not isinstance(domains, Iterable):
        raise TypeError(f"domains must be an iterable of names; got {_checks.kind(domains)}")
    names = list(domains)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"domains must be names, as str; got {_checks.kind(wrong[0])}")
    if not names or len(set(names)) < len(names) or any(not name or "." in name for name in names):
        raise ValueError(f"domains must be one or more different names, not empty and without dots; got {names}")
    return names
