"""`SVDInterpreter`: what the singular directions of heads and MLPs say in tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.factored import FactoredMatrix

OUTPUT_EMBEDDING = "unembed.W_U"
VECTOR_TYPES = ("OV", "w_in", "w_out")


class SVDInterpreter:
    """Reads the singular vectors of a model's matrices through its unembedding."""

    def __init__(self, model: Any) -> None:
        self.model, self.cfg = model, model.cfg
        self.params: dict[str, Tensor] = dict(model.named_parameters())

    def get_singular_vectors(
        self,
        vector_type: str,
        layer_index: int,
        num_vectors: int = 10,
        head_index: int | None = None,
    ) -> Tensor:
        """The logits of the first right singular vectors, [d_vocab 1 num_vectors].

        Of a head's OV matrix, or of an MLP's first or second matrix. Which of the two signs a
        vector has is the solver's choice.

        Raises:
            CircuitsError: for another type, a layer or head that is not there, an OV without head.
        """
        if vector_type not in VECTOR_TYPES:
            raise CircuitsError(f"vector_type={vector_type!r}: choose {', '.join(VECTOR_TYPES)}")
        self._require("layer_index", layer_index, self.cfg.n_layers)
        if vector_type == "OV":
            if head_index is None:
                raise CircuitsError("OV is a head's matrix; give head_index")
            self._require("head_index", head_index, self.cfg.n_heads)
            V = self._ov(layer_index, head_index).V.mT
        else:
            V = torch.linalg.svd(self._of_mlp(vector_type, layer_index))[2]
        self._require("num_vectors", num_vectors - 1, len(V), least=1)
        logits: Tensor = V[:num_vectors].float() @ self.params[OUTPUT_EMBEDDING]
        return logits.mT.unsqueeze(1)

    def _ov(self, layer: int, head: int) -> FactoredMatrix:
        W_V, W_O = (self.params[f"blocks.{layer}.attn.{name}"][head] for name in ("W_V", "W_O"))
        return FactoredMatrix(W_V, W_O)

    def _of_mlp(self, vector_type: str, layer: int) -> Tensor:
        if vector_type == "w_out":
            return self.params[f"blocks.{layer}.mlp.W_out"]
        w_in = self.params[f"blocks.{layer}.mlp.W_in"].mT
        return w_in * self.params.get(f"blocks.{layer}.ln2.w", torch.ones(()))

    def _require(self, name: str, index: int, n: int, least: int = 0) -> None:
        if not 0 <= index < n:
            raise CircuitsError(
                f"{name}={index + least}: choose {least} to {n - 1 + least}, which there are"
            )
