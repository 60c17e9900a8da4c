"""What differs between two models: in their answers, row by row, and their weights; or circuits.

`answers_compared` matches two answers to the same question by what their rows are about; the
interval of a difference between means is taken draw by draw, where the answers have their draws
(`Result.draws`). `weights_compared` says how far each part's weights moved. `circuit_pairs` has
what two circuits share, beside `chance`, and how well their `rankings` find each other.
"""

from circuits.comparison.answers import answers_compared
from circuits.comparison.weights import weights_compared

__all__ = ["answers_compared", "weights_compared"]
