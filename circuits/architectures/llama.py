"""Llama (Touvron et al. 2023), and Mistral and TinyLlama, which have its shape.

What differs from GPT-2:

- No position is added to the stream: queries and keys are turned by their positions (`rotary`), so
  a score depends on how far two tokens are apart. Later Llamas turn slow pairs more slowly yet, to
  read longer texts.
- RMSNorm instead of LayerNorm: nothing is centered, and there is no bias.
- A gate multiplies each neuron: (silu(x W_gate) * x W_in) W_out.
- No biases at all.
- Heads come in groups that share keys and values (from Llama 2's largest on; Mistral, TinyLlama).
- The unembedding is a matrix of its own, in the small ones (Llama 3.2) the embedding's.
- Mistral's queries see the last tokens only, where its ``sliding_window`` says so.
"""

from __future__ import annotations

from typing import ClassVar

from circuits.architectures.config import DecoderConfig
from circuits.architectures.decoder import Decoder
from circuits.architectures.heads import GroupedAttention
from circuits.architectures.parts import GatedMLP, RMSNorm
from circuits.architectures.settings import Said
from circuits.model.block import Block


class HookedLlama(Decoder):
    """A Llama that can be read and edited at every step.

    >>> from circuits.architectures.rotary import Rotary
    >>> cfg = DecoderConfig(1, 4, d_model=16, n_ctx=8, d_vocab=9, d_mlp=20, rotary=Rotary(4))
    >>> logits, cache = HookedLlama.random(cfg).run_with_cache([[1, 2, 3]])
    >>> logits.shape, cache["rot_q", 0].shape
    (torch.Size([1, 3, 9]), torch.Size([1, 3, 4, 4]))
    """

    kinds: ClassVar[tuple[str, ...]] = ("llama", "mistral")
    inside: ClassVar = {
        "ln1.stored": "input_layernorm.weight",
        "attn.q_rows": "self_attn.q_proj.weight",
        "attn.k_rows": "self_attn.k_proj.weight",
        "attn.v_rows": "self_attn.v_proj.weight",
        "attn.o_rows": "self_attn.o_proj.weight",
        "ln2.stored": "post_attention_layernorm.weight",
        "mlp.gate_rows": "mlp.gate_proj.weight",
        "mlp.in_rows": "mlp.up_proj.weight",
        "mlp.out_rows": "mlp.down_proj.weight",
    }

    @classmethod
    def shape(cls, said: Said) -> DecoderConfig:
        """The shape that a ``config.json`` describes."""
        said.require("attention_bias", False)
        said.require("mlp_bias", False)
        sizes = said.sizes()
        if said.config.get("sliding_window") and not said.config.get("layer_types"):
            windows = said.windows(["sliding_attention"] * sizes["n_layers"])
            sizes |= {"attn_types": windows, "window_size": said.size("sliding_window")}
        return DecoderConfig(**sizes)

    def norm(self) -> RMSNorm:
        """A new norm of the stream."""
        return RMSNorm(self._cfg.eps, self._cfg.d_model)

    def block(self, layer: int) -> Block:
        """Attention and a gated MLP, one after the other, each behind a norm."""
        attn = GroupedAttention(self._cfg, layer, self.backend)
        return Block(self.norm(), attn, self.norm(), GatedMLP(self._cfg, self.backend))
