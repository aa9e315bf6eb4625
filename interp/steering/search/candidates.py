"""What there is to choose from: a direction for every site and every position that it can be read at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.errors import SteeringError
from interp.models.model import Model
from interp.steering.contrast import ContrastRows, read_contrast
from interp.steering.extract.directions import find_direction
from interp.steering.operations import Add
from interp.steering.search.objective import Rows
from interp.steering.steering import Steering, Step, place_of
from interp.types import EACH, GENERATED, Position, Site, SiteLike, parse_site, parse_sites

Positions = Position | tuple[Position, ...]
"""One position or several that are read together: -1, ``"all"``, ``Span(2, 5)``, ``(0, -1)``."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One direction, where it was read and where it would act."""

    place: Site
    """Without positions."""
    read_at: str
    """As in a site: ``"all"``, ``"-1"``, ``"2:5"``."""
    acts_at: Site
    rows: ContrastRows
    direction: Float[Tensor, " d"]

    def add(self) -> Steering:
        """Adding the direction where it acts; strength 1 is as it was extracted."""
        return Steering((Step(self.acts_at, Add(self.direction)),), "candidate")

    def __str__(self) -> str:
        return f"{self.place} read at {self.read_at}"


@dataclass(frozen=True, eq=False)
class Candidates:
    """All candidates, site by site, with their axes and what the contrast says of itself."""

    every: tuple[Candidate, ...]
    sites: tuple[str, ...]
    positions: tuple[str, ...]
    data: str
    model_digest: str

    def __len__(self) -> int:
        return len(self.every)


def name_positions(positions: Positions) -> str:
    """As a site has it behind its @."""
    several = positions if isinstance(positions, tuple) else (positions,)
    return ",".join(map(str, several))


def read_candidates(
    model: Model,
    positive: Rows,
    negative: Rows,
    sites: SiteLike | Iterable[SiteLike],
    positions: Sequence[Positions],
    *,
    paired: bool,
    at: Positions | None = None,
    act_where_read: bool = False,
    extraction: str = "mean-difference",
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Candidates:
    """Directions of a contrast at all sites and positions, one pass over the prompts a position.

    Sites without a layer stand for all layers. ``at`` is where every direction acts (all tokens if left out);
    with ``act_where_read`` it acts where it was read. Raises :class:`SteeringError` for sites that have positions
    of their own, equal candidates, and positions that no prompt has.
    """
    asked = parse_sites(sites)
    named = tuple(map(name_positions, positions))
    _check(asked, named, at, act_where_read)
    found: dict[tuple[Site, str], Candidate] = {}
    places: list[Site] = []
    for label in named:
        where = [parse_site(f"{site}@{label}") for site in asked]
        contrast = read_contrast(
            model,
            list(positive),
            list(negative),
            where,
            paired=paired,
            batch_size=batch_size,
            progress=progress,
        )
        places = list(contrast.rows)
        for place, rows in contrast.rows.items():
            try:
                direction = find_direction(rows, extraction, seed)
            except SteeringError as error:
                raise SteeringError(f"{place} read at {label}: {error}") from error
            acting = label if act_where_read else None if at is None else name_positions(at)
            site = place if acting is None else parse_site(f"{place}@{acting}")
            found[place, label] = Candidate(place, label, site, rows, direction)
        data, digest = contrast.data, contrast.model_digest
    every = tuple(found[place, label] for place in places for label in named)
    return Candidates(every, tuple(map(str, places)), named, data, digest)


def _check(sites: Sequence[Site], named: Sequence[str], at: Positions | None, where_read: bool) -> None:
    placed = [str(site) for site in sites if site != place_of(site)]
    if placed:
        raise SteeringError(
            f"a search takes positions apart from sites; {placed[0]} has its own. Give positions=[...]."
        )
    if not named or len(set(named)) < len(named) or len(set(sites)) < len(sites):
        raise SteeringError(f"sites and positions of a search differ, at least one; got {list(named)}.")
    if at is not None and where_read:
        raise SteeringError("give at=... or act_where_read=True, not both.")
    acting = list(named) if where_read else [] if at is None else name_positions(at).split(",")
    wrong = sorted({part for label in [*named, *acting] for part in label.split(",")} & {EACH, GENERATED})
    if wrong:
        raise SteeringError(
            f"a search reads and steers prompts as they are; @{wrong[0]} names no positions of theirs. Search with "
            "positions of the prompt, then move what was found: steering.at('gen')."
        )
