"""How many floating point operations an exact sweep needs at least, counted from sizes alone.

Counted is what the five facts behind the sweep engine leave (``interp/patching/wavefront``): a patched
run begins at its own layer and at its own first changed column; runs that change nothing are free; in
the last layer all columns give keys and values but only the column that the metric reads goes on;
the readout is two logits. The base run has all columns, the other prompts' run only those from the
first difference on, and both narrow in the last layer too.

Left out, so that the floor is lower than what any implementation can reach: norms, activation
functions, softmax, biases, residual additions, embeddings, copies of keys and values, and all traffic
of memory. Attention is counted by what a causal query sees, not by the rectangle that is computed.
The rate it is divided by is that of large products; a sweep has small ones too.

It is no bound on algorithms that know a sixth fact: a residual stream patched at one column needs
new queries, keys and values of that column only, in its first layer.

A multiplication and an addition are two operations.
"""

from __future__ import annotations

from interp.bench.cases import Case

N_LOGITS = 2


def count_sites(case: Case, site: str) -> int:
    """Sites of a sweep: layers times positions, or layers times heads."""
    shape = case.shape
    return shape.n_layers * (case.n_tokens if site == "resid_pre" else shape.n_heads)


def count_rows(case: Case, site: str) -> int:
    """Patched runs, one a site and prompt, that can differ from the base run."""
    shape = case.shape
    changed = case.n_tokens - case.first_difference if site == "resid_pre" else shape.n_heads
    return shape.n_layers * changed * case.n_prompts


def count_sweep(case: Case, site: str) -> int:
    """Operations of the whole sweep."""
    shape, difference = case.shape, case.first_difference
    both = _run(case, 0, 0) + _run(case, difference, 0)
    if site == "resid_pre":
        rows = sum(
            _run(case, start, layer)
            for layer in range(shape.n_layers)
            for start in range(difference, case.n_tokens)
        )
    else:
        rows = shape.n_heads * sum(_run_of_head(case, layer) for layer in range(shape.n_layers))
    n_runs = 2 * case.n_prompts + count_rows(case, site)
    return case.n_prompts * (both + rows) + n_runs * _readout(case)


def count_edges(case: Case) -> int:
    """Edges between heads (through q, k, v), MLPs, the input and the logits."""
    n_heads, n_layers = case.shape.n_heads, case.shape.n_layers
    before = [1 + layer * (n_heads + 1) for layer in range(n_layers + 1)]
    return sum(3 * n_heads * n + n + n_heads for n in before[:-1]) + before[-1]


def count_exact_edges(case: Case) -> int:
    """Operations of every edge of such a graph patched alone, in every prompt.

    A row begins with what one reader makes of a changed input: one head's query, key or value and its
    attention, or an MLP; and flies on from there. What a writer changes is computed once.
    """
    shape, start = case.shape, case.first_difference
    d_model, d_head = shape.d_model, shape.d_model // shape.n_heads
    n, rows = case.n_tokens - start, 0
    for layer in range(shape.n_layers):
        is_last = layer == shape.n_layers - 1
        before = 1 + layer * (shape.n_heads + 1)
        read = 1 if is_last else n
        seen = _attention(case, case.n_tokens - 1 if is_last else start) // shape.n_heads
        after = read * _mlp(case) + (0 if is_last else _run(case, start, layer + 1))
        # a value changes no score, so its row weighs values only
        per_head = {"q": (read, seen), "k": (n, seen), "v": (n, seen // 2)}
        for projected, attention in per_head.values():
            birth = projected * 2 * d_model * d_head + attention + read * 2 * d_model * d_head
            rows += before * shape.n_heads * (birth + after)
        rows += (before + shape.n_heads) * after
    writers = shape.n_layers * shape.n_heads * n * 2 * d_model * d_head
    both = _run(case, 0, 0) + _run(case, start, 0)
    return case.n_prompts * (both + writers + rows + (2 + count_edges(case)) * _readout(case))


def count_peer_sweep(case: Case, site: str) -> int:
    """Operations of one whole forward a site, with logits of the whole vocabulary at every position."""
    shape = case.shape
    forward = shape.n_layers * _layer(case, 0) + 2 * case.n_tokens * shape.d_model * shape.d_vocab
    return count_sites(case, site) * case.n_prompts * forward


def _run(case: Case, start: int, layer: int) -> int:
    """One prompt, columns from ``start`` on, from the input of ``layer`` to the column that is read."""
    return (case.shape.n_layers - 1 - layer) * _layer(case, start) + _last_layer(case, start)


def _run_of_head(case: Case, layer: int) -> int:
    """One prompt with one head of ``layer`` changed in every column from the first difference on."""
    n_layers = case.shape.n_layers
    is_last = layer == n_layers - 1
    n = 1 if is_last else case.n_tokens - case.first_difference
    d_model = case.shape.d_model
    birth = n * (2 * d_model * (d_model // case.shape.n_heads) + _mlp(case))
    return birth if is_last else birth + _run(case, case.first_difference, layer + 1)


def _layer(case: Case, start: int) -> int:
    n = case.n_tokens - start
    return n * (8 * case.shape.d_model**2 + _mlp(case)) + _attention(case, start)


def _last_layer(case: Case, start: int) -> int:
    """Keys and values of all columns; query, output and MLP of the last one."""
    d_model = case.shape.d_model
    n = case.n_tokens - start
    return 4 * n * d_model**2 + 4 * d_model**2 + _mlp(case) + _attention(case, case.n_tokens - 1)


def _attention(case: Case, start: int) -> int:
    """Scores and weighted values of queries from ``start`` on, each of the columns up to its own."""
    n = case.n_tokens
    seen = (n * (n + 1) - start * (start + 1)) // 2
    return 4 * case.shape.d_model * seen


def _mlp(case: Case) -> int:
    return 16 * case.shape.d_model**2


def _readout(case: Case) -> int:
    return 2 * case.shape.d_model * N_LOGITS
