"""Ensembles of thinned networks: dropout on while the rest is in inference, and what many passes say together."""

from normdrop.ensembles.exact import ExactEnsemble, exact_ensemble
from normdrop.ensembles.modes import sampling
from normdrop.ensembles.monte_carlo import mc_predict
from normdrop.ensembles.prediction import Prediction

__all__ = ["ExactEnsemble", "Prediction", "exact_ensemble", "mc_predict", "sampling"]
