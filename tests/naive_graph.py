"""Graphs of models written out name by name, and searches of them that try every way: slow, and plain."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from interp.results import Graph, MlpUnits


@st.composite
def graphs(draw: st.DrawFn, largest_layers: int = 2) -> Graph:
    """Small graphs of every kind: grouped, parallel, attention only, units, positions in order and not."""
    n_layers = draw(st.integers(1, largest_layers))
    n_kv_heads = draw(st.integers(1, 2))
    d_mlp = draw(st.sampled_from([0, 3]))
    units = []
    for layer in range(n_layers if d_mlp else 0):
        kind = draw(st.sampled_from([None, "neuron", "latent"]))
        if kind is not None:
            indices = draw(st.sampled_from([(0,), (1, 2), (0, 1, 2)]))
            units.append(MlpUnits(layer, kind, indices))
    return Graph(
        n_layers=n_layers,
        n_heads=n_kv_heads * draw(st.integers(1, 2)),
        n_kv_heads=n_kv_heads,
        d_mlp=d_mlp,
        parallel_blocks=draw(st.booleans()),
        units=tuple(units),
        positions=draw(st.sampled_from([(), ("0", "1", "2"), ("S", "other")])),
    )


def naive_edges(graph: Graph) -> list[str]:
    """Names of all edges in the order of arrays."""
    found: list[str] = []
    seen = ["input"]

    def read(reader: str, writers: list[str]) -> None:
        for writer in writers:
            pair = f"{writer}->{reader}"
            found.extend([f"{pair}@{place}" for place in graph.positions] or [pair])

    for layer in range(graph.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(graph.n_heads)]
        kv = "h" if graph.n_heads == graph.n_kv_heads else "kv"
        for head in heads:
            read(f"{head}<q>", seen)
        for kind in "kv":
            for head in range(graph.n_kv_heads):
                read(f"a{layer}.{kv}{head}<{kind}>", seen)
        before = seen if graph.parallel_blocks else seen + heads
        units = next((unit for unit in graph.units if unit.layer == layer), None)
        written = list(heads)
        if graph.d_mlp and units is None:
            read(f"m{layer}", before)
            written.append(f"m{layer}")
        elif units is not None:
            named = [f"m{layer}.{units.kind[0]}{index}" for index in units.indices]
            for name in named:
                read(name, before)
            written += named
            if units.kind == "latent" or len(units.indices) < graph.d_mlp:
                written.append(f"m{layer}")
            if units.kind == "neuron" and len(units.indices) < graph.d_mlp:
                read(f"m{layer}", before)
        seen = seen + written
    read("logits", seen)
    return found


def split_edge(edge: str) -> tuple[str, str, str]:
    """Writer, reader and position (``""`` where there are none)."""
    pair, _, place = edge.partition("@")
    writer, _, reader = pair.partition("->")
    return writer, reader, place


def naive_ends(graph: Graph, reader: str, place: str) -> list[tuple[str, str]]:
    """The nodes, and their positions, that what is read somewhere can change."""
    found = re.match(r"a(\d+)\.(h|kv)(\d+)<([qkv])>", reader)
    if not found:
        return [(reader, place)]
    layer, head, number, kind = found.groups()
    group = graph.n_heads // graph.n_kv_heads if kind != "q" else 1
    assert (head == "kv") == (kind != "q" and group > 1)
    nodes = [f"a{layer}.h{int(number) * group + i}" for i in range(group)]
    places = [place]
    if kind != "q" and graph.positions:
        ordered = graph.positions[0] == "0"
        places = [p for p in graph.positions if not ordered or int(p) >= int(place)]
    return [(node, p) for node in nodes for p in places]


def naive_connected(graph: Graph, included: np.ndarray) -> np.ndarray:
    """Edges on some path of included edges, found by walking every path there is."""
    names = naive_edges(graph)
    chosen = [i for i in range(len(names)) if included[i]]
    errors = [f"m{unit.layer}" for unit in graph.units if unit.kind == "latent"]
    kept = np.zeros(len(names), dtype=bool)
    leaving: dict[tuple[str, str], list[int]] = {}
    for i in chosen:
        writer, _, place = split_edge(names[i])
        leaving.setdefault((writer, place), []).append(i)

    def walk(at: tuple[str, str], path: list[int]) -> None:
        if at[0] == "logits":
            kept[path] = True
            return
        for i in leaving.get(at, []):
            _, reader, place = split_edge(names[i])
            for end in naive_ends(graph, reader, place):
                walk(end, [*path, i])

    for start in ["input", *errors]:
        for place in graph.positions or ("",):
            walk((start, place), [])
    return kept


def naive_greedy(graph: Graph, strength: np.ndarray, n: int, limit: float) -> Iterator[str]:
    """Edges one by one: of those that lead to the logits through what was taken, the strongest first."""
    names = naive_edges(graph)
    taken: list[int] = []
    for _ in range(n):
        useful = {("logits", place) for place in graph.positions or ("",)}
        useful |= {(split_edge(names[i])[0], split_edge(names[i])[2]) for i in taken}
        open_edges = [
            i
            for i, name in enumerate(names)
            if i not in taken
            and strength[i] >= limit
            and any(end in useful for end in naive_ends(graph, *split_edge(name)[1:]))
        ]
        if not open_edges:
            return
        best = max(open_edges, key=lambda i: (strength[i], -i))
        taken.append(best)
        yield names[best]
