"""A planted model's forward written out in float64, in which every edge can be edited: its brute-force truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from interp.models.bundled.planted import PlantedModel
from interp.tasks.base import PromptPairs

Edit = Callable[[str, str, Tensor], Tensor]


class Direct:
    """A second forward pass, straight from the weights in fp64, in which every edge can be edited.

    A node's input is the sum of all earlier nodes' outputs, each as ``edit(source, target, output)``
    returns it; targets are ``a0.h1<q>``, ``m0``, ``logits``.
    """

    def __init__(self, planted: PlantedModel) -> None:
        self.model, self.tokenizer, self.circuit = planted.build()
        self.config = self.model.config
        self.weights = {key: value.double() for key, value in self.model.state_dict().items()}

    def run(
        self,
        tokens: Tensor,
        edit: Edit = lambda source, target, output: output,
        done: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Outputs of every node; ``logits`` included. Those that are ``done`` are not computed again."""
        weights, config = self.weights, self.config
        embedded = weights["embed.W_E"][tokens] + weights["pos_embed.W_pos"][: tokens.shape[1]]
        outputs, total = {"input": embedded}, embedded

        def read(target: str, sources: Mapping[str, Tensor], total: Tensor) -> Tensor:
            edited = ((edit(source, target, value), value) for source, value in sources.items())
            return sum((new - value for new, value in edited if new is not value), total)

        for layer in range(config.n_layers):
            before, stream = dict(outputs), total
            for head in range(config.n_heads):
                node = f"a{layer}.h{head}"
                if done and node in done:
                    outputs[node] = done[node]
                else:
                    q, k, v = (read(f"{node}<{kind}>", before, stream) for kind in "qkv")
                    outputs[node] = self._attend(layer, head, q, k, v)
                total = total + outputs[node]
            if config.d_mlp:
                node = f"m{layer}"
                known = bool(done) and node in done
                outputs[node] = done[node] if known else self._mlp(layer, read(node, outputs, total))
                total = total + outputs[node]
        outputs["logits"] = read("logits", outputs, total) @ weights["unembed.W_U"]
        return outputs

    def _attend(self, layer: int, head: int, *inputs: Tensor) -> Tensor:
        weights = (self.weights[f"blocks.{layer}.attn.W_{kind}"][head] for kind in "QKV")
        q, k, v = (x @ weight for x, weight in zip(inputs, weights, strict=True))
        future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
        pattern = (q @ k.mT).masked_fill(future, -torch.inf).softmax(-1)
        return pattern @ v @ self.weights[f"blocks.{layer}.attn.W_O"][head]

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        weights, at = self.weights, f"blocks.{layer}.mlp."
        pre = x @ weights[at + "W_in"] + weights[at + "b_in"]
        if self.config.gated_mlp:
            gate = x @ weights[at + "W_gate"] + weights[at + "b_gate"]
            post = gate * gate.sigmoid() * pre
        else:
            post = pre.clamp(min=0)
        return post @ weights[at + "W_out"] + weights[at + "b_out"]

    @cached_property
    def nodes(self) -> list[str]:
        """Every node that has an output, in the order of the forward pass."""
        per_layer = [
            [f"a{layer}.h{h}" for h in range(self.config.n_heads)] for layer in range(self.config.n_layers)
        ]
        if self.config.d_mlp:
            per_layer = [[*heads, f"m{layer}"] for layer, heads in enumerate(per_layer)]
        return ["input", *(node for nodes in per_layer for node in nodes)]

    @cached_property
    def edges(self) -> list[tuple[str, str]]:
        """Every edge the architecture has."""
        found: list[tuple[str, str]] = []

        def is_before(source: str, target: str) -> bool:
            if source == "input" or target == "logits":
                return True
            (a, b), (c, d) = ((int(node.strip("am").split(".")[0]), node[0]) for node in (source, target))
            return a < c or (a == c and (b, d) == ("a", "m"))

        for target in [*self.nodes[1:], "logits"]:
            slots = [f"{target}<{kind}>" for kind in "qkv"] if target.startswith("a") else [target]
            found += [(u, slot) for u in self.nodes if is_before(u, target) and u != target for slot in slots]
        return found


class Patching:
    """Effects in one direction: how far a patch moves the metric from the base to the source run."""

    def __init__(self, direct: Direct, pairs: PromptPairs, direction: str) -> None:
        self.direct, self.pairs = direct, pairs
        base, source = (
            (pairs.corrupted, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupted)
        )
        self.base_tokens = base
        self.base, self.source = direct.run(base), direct.run(source)
        self.range = (self.measure(self.source) - self.measure(self.base)).mean()

    def measure(self, outputs: dict[str, Tensor]) -> Tensor:
        last = outputs["logits"][:, -1]
        return (last.gather(1, self.pairs.answers) - last.gather(1, self.pairs.wrong))[:, 0]

    def effect(self, edit: Edit) -> tuple[float, float]:
        """Recovered fraction of the metric's range, and the largest change of any logit at the end."""
        return self.compare(self.direct.run(self.base_tokens, edit))

    def compare(self, patched: dict[str, Tensor]) -> tuple[float, float]:
        """The same of a patched run."""
        moved = (patched["logits"] - self.base["logits"])[:, -1].abs().max().item()
        return ((self.measure(patched) - self.measure(self.base)).mean() / self.range).item(), moved

    def of_edges(self, zero: bool = False) -> dict[str, tuple[float, float]]:
        """:meth:`effect` of every edge alone, with the source run's value or zeros; a run for each target."""
        found = {}
        n = len(self.base_tokens)
        for target in dict.fromkeys(target for _, target in self.direct.edges):
            sources = [u for u, v in self.direct.edges if v == target]

            def edit(
                u: str, v: str, out: Tensor, target: str = target, sources: list[str] = sources
            ) -> Tensor:
                if v != target:
                    return out
                row = n * sources.index(u)
                new = torch.zeros_like(self.source[u]) if zero else self.source[u]
                return torch.cat([out[:row], new, out[row + n :]])

            before = self.direct.nodes[: [*self.direct.nodes, "logits"].index(target.split("<")[0])]
            done = {node: self.base[node].repeat(len(sources), 1, 1) for node in before}
            patched = self.direct.run(self.base_tokens.repeat(len(sources), 1), edit, done)["logits"]
            parts = zip(sources, patched.split(n), strict=True)
            found |= {f"{u}->{target}": self.compare({"logits": logits}) for u, logits in parts}
        return found

    def of_node(self, node: str, positions: Tensor | None = None) -> tuple[float, float]:
        """``positions`` [batch]: patch one position a row only."""

        def edit(source: str, target: str, out: Tensor) -> Tensor:
            if source != node:
                return out
            if positions is None:
                return self.source[node]
            here = torch.arange(out.shape[1]) == positions[:, None]
            return torch.where(here[..., None], self.source[node], out)

        return self.effect(edit)
