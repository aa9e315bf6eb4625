"""Programs, and the transformers they are compiled to: every edge proved by brute force, as of hand-planted ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
import torch
from naive_planted import Direct, Patching

from interp.errors import ModelError, TaskError
from interp.models.bundled.planted.compiler import compile_program
from interp.models.bundled.planted.program import Choose, Gate, Move, Program
from interp.models.bundled.planted.program_layout import ProgramLayout
from interp.models.bundled.planted.random_program import compiled_model, make_program_pairs, random_program
from interp.tasks.base import PromptPairs

SEEDS = range(10)
ZERO, LEAST = 1e-9, 0.08
HERE, TOO = Move("here", "x0", at="END"), Move("too", "x1", at="END")


@pytest.fixture(params=SEEDS, scope="module")
def seed(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def direct(seed: int) -> Direct:
    return Direct(compiled_model(seed))


@pytest.fixture(scope="module")
def pairs(seed: int) -> PromptPairs:
    return compiled_model(seed).make_pairs(16, 7)


def two_inputs(*steps, answer, places=("x0", "x1", "END")):
    return Program(places, ("x0", "x1"), steps, answer)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_exactly_the_edges_of_the_program_matter(direct: Direct, pairs: PromptPairs, direction: str) -> None:
    circuit, patching = direct.circuit, Patching(direct, pairs, direction)
    found = patching.of_edges()
    assert set(circuit.edges) < found.keys()
    for edge, (recovered, moved) in found.items():
        if edge in circuit.edges:
            assert recovered > LEAST, (edge, recovered)
        else:
            assert abs(recovered) < ZERO and moved < ZERO, (edge, recovered, moved)
    assert {*circuit.nodes, *circuit.decoys} == {*direct.nodes, "logits"}
    for node in direct.nodes:
        recovered, moved = patching.of_node(node)
        assert (recovered > LEAST) if node in circuit.nodes else (moved < ZERO), (node, recovered, moved)


@pytest.mark.parametrize("seed", [0, 3, 4, 7], indirect=True)
def test_zero_ablation_adds_exactly_the_constant_edges(direct: Direct, pairs: PromptPairs) -> None:
    circuit = direct.circuit
    assert not set(circuit.edges) & set(circuit.constant_edges)
    for edge, (_, moved) in Patching(direct, pairs, "noise").of_edges(zero=True).items():
        needed = edge in circuit.edges or edge in circuit.constant_edges
        assert (moved > 0.01) if needed else (moved < ZERO), (edge, moved)


def test_decoys_are_busy(direct: Direct, pairs: PromptPairs) -> None:
    patching = Patching(direct, pairs, "noise")
    silent = [node for node, why in direct.circuit.decoys.items() if "always 0" in why]
    assert len(silent) == 1
    for node in direct.circuit.decoys:
        changed = (patching.source[node] - patching.base[node]).abs().max()
        assert (changed == 0) if node in silent else (changed > 0.1), (node, changed)
    layer, head = (int(part[1:]) for part in silent[0].split("."))
    attention = direct.model.blocks[layer].attn
    assert all(getattr(attention, f"W_{name}")[head].abs().max() > 0.1 for name in "QKVO")


def test_the_model_answers_as_the_program_does(direct: Direct, seed: int) -> None:
    """On every setting of the inputs, patched pairs and all that follows aside."""
    program = random_program(seed)
    settings = list(itertools.product((1, -1), repeat=len(program.inputs)))
    runs = [program.run(dict(zip(program.inputs, setting, strict=True))) for setting in settings]
    words = [
        [
            {1: "on", -1: "off"}[run[place]] if place in program.inputs else ":"
            for place in program.places[:-1]
        ]
        for run in runs
    ]
    tokens = torch.tensor([direct.tokenizer(" ".join([*row, "="]))["input_ids"] for row in words])
    logits = direct.model(tokens).logits[:, -1]
    yes, no = direct.tokenizer.convert_tokens_to_ids(["yes", "no"])
    answers = torch.tensor([run["logits"] for run in runs])
    torch.testing.assert_close((logits[:, yes] - logits[:, no]).sign(), answers.float())
    assert (logits[:, yes] - logits[:, no]).abs().min() > 7


def test_pairs_are_what_they_say(seed: int, pairs: PromptPairs, direct: Direct) -> None:
    planted = compiled_model(seed)
    again, other = planted.make_pairs(16, 7), planted.make_pairs(16, 8)
    assert torch.equal(pairs.clean, again.clean)
    assert torch.equal(pairs.clean[:5], planted.make_pairs(5, 7).clean)
    assert not torch.equal(pairs.clean, other.clean)
    for tokens, answers in ((pairs.clean, pairs.answers), (pairs.corrupted, pairs.wrong)):
        assert torch.equal(direct.model(tokens).logits[:, -1].argmax(-1), answers[:, 0])
    assert {info["kind"] for info in pairs.info} <= set(direct.circuit.edges)
    assert set(pairs.labels) == {place.upper() for place in random_program(seed).places}
    with pytest.raises(TaskError, match="n must be at least 1"):
        planted.make_pairs(0, 7)


def kinds_of(edges: Iterable[str]) -> set[tuple[str, str]]:
    """What writes and what reads: (``a``, ``<q>``), (``i``, ``m``)."""
    ends = [edge.split("->") for edge in edges]
    return {(source[0], target[-3:] if "<" in target else target[0]) for source, target in ends}


def test_random_programs_have_every_kind_of_edge() -> None:
    found = kinds_of(edge for seed in SEEDS for edge in ProgramLayout(random_program(seed)).edges)
    readers = ("<q>", "<k>", "<v>", "m", "l")
    possible = {(writer, reader) for writer in "iam" for reader in readers} - {("i", "l"), ("i", "<q>")}
    assert found <= possible | {("i", "<q>")}
    assert len(found & possible) >= 11, possible - found
    assert random_program(3) == random_program(3) != random_program(4)


def test_a_program_by_hand() -> None:
    """A choice through keys of a place that a gate has marked, and a second one through the query."""
    steps = (
        Gate("turned", "not", ("x0",)),
        Choose("found", ("x0", "x1"), "turned", "key", at="s"),
        Move("third", "x2", at="END"),
        Gate("sure", "copy", ("third",)),
        Choose("said", ("found", "x1"), "sure", "query", at="END"),
    )
    with pytest.raises(ModelError, match="turned is not silent where x1 stands, so both keys would move"):
        Program(("x0", "x1", "s", "x2", "END"), ("x0", "x1", "x2"), steps, "said")
    first = (Move("turned", "x0", at="x1"), Choose("found", ("x1", "x0"), "turned", "key", at="s"))
    program = Program(("x0", "x1", "s", "x2", "END"), ("x0", "x1", "x2"), (*first, *steps[2:]), "said")
    layout = ProgramLayout(program)
    assert layout.layers == {"turned": 0, "found": 1, "third": 0, "sure": 0, "said": 2}
    moved, found, third, said = (layout.node_of(name) for name in ("turned", "found", "third", "said"))
    assert set(layout.edges) == {
        f"input->{moved}<v>", f"input->{found}<v>", f"{moved}->{found}<k>", f"input->{third}<v>",
        f"{third}->m0", f"m0->{said}<q>", f"{found}->{said}<v>", f"input->{said}<v>", f"{said}->logits",
    }  # fmt: skip
    # found is x1 where x0 is on, else x0: the AND of both; said is that where x2 is on, else x1
    for x0, x1, x2 in itertools.product((1, -1), repeat=3):
        assert program.run({"x0": x0, "x1": x1, "x2": x2})["said"] == (min(x0, x1) if x2 == 1 else x1)


def test_decided_pairs_are_those_of_a_patched_run() -> None:
    program = two_inputs(HERE, TOO, Gate("both", "and", ("here", "too")), answer="both")
    layout = ProgramLayout(program)
    inputs = layout.inputs
    edge = f"{layout.node_of('here')}->m0"
    for base, source in itertools.product(range(4), repeat=2):
        x0, x1 = inputs["x0"][base], inputs["x1"][base]
        was, other = min(x0, x1), min(inputs["x0"][source], inputs["x1"][source])
        patched = min(inputs["x0"][source], x1)
        assert layout.decides[edge][base, source] == (was != other and patched != was)


def count_decided(program: Program, n: int, seed: int) -> int:
    """How many of ``n`` pairs the edge decides, in the direction, that decides the fewest."""
    layout, pairs = ProgramLayout(program), make_program_pairs(program, n, seed)
    clean, corrupted = (
        sum(
            (tokens[:, 1 + program.places.index(place)] == 3).long() << i
            for i, place in enumerate(program.inputs)
        )
        for tokens in (pairs.clean, pairs.corrupted)
    )
    decided = layout.decides.values()
    return min(int(edge[here].sum()) for edge in decided for here in ((clean, corrupted), (corrupted, clean)))


@pytest.mark.parametrize("seed", range(12))
def test_every_edge_decides_pairs_both_ways(seed: int) -> None:
    """Of an AND, many pairs decide an edge in one direction only."""
    program = two_inputs(HERE, TOO, Gate("both", "and", ("here", "too")), answer="both")
    assert count_decided(program, 3, seed) >= 1
    program = random_program(seed)
    assert count_decided(program, 6 * len(ProgramLayout(program).edges), seed) >= 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: two_inputs(answer="x0"), "answer 'x0' must be a feature that stands at END"),
        (lambda: two_inputs(HERE, answer="hare"), "answer 'hare' must be"),
        (lambda: two_inputs(HERE, HERE, answer="here"), "the name 'here' is taken"),
        (lambda: two_inputs(Move("h", "x2", "END"), answer="h"), "unknown feature .* 'x2'"),
        (lambda: two_inputs(Move("h", "x1", "x0"), answer="h"), "x1 comes after x0, and heads look back only"),
        (lambda: two_inputs(Move("h", "x1", "end"), answer="h"), "unknown place 'end'"),
        (lambda: two_inputs(Gate("h", "and", ("x0", "x1")), answer="h"), "reads one place"),
        (lambda: two_inputs(HERE, Gate("h", "not", ("here", "here")), answer="h"), "the last two of one source"),
        (
            lambda: two_inputs(Choose("h", ("x0", "x1"), "x1", "query", "END"), answer="h"),
            "x1 stands at x1, but a query is read at END",
        ),
        (
            lambda: two_inputs(HERE, TOO, Choose("h", ("here", "too"), "here", "query", "END"), answer="h"),
            "both sources stand at one place",
        ),
        (
            lambda: two_inputs(Gate("n", "not", ("x0",)), HERE, Choose("h", ("n", "x1"), "here", "query", "END"),
                               answer="h"),
            "the two would mix",
        ),
        (lambda: two_inputs(answer="x0", places=("x0", "x1")), "end with 'END'"),
        (lambda: two_inputs(answer="x0", places=("x0", "END")), "inputs must be different places before END"),
    ],
)  # fmt: skip
def test_programs_that_no_transformer_can_run(make, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make()


def test_programs_that_are_not_compiled() -> None:
    with pytest.raises(ModelError, match=r"the edge input->.*<v> of this program never changes the answer"):
        compile_program(two_inputs(HERE, Gate("same", "xor", ("here", "here")), answer="same"))
    with pytest.raises(ModelError, match="a feature cannot be named 'junk'"):
        compile_program(two_inputs(Move("junk", "x0", at="END"), answer="junk"))
    many = tuple(f"x{i}" for i in range(9))
    with pytest.raises(ModelError, match="at most 8 inputs can be enumerated; this program has 9"):
        compile_program(Program((*many, "END"), many, (HERE,), "here"))
