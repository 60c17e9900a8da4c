"""Circuits alone by plain passes with hooks: for models whose mathematics is not GPT-2's.

One pass for each circuit: what a head's query, key or value reads, and what an MLP reads, is
replaced on the way by what the circuit's kept edges say.
"""

from __future__ import annotations

from einops import einsum, rearrange
from torch import Tensor

from circuits.errors import CircuitsError
from circuits.hooks import HookFn, HookPoint
from circuits.interventions import Hook
from circuits.sweep.circuit_runner import CircuitRunner
from circuits.sweep.circuit_streams import ReferenceRun, Streams


class HookedCircuit(CircuitRunner):
    """Plain passes, in which hooks say what each reader reads."""

    def run(self, streams: Streams) -> None:
        """Fill in what every writer changes, circuit by circuit."""
        model, prompts, reference = self.base.model, self.base.prompts, self.reference
        lacking = [site for site, _ in self._hooks(streams, reference) if site not in self._sites]
        if lacking:
            raise CircuitsError(
                f"{model.cfg.model_name} has no site {lacking[0]}, where what is read could be "
                "replaced, so its circuits cannot be run alone"
            )
        for index in range(streams.shape[0]):
            alone = streams.only(index)
            model.run_with_hooks(
                prompts.tokens,
                fwd_hooks=self._hooks(alone, reference),
                attention_mask=prompts.mask,
                stop_at_layer=model.cfg.n_layers,
            )

    @property
    def _sites(self) -> set[str]:
        return {*self.base.model.hook_dict}

    def _hooks(self, streams: Streams, reference: ReferenceRun) -> list[Hook]:
        """What replaces each reader's stream, and what notes each writer's change."""
        hooks: list[Hook] = []
        for layer in range(streams.graph.n_layers):
            at, first = f"blocks.{layer}.", streams.graph.inputs(layer).start
            for slot, name in enumerate("qkv"):
                start = first + slot * streams.graph.n_heads
                readers = list(range(start, start + streams.graph.n_heads))
                read = _reading(streams, readers, reference.pre[layer])
                hooks.append((f"{at}hook_{name}_input", read))
            hooks.append((at + "attn.hook_z", self._noting_heads(streams, reference, layer)))
            if self.base.model.cfg.attn_only:
                continue
            mlp = [streams.graph.inputs(layer).stop]
            hooks.append((at + "hook_mlp_in", _reading(streams, mlp, reference.mid[layer])))
            if streams.kept[0].neurons is None:
                hooks.append((at + "hook_mlp_out", self._noting_mlp(streams, reference, layer)))
            else:
                hooks.append((at + "mlp.hook_post", self._noting_neurons(streams, layer)))
        return hooks

    def _noting_heads(self, streams: Streams, reference: ReferenceRun, layer: int) -> HookFn:
        def note(z: Tensor, hook: HookPoint) -> None:
            change = z.flatten(0, 1) - reference.z[layer]
            way_out = self.base.model.blocks[layer].attn.W_O
            written = einsum(change, way_out, "n h e, h e d -> n h d")
            streams.write(streams.graph.heads(layer), written[None])

        return note

    def _noting_mlp(self, streams: Streams, reference: ReferenceRun, layer: int) -> HookFn:
        def note(written: Tensor, hook: HookPoint) -> None:
            change = written.flatten(0, 1) - reference.mlp[layer]
            streams.write(streams.graph.heads(layer).stop, change[None])

        return note

    def _noting_neurons(self, streams: Streams, layer: int) -> HookFn:
        def note(post: Tensor, hook: HookPoint) -> None:
            change = self.neurons_alone(streams, layer, post.flatten(0, 1)[None], self.tokens)
            streams.write(streams.graph.heads(layer).stop, change)

        return note


def _reading(streams: Streams, readers: list[int], stream: Tensor) -> HookFn:
    """Replace what these readers read, [b p h d] or of an MLP [b p d]."""

    def read(value: Tensor, hook: HookPoint) -> Tensor:
        b = streams.shape[1]
        new = rearrange(streams.read(readers, stream)[0], "(b p) r d -> b p r d", b=b)
        if value.ndim == 3:
            return new[:, :, 0]
        if value.shape[2] != len(readers):
            raise CircuitsError(
                f"at {hook.name} {value.shape[2]} groups of heads read what {len(readers)} heads "
                "share, so a circuit of single heads cannot be run alone"
            )
        return new

    return read
