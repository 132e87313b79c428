"""Ensembles of thinned networks: dropout on while the rest is in inference, and what many passes say together."""

from normdrop.ensembles.exact import ExactEnsemble, exact_ensemble

__all__ = ["ExactEnsemble", "exact_ensemble"]
