"""The back end below the model: x W + b, by the fastest way on this machine.

- `linear`: `Backend`, a model's products with its weight matrices, and `packed`.
- `onednn`: oneDNN's own products, and whether they are faster on this machine.
"""

from circuits.backend.linear import Backend, packed
from circuits.backend.onednn import onednn_is_faster, onednn_works

__all__ = ["Backend", "onednn_is_faster", "onednn_works", "packed"]
