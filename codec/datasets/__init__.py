"""Simulated data whose Markov blanket is known.

Every ``make_*`` function draws n rows and returns a :class:`Simulation`, which unpacks to ``X, y, blanket``.
Data that come from a directed acyclic graph also carry the whole graph as a :class:`Network`.
"""

from codec.datasets._models import make_bullseye, make_foci_model, make_modular_sum, make_post_nonlinear
from codec.datasets._networks import make_discrete_network, make_gaussian_network, make_mlp_network
from codec.datasets._simulation import Network, Simulation, markov_blankets

__all__ = [
    "Network",
    "Simulation",
    "make_bullseye",
    "make_discrete_network",
    "make_foci_model",
    "make_gaussian_network",
    "make_mlp_network",
    "make_modular_sum",
    "make_post_nonlinear",
    "markov_blankets",
]
