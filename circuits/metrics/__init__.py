"""How well does the model do what the prompts ask for? One number per prompt.

A metric is one file with a function marked ``@metric``: what is made of the logits that it reads.
"""

from circuits.metrics.base import METRICS, Metric, Need, get_metric
from circuits.metrics.reading import divergence
from circuits.metrics.readout import is_readout, readout_metric

__all__ = [
    "METRICS",
    "Metric",
    "Need",
    "divergence",
    "get_metric",
    "is_readout",
    "readout_metric",
]
