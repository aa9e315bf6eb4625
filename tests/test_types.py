"""The site language: what is written is what is meant, and what is meant can be written."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import InterpError, SiteError
from interp.types import (
    COMPONENT_AXES,
    HEAD_COMPONENTS,
    NEURON_COMPONENTS,
    PATTERN_COMPONENTS,
    Site,
    Span,
    parse_site,
    parse_sites,
)

INDEX = st.integers(0, 999)
SEVERAL = st.lists(INDEX, max_size=4).map(tuple)
POSITION = st.one_of(
    st.integers(-99, 99),
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_+]{0,8}", fullmatch=True),
    st.builds(Span, st.none() | st.integers(-20, 20), st.none() | st.integers(-20, 20)),
)


@st.composite
def sites(draw: st.DrawFn) -> Site:
    component = draw(st.sampled_from(sorted(COMPONENT_AXES)))
    return Site(
        component,
        layer=None if component == "embed" else draw(st.none() | INDEX),
        head=draw(st.none() | INDEX) if component in HEAD_COMPONENTS else None,
        positions=draw(st.none() | st.lists(POSITION, min_size=1, max_size=3).map(tuple)),
        neurons=draw(st.none() | SEVERAL) if component in NEURON_COMPONENTS else None,
        latents=draw(st.none() | SEVERAL),
        rows=draw(st.none() | st.lists(INDEX, min_size=1, max_size=3).map(tuple)),
    )


@given(sites())
def test_every_site_reads_back_as_itself(site: Site):
    found = parse_site(str(site))
    assert found == site
    assert hash(found) == hash(site)
    assert str(found) == str(site)
    assert parse_sites([site, str(site)]) == [site, site]


@given(
    st.text(max_size=30)
    | st.from_regex(r"[a-z_]{1,10}(\[[^\]]{0,6}\])?(\.n[\d,*-]{1,4})?(@[^#]{1,6})?(#.{1,3})?")
)
def test_anything_else_is_read_or_refused_as_ours(text: str):
    """No input makes the parser fail in another way, and what it reads it can write again."""
    try:
        found = parse_sites(text)
    except InterpError:
        return
    assert parse_sites([str(site) for site in found]) == found


EXAMPLES: dict[str, list[Site]] = {
    "z": [Site("z")],
    " z ": [Site("z")],
    "z[9.6]": [Site("z", 9, 6)],
    "z[9]": [Site("z", 9)],
    "z[*.6]": [Site("z", None, 6)],
    "z[9.*]": [Site("z", 9)],
    "z[*]": [Site("z")],
    "z[0-3]": [Site("z", layer) for layer in range(4)],
    "z[1.0-2]": [Site("z", 1, head) for head in range(3)],
    "z[0-1.2-3]": [Site("z", 0, 2), Site("z", 0, 3), Site("z", 1, 2), Site("z", 1, 3)],
    "z[9.6,10.0]": [Site("z", 9, 6), Site("z", 10, 0)],
    "z[9.6, 10.0]": [Site("z", 9, 6), Site("z", 10, 0)],
    "resid_pre[4]@END": [Site("resid_pre", 4, positions=("END",))],
    "resid_pre@-1": [Site("resid_pre", positions=(-1,))],
    "resid_pre[4]@2:5": [Site("resid_pre", 4, positions=(Span(2, 5),))],
    "resid_pre[4]@:-1": [Site("resid_pre", 4, positions=(Span(None, -1),))],
    "resid_pre[4]@-3:": [Site("resid_pre", 4, positions=(Span(-3, None),))],
    "resid_pre[4]@:": [Site("resid_pre", 4, positions=(Span(),))],
    "resid_pre@1, END ,S1+1": [Site("resid_pre", positions=(1, "END", "S1+1"))],
    "mlp_post[3].n1207": [Site("mlp_post", 3, neurons=(1207,))],
    "mlp_post[3].n5,9@0": [Site("mlp_post", 3, positions=(0,), neurons=(5, 9))],
    "mlp_post[3].n4-6,9": [Site("mlp_post", 3, neurons=(4, 5, 6, 9))],
    "mlp_post[3].n*": [Site("mlp_post", 3, neurons=())],
    "mlp_out[2]:latent17": [Site("mlp_out", 2, latents=(17,))],
    "mlp_out[2]:latent*@pos": [Site("mlp_out", 2, positions=("pos",), latents=())],
    "z[9.6]#0,2": [Site("z", 9, 6, rows=(0, 2))],
    "z#1-3": [Site("z", rows=(1, 2, 3))],
    "embed@gen": [Site("embed", positions=("gen",))],
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_what_is_written(text: str):
    assert parse_sites(text) == EXAMPLES[text]


REFUSED = {
    "": "cannot read site ''",
    "zz": "unknown component 'zz'; did you mean 'z'",
    "resid_prev": "did you mean 'resid_pre'",
    "Z": "cannot read site 'Z'",
    "z[": "cannot read site",
    "z[a]": "cannot read 'a' in site 'z.a.'; expected an index, a rising range like 0-3, or *",
    "z[]": "cannot read ''",
    "z[3-1]": "cannot read '3-1'",
    "z[-1]": "cannot read '-1'",
    "z[1.]": "cannot read ''",
    "resid_pre[1.2]": "has no heads, but head 2 was given; components with heads are",
    "z[1].n3": "has no neurons, but '.n' was given; components with neurons are",
    "embed[0]": "'embed' has no layers",
    "z@": "cannot read site",
    "z@a b": "cannot read position 'a b'",
    "z@1:2:3": "cannot read position '1:2:3'",
    "z@,": "cannot read position ''",
    "z#-1": "cannot read '-1'",
    "z#a": "cannot read site",
    "mlp_post.n": "cannot read site",
    "mlp_post.n5,": "cannot read ''",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_read(text: str):
    with pytest.raises(SiteError) as caught:
        parse_sites(text)
    assert re.search(REFUSED[text], str(caught.value)), str(caught.value)


BUILT: list[tuple[dict[str, Any], str]] = [
    ({"component": "zz"}, "did you mean 'z'"),
    ({"component": "z", "layer": -1}, "layers of a site count from 0; got layer -1 for 'z'"),
    ({"component": "z", "head": -1}, "heads of a site count from 0; got head -1"),
    ({"component": "mlp_post", "neurons": (3, -2)}, "got neuron -2"),
    ({"component": "mlp_post", "latents": (-2,)}, "got latent -2"),
    ({"component": "z", "rows": (-1,)}, "got row -1"),
    ({"component": "mlp_out", "head": 1}, "has no heads"),
    ({"component": "z", "neurons": ()}, "has no neurons"),
    ({"component": "embed", "layer": 0}, "has no layers"),
]


@pytest.mark.parametrize(("fields", "message"), BUILT, ids=[message for _, message in BUILT])
def test_what_cannot_be_built(fields: dict[str, Any], message: str):
    with pytest.raises(SiteError, match=message):
        Site(**fields)


def test_what_is_no_site_at_all():
    for wrong in (3, None, 1.5, ("z",)):
        with pytest.raises(SiteError, match=r"a site is a string like 'z.9.6.' or an interp.Site; got"):
            parse_sites([wrong])
    with pytest.raises(SiteError, match="no site given"):
        parse_sites([])


def test_one_site_is_not_several():
    with pytest.raises(SiteError, match="names 2 sites where one is expected"):
        parse_site("z[9.6,9.9]")


def test_components_sort_themselves_by_axes():
    assert {"pattern", "attn_scores"} == PATTERN_COMPONENTS
    assert {"q", "k", "v", "z", "result", "attn_scores", "pattern"} == HEAD_COMPONENTS
    assert {"mlp_pre", "mlp_pre_linear", "mlp_post"} == NEURON_COMPONENTS
    assert Site("pattern").axes == ("batch", "head", "dest_pos", "src_pos")


def test_derived_sites():
    site = Site("z", 1, 2)
    assert str(site.at(3, "END")) == "z[1.2]@3,END"
    assert str(site.for_rows(0, 4)) == "z[1.2]#0,4"
    assert parse_site("z@pos").each_position
    assert not parse_site("z@all").each_position
    assert site.positions is None


class TestSubspace:
    def test_its_basis_spans_the_directions(self):
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(3, 7, generator=generator) * torch.tensor([[1e3], [1.0], [1e-3]])
        basis = Site("z", 0).within(directions).subspace
        torch.testing.assert_close(basis @ basis.T, torch.eye(3))
        torch.testing.assert_close(directions @ basis.T @ basis, directions, rtol=1e-4, atol=1e-4)
        assert Site("z", 0).within(directions[0]).subspace.shape == (1, 7)

    def test_sites_with_other_subspaces_differ(self):
        site, u, v = Site("z", 0), torch.eye(4)[:1], torch.eye(4)[1:2]
        assert site.within(u) == site.within(2 * u)
        assert hash(site.within(u)) == hash(site.within(2 * u))
        assert len({site, site.within(u), site.within(v), site.within(torch.cat([u, v]))}) == 4
        assert site.within(u) != "z[0]"

    @pytest.mark.parametrize(
        ("directions", "message"),
        [
            (torch.zeros(4), "1 directions span only 0 dimensions"),
            (torch.ones(2, 4), "2 directions span only 1 dimensions"),
            (torch.eye(5)[:, :4], "5 directions span only 4"),
            (torch.tensor([1.0, torch.nan]), "NaN or infinite"),
            (torch.tensor([1.0, torch.inf]), "NaN or infinite"),
            (torch.ones(1, 2, 3), r"got shape \(1, 2, 3\)"),
        ],
    )
    def test_directions_that_span_nothing(self, directions: torch.Tensor, message: str):
        with pytest.raises(SiteError, match=message):
            Site("z", 0).within(directions)

    def test_it_keeps_its_kind_of_number_and_no_graph(self):
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            basis = Site("z").within(torch.randn(4, dtype=dtype, requires_grad=True)).subspace
            assert basis.dtype == dtype
            assert not basis.requires_grad
            assert hash(Site("z").within(torch.ones(4, dtype=dtype)))
