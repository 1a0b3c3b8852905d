"""Sites pressed and made anew: nothing of them is lost, whatever their text holds, and they take less memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.archive import Archive
from tasks.task import Example, Site, Turn

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
letters = st.text(st.characters(exclude_categories=()), max_size=30)  # half a letter pair too
turns = st.lists(st.builds(Turn, letters, letters), max_size=2).map(tuple)
examples = st.builds(Example, *[letters] * 6, turns)
splits = st.lists(examples, max_size=3).map(tuple)
sites = st.lists(st.builds(Site, letters, splits, splits, splits), max_size=4)


@quick
@given(sites)
def test_sites_come_out_of_an_archive_as_they_went_in(held):
    archive = Archive(held)
    assert list(archive) == held and len(archive) == len(held)
    assert [type(e) for own in archive for e in own.train] == [Example] * sum(
        len(own.train) for own in held
    )
    assert archive[1:] == tuple(held[1:]) and archive == Archive(held)


def test_archives_of_other_sites_are_not_equal():
    one = Site("a", (Example("जल", "hi"),), (), ())
    assert Archive([one]) != Archive([one._replace(name="b")])


def test_languages_and_sources_of_many_examples_are_held_once():
    said = tuple(Example(f"text {n}", "".join(["h", "i"]), source="".join("radio")) for n in (1, 2))
    (own,) = Archive([Site("a", said, (), ())])
    first, second = own.train
    assert first.lang is second.lang and first.source is second.source


def test_a_site_takes_a_third_of_its_text_at_most():
    said = tuple(Example(f"नदी के किनारे {n} पेड़ हैं और {n * n} पक्षी", "hi") for n in range(300))
    (held,) = Archive([Site("a", said, (), ())])._held
    assert 3 * len(held) < sum(len(e.text.encode()) for e in said)
