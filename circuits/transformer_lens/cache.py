"""`ActivationCache`: the package's `Cache`, with TransformerLens' signatures, changed in place.

LayerNorm's own weight is part of an attribution here, as `circuits.decompose` has it. On weights
that are folded, which is `from_pretrained`'s default, that is TransformerLens' number; on raw ones
TransformerLens leaves the weight out, and a warning says that the numbers differ.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from circuits import decompose
from circuits.cache import Cache
from circuits.hooks import take


class ActivationCache(Cache):
    """What passed the sites of a run: ``cache["pattern", 5]``, or by full name.

    `cache_dict` is the dictionary itself. Methods are those of `Cache`, with the options in
    TransformerLens' order.
    """

    def __init__(
        self, cache_dict: dict[str, Tensor], model: Any, has_batch_dim: bool = True
    ) -> None:
        super().__init__({}, model, has_batch_dim=has_batch_dim)
        self.cache_dict = self._values = cache_dict
        self.has_embed, self.has_pos_embed = "hook_embed" in self, "hook_pos_embed" in self

    def __repr__(self) -> str:
        return f"ActivationCache with keys {list(self.cache_dict)}"

    def remove_batch_dim(self) -> ActivationCache:
        """The same cache, in place, without the axis of the only prompt."""
        bare = super().remove_batch_dim()
        self.cache_dict.update(dict(bare.items()))
        self.has_batch_dim = False
        return self

    def to(self, device: str | torch.device) -> ActivationCache:
        """The same cache, in place, with its tensors on another device."""
        self.cache_dict.update({name: value.to(device) for name, value in self.items()})
        return self

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> ActivationCache:
        """A new cache with some of the prompts; a number drops the batch axis."""
        values = {name: take(value, batch_slice, 0) for name, value in self.items()}
        return ActivationCache(values, self.model, not isinstance(batch_slice, int))

    def toggle_autodiff(self, mode: bool = False) -> None:
        """Turn gradients on or off for everything, torch's global switch; a warning says so."""
        warnings.warn(f"gradients are {'on' if mode else 'off'} for all of torch now", stacklevel=2)
        torch.set_grad_enabled(mode)

    def compute_head_results(self) -> None:
        """Put ``attn.hook_result`` of every layer into the cache, computed from z."""
        for layer in range(self.model.cfg.n_layers):
            name = f"blocks.{layer}.attn.hook_result"
            if name not in self.cache_dict:
                z = self["z", layer].unsqueeze(-1)
                self.cache_dict[name] = (z * self.model.blocks[layer].attn.W_O).sum(-2)

    def accumulated_resid(  # type: ignore[override]
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Any = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The stream at each layer's input: see `decompose.accumulated_resid`."""
        self._tell_raw(apply_ln and layer not in (None, -1, self.model.cfg.n_layers))
        options = {"incl_mid": incl_mid, "apply_ln": apply_ln, "mlp_input": mlp_input}
        stack = decompose.accumulated_resid(self, layer, pos_slice=pos_slice, **options)
        return stack if return_labels else stack[0]

    def decompose_resid(  # type: ignore[override]
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: Any = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """What each layer added: see `decompose.decompose_resid`."""
        self._tell_raw(apply_ln)
        stack = decompose.decompose_resid(
            self,
            layer,
            mlp_input=mlp_input,
            mode=mode,
            apply_ln=apply_ln,
            pos_slice=pos_slice,
            incl_embeds=incl_embeds,
        )
        return stack if return_labels else stack[0]

    def stack_head_results(  # type: ignore[override]
        self,
        layer: int = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Any = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head added: see `decompose.stack_head_results`."""
        self._tell_raw(apply_ln)
        options = {"incl_remainder": incl_remainder, "apply_ln": apply_ln}
        stack = decompose.stack_head_results(self, layer, pos_slice=pos_slice, **options)
        return stack if return_labels else stack[0]

    def get_neuron_results(
        self,
        layer: int,
        neuron_slice: Any = None,
        pos_slice: Any = None,
        project_output_onto: Tensor | None = None,
    ) -> Tensor:
        """What each of a layer's neurons added, [b p neuron d]; or its projection, without d."""
        post = take(take(self["post", layer], pos_slice, -2), neuron_slice, -1)
        W_out = take(self.model.blocks[layer].mlp.W_out, neuron_slice, 0)
        if project_output_onto is None:
            return post[..., None] * W_out
        onto = W_out @ project_output_onto
        return post * onto if onto.ndim == 1 else post[..., None] * onto

    def stack_neuron_results(  # type: ignore[override]
        self,
        layer: int,
        pos_slice: Any = None,
        neuron_slice: Any = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """What each neuron of the layers before `layer` added: [layer * neuron, b, p, d].

        With `incl_remainder` the last row is the rest of the stream.
        """
        self._tell_raw(apply_ln)
        n_layers = self.model.cfg.n_layers
        end = n_layers if layer in (None, -1) else layer
        ids = take(torch.arange(self.model.cfg.d_mlp), neuron_slice, 0).reshape(-1).tolist()
        resid = self["resid_post", end - 1] if end else self["resid_pre", 0]
        resid = take(resid, pos_slice, -2)
        parts = [self.get_neuron_results(i, ids, pos_slice).movedim(-2, 0) for i in range(end)]
        stack = torch.cat(parts) if parts else resid[None][:0]
        labels = [f"L{i}N{n}" for i in range(end) for n in ids]
        if incl_remainder:
            stack = torch.cat([stack, (resid - stack.sum(0))[None]])
            labels.append("remainder")
        if apply_ln:
            stack = decompose.apply_ln_to_stack(self, stack, layer, pos_slice=pos_slice)
        if project_output_onto is not None:
            stack = stack @ project_output_onto
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(  # type: ignore[override]
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Any = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """All parts of the stream: see `decompose.get_full_resid_decomposition`."""
        self._tell_raw(apply_ln)
        stack = decompose.get_full_resid_decomposition(
            self,
            layer,
            mlp_input=mlp_input,
            expand_neurons=expand_neurons,
            apply_ln=apply_ln,
            pos_slice=pos_slice,
            project_output_onto=project_output_onto,
        )
        return stack if return_labels else stack[0]

    def apply_ln_to_stack(  # type: ignore[override]
        self,
        residual_stack: Tensor,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Tensor:
        """Parts after LayerNorm: see `decompose.apply_ln_to_stack`."""
        self._tell_raw(not recompute_ln)
        return decompose.apply_ln_to_stack(
            self,
            residual_stack,
            layer,
            mlp_input=mlp_input,
            pos_slice=pos_slice,
            batch_slice=batch_slice,
            recompute_ln=recompute_ln,
        )

    def logit_attrs(  # type: ignore[override]
        self,
        residual_stack: Tensor,
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
    ) -> Tensor:
        """Direct logit attribution: see `decompose.logit_attrs`."""
        self._tell_raw(True)
        slices = {"pos_slice": pos_slice, "batch_slice": batch_slice}
        return decompose.logit_attrs(self, residual_stack, tokens, incorrect_tokens, **slices)

    def _tell_raw(self, applies: bool) -> None:
        if applies and not bool((self.model.ln_final.w == 1).all()):
            warnings.warn(
                "LayerNorm's weights are not folded, and are part of these numbers; "
                "transformer_lens leaves them out. Fold them (from_pretrained does) for the same",
                stacklevel=3,
            )
