"""Who merges with whom."""

from __future__ import annotations

import inspect
import re

import pytest

from fl_client import spec
from strategies.scope import SCOPES, code, finest, group, grouped, language, languages, scope

SILOS = {"s1": "as", "s2": "as", "s3": "bn", "s4": "ta", "s5": "te", "s6": "doi"}


def groups(within):
    """Return which silos share a group, as a set of sets."""
    found = {}
    for silo, lang in SILOS.items():
        found.setdefault(group(within, lang, silo), set()).add(silo)
    return {frozenset(members) for members in found.values()}


@pytest.mark.parametrize(
    ("within", "expected"),
    [
        ("everyone", ["s1 s2 s3 s4 s5 s6"]),
        ("family", ["s1 s2 s3 s6", "s4 s5"]),
        ("script", ["s1 s2 s3", "s4", "s5", "s6"]),
        ("language", ["s1 s2", "s3", "s4", "s5", "s6"]),
        ("silo", ["s1", "s2", "s3", "s4", "s5", "s6"]),
    ],
)
def test_silos_merge_with_those_who_share_their_scope(within, expected):
    assert groups(within) == {frozenset(members.split()) for members in expected}


def test_a_narrower_scope_never_joins_what_a_wider_one_keeps_apart():
    for narrow in SCOPES:
        assert all(any(inner <= outer for outer in groups("everyone")) for inner in groups(narrow))
    for wide in ("family", "script", "everyone"):
        assert all(any(inner <= outer for outer in groups(wide)) for inner in groups("language"))


@pytest.mark.parametrize("within", SCOPES)
def test_no_two_groups_share_a_name_and_every_name_fits_a_folder(within):
    owners = {}
    for lang, row in languages().items():
        key = {"family": row.family, "script": row.script, "language": code(lang), "silo": lang}
        owners.setdefault(group(within, lang, lang), set()).add(key.get(within, ""))
    assert all(len(kinds) == 1 for kinds in owners.values())
    assert all(re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", name) for name in owners)


def test_names_of_groups_of_different_scopes_never_meet():
    names = [{group(within, code, code) for code in languages()} for within in SCOPES]
    assert sum(map(len, names)) == len(set().union(*names))


@pytest.mark.parametrize("value", ["", "Everyone", "silos", "all", "family "])
def test_a_word_that_is_no_scope_is_refused_with_the_part_and_the_choices(value):
    with pytest.raises(ValueError, match="rows=.*everyone, family, script, language, silo"):
        scope(value, "rows")


SCOPED = [
    (name, option)
    for name, made in spec.factories("strategy").items()
    for option in inspect.signature(made).parameters
    if option in ("lora", "rows", "a", "b", "scope")
]


@pytest.mark.parametrize(("name", "option"), [*SCOPED, ("ffa(init='gradsketch')", "lora")])
def test_a_strategy_that_is_given_no_scope_names_the_option_as_it_was_written(name, option):
    call = name.removesuffix(")") + ", " if "(" in name else f"{name}("
    with pytest.raises(spec.SpecError, match=f": {option}='familly' is no scope"):
        spec.build(f"{call}{option}='familly')", "strategy")


def test_there_are_strategies_of_every_option_that_is_a_scope():
    assert {option for _, option in SCOPED} == {"lora", "rows", "a", "b", "scope"}


@pytest.mark.parametrize("value", SCOPES)
def test_a_scope_is_returned_as_it_is(value):
    assert scope(value, "lora") == value


def test_the_finest_of_scopes_is_the_narrowest_and_several_where_neither_lies_within_the_other():
    assert finest({"everyone", "language", "family", "as+bn"}) == {"language"}
    assert finest({"everyone", "silo", "script"}) == {"silo"}
    assert finest({"everyone"}) == {"everyone"}
    assert finest({"everyone", "family", "script"}) == {"family", "script"}
    assert finest({"everyone", "family", "as+bn"}) == {"family", "as+bn"}


GROUPING = "as+bn,te+ta"


def test_a_grouping_joins_the_languages_it_names_and_leaves_every_other_to_itself():
    within = scope(GROUPING, "lora")
    assert groups(within) == {frozenset(m.split()) for m in ("s1 s2 s3", "s4 s5", "s6")}
    assert group(within, "bn", "s3") == "group-as-bn"
    assert group(within, "doi", "s6") == group("language", "doi", "s6")


@pytest.mark.parametrize("same", ["ta+te,as+bn", "bn + as, ta+te", "te+ta,bn+as"])
def test_a_grouping_is_the_same_however_it_is_written(same):
    assert scope(same, "lora") == scope(GROUPING, "lora")


def test_the_names_of_groups_fit_a_folder_and_meet_no_other():
    within = scope("as+mni-Beng,ks+ur", "lora")
    names = {group(within, lang, lang) for lang in languages()}
    assert all(re.fullmatch(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*", name) for name in names)
    assert len(names) == len({code(lang) for lang in languages()}) - 2
    others = [group(w, lang, lang) for w in SCOPES if w != "language" for lang in languages()]
    assert not names & set(others)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("as+", "'' is no language code"),
        ("as+bn,", "'' is no language code"),
        ("as+bn,hi", "joins hi with nothing"),
        ("as,bn", "joins as with nothing"),
        ("as+bn,bn+hi", "names bn twice"),
        ("as+as", "names as twice"),
        ("as+../bn", "'../bn' is no language code"),
        ("as+und", "'und' is no language code"),
        ("Assamese+bn", "'Assamese' is no language code"),
    ],
)
def test_a_malformed_grouping_is_refused_in_plain_words(value, why):
    with pytest.raises(ValueError, match=f"lora=.*{re.escape(why)}"):
        scope(value, "lora")


@pytest.mark.parametrize("lang", ["pt-BR", "zh-Hant-TW", "mni-Beng"])
def test_a_grouping_may_join_every_language_that_a_text_may_have(lang):
    within = scope(f"en+{lang}", "lora")
    assert group(within, lang, "s1") == group(within, "en", "s2") == f"group-en-{lang}"


def test_the_languages_of_a_grouping_are_found_again():
    assert grouped(scope(GROUPING, "lora")) == [["as", "bn"], ["ta", "te"]]
    assert all(grouped(within) == [] for within in SCOPES)


def test_the_table_holds_every_language_of_the_eighth_schedule():
    named = {languages()[code].name for code in languages()}
    assert named >= {
        "Assamese", "Bengali", "Bodo", "Dogri", "Gujarati", "Hindi", "Kannada", "Kashmiri", "Konkani",
        "Maithili", "Malayalam", "Manipuri", "Marathi", "Nepali", "Odia", "Punjabi", "Sanskrit", "Santali",
        "Sindhi", "Tamil", "Telugu", "Urdu",
    }  # fmt: skip


def test_a_language_under_two_codes_has_one_family_and_one_script():
    rows = {}
    for row in languages().values():
        rows.setdefault(row.name, set()).add(row)
    assert all(len(found) == 1 for found in rows.values())


@pytest.mark.parametrize("code", ["xx", "und", "", "../as", "AS"])
@pytest.mark.parametrize("within", ["family", "script"])
def test_a_language_that_is_not_in_the_table_is_refused(within, code):
    with pytest.raises(ValueError, match="not in the table"):
        group(within, code, "s1")


def test_every_row_of_the_table_has_a_name_a_family_and_a_script():
    for lang in languages():
        row = language(lang)
        assert re.fullmatch(r"[a-z]{2,3}(-[A-Z][a-z]{3})?", lang)
        assert row.name
        assert row.family
        assert re.fullmatch(r"[A-Z][a-z]{3}", row.script)


def test_silos_that_write_a_language_by_another_code_merge_with_the_others():
    assert code("ibo") == code("ig") == "ig" and code("mni-Beng") == "mni-Beng"
    assert code("xyz") == "xyz"
    for within in ("language", "ig+lg"):
        assert group(within, "ibo", "s1") == group(within, "ig", "s2")
    assert scope("ibo+lg", "lora") == scope("ig+lg", "lora")
    with pytest.raises(ValueError, match="names ig twice"):
        scope("ibo+lg,ig+ne", "lora")
    for lang, row in languages().items():
        assert language(code(lang)) == row


def test_no_two_languages_have_one_code():
    rows = [languages()[lang] for lang in {code(lang) for lang in languages()}]
    assert len(rows) == len(set(rows)) < len(languages())
