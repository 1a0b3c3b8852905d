"""A spec is a call with literals: everything else is refused in one sentence, and nothing is imported."""

from __future__ import annotations

import ast
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import spec
from fl_client.spec import SpecError
from strategies.codecs.codec import Chain

quick = settings(deadline=None, derandomize=True, max_examples=150, database=None)

KINDS = tuple(spec.FOLDERS)
FIRST = min(spec.factories("strategy"))
NO_CALLS = (
    "os.system('x')",
    "fedavg.__globals__",
    "__import__('os').system('x')",
    "lambda: 1",
    "[x for x in (1, 2)]",
    "f'{1}'",
    "'fedavg'",
    "3",
    "(fedavg)()()",
    "fedavg if 1 else 2",
    "fedavg() + fedavg()",
    "{'a': 1}['a']",
    "(yield)",
    "(await x)",
    "(a := 1)",
)
NO_LITERALS = (
    "fedavg(lora=__import__('os').system('x'))",
    "fedavg(lora=lambda: 1)",
    "fedavg(lora=[x for x in 'ab'])",
    "fedavg(lora=f'{1}')",
    "fedavg(lora=open('x'))",
    "fedavg(fedavg())",
    "fedavg(lora=everyone)",
    "fedavg(lora='a'.upper())",
    "fedavg(*['everyone'])",
    "fedavg(private=2**99)",
    "fedavg(private=1 if 1 else 2)",
)
NO_SYNTAX = (
    "",
    "   ",
    "\n",
    "#",
    "fedavg(",
    "fedavg()\nfedavg()",
    "import os",
    "x = 1",
    "\x00",
    "é(",
    "\ud800",
)
LONG = (
    "(" * 10_000,
    "(" * 10_000 + ")" * 10_000,
    "[" * 10_000,
    "-" * 10_000 + "1",
    "fedavg(" * 10_000,
    "fedavg(" + "-" * 900 + "1)",
    "fedavg(" + "+".join(["1"] * 3_000) + ")",
    "fedavg(" + "9" * 5_000 + ")",
    "fedavg" + ".a" * 10_000,
    " | ".join(["fedavg()"] * 10_000),
    "x" * 100_000,
)


@pytest.fixture(autouse=True, scope="module")
def walked():
    """Walk every folder once, so that a later import can only be one that a spec caused."""
    for kind in KINDS:
        assert spec.factories(kind), f"no factory of kind {kind}"


def refused(text: str, kind: str = "strategy") -> str:
    before = set(sys.modules)
    with pytest.raises(SpecError) as caught:
        spec.build(text, kind)
    assert set(sys.modules) == before
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_call_is_its_name_and_its_literal_arguments():
    (call,) = spec.parse("fedavg('language', rows=\"everyone\", private=4)", "strategy")
    assert call == ("fedavg", ("language",), {"rows": "everyone", "private": 4})


def test_a_bare_name_is_a_call_without_arguments():
    assert spec.parse("fedavg", "strategy") == spec.parse("  fedavg()\n", "strategy")


def test_a_chain_keeps_the_order_of_its_parts():
    calls = spec.parse("topk(0.05) | int8 | float32()", "codec")
    assert [call.name for call in calls] == ["topk", "int8", "float32"]
    assert calls[0].positional == (0.05,)


def test_a_codec_chain_is_built_from_its_links():
    made = spec.codec("topk(0.5) | int8()")
    assert isinstance(made, Chain)
    assert [link.narrows for link in made.links] == [False, True]


def test_only_a_codec_may_be_chained():
    assert "chains 2 parts; strategy takes one" in refused("fedavg() | fedprox()")


literals = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,7}", fullmatch=True).filter(str.isidentifier)


@quick
@given(names, st.lists(literals, max_size=3), st.dictionaries(names, literals, max_size=3))
def test_any_literals_come_back_as_they_were_written(name, positional, named):
    arguments = [repr(value) for value in positional] + [f"{k}={v!r}" for k, v in named.items()]
    text = f"{name}({', '.join(arguments)})"
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:  # a name that is a keyword of Python
        refused(text)
        return
    assert spec.parse(text, "strategy") == [(name, tuple(positional), named)]


@pytest.mark.parametrize(
    ("text", "kind", "meant"),
    [
        ("fedvag()", "strategy", "fedavg"),
        ("fedprx()", "strategy", "fedprox"),
        ("bfloat61()", "codec", "bfloat16"),
        ("nestrov()", "outer", "nesterov"),
        ("by_langauge()", "partition", "by_language"),
        ("casual_lm()", "task", "causal_lm"),
        ("unifrom()", "weights", "uniform"),
        ("snyc()", "schedule", "sync"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest_and_all_names(text, kind, meant):
    said = refused(text, kind)
    assert f"unknown {kind} {text.removesuffix('()')!r}; did you mean {meant!r}?" in said
    assert said.endswith("known: " + ", ".join(spec.factories(kind)))


def test_a_name_like_no_other_is_answered_with_all_names_and_no_guess():
    said = refused("zzzzzz()")
    assert "did you mean" not in said
    assert said.endswith("known: " + ", ".join(spec.factories("strategy")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["antigravity", "os", "strategy", "fl_server", "__init__", "eval"])
def test_no_module_is_a_part_of_a_study_by_its_name(name, kind):
    assert f"unknown {kind} {name!r}" in refused(f"{name}()", kind)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("kind", KINDS)
def test_factories_come_from_the_folder_of_their_kind_alone(kind):
    package, _ = spec.FOLDERS[kind]
    for name, factory in spec.factories(kind).items():
        assert factory.__module__ == f"{package}.{name}"


def test_a_part_of_one_kind_is_none_of_another():
    assert "unknown outer 'fedavg'" in refused("fedavg()", "outer")


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_is_no_call_of_a_plain_name_is_refused_with_an_example(text):
    said = refused(text)
    assert repr(text) in said
    assert f"for example {FIRST}()" in said


@pytest.mark.parametrize("text", NO_LITERALS)
def test_an_argument_that_is_no_literal_is_refused(text):
    assert refused(text) == f"strategy={text!r} may hold only plain numbers, texts and lists"


@pytest.mark.parametrize("text", NO_SYNTAX)
def test_what_does_not_parse_is_refused_with_an_example(text):
    said = refused(text)
    assert repr(text) in said
    assert said.endswith(f"write it as a call, for example {FIRST}()")


@pytest.mark.parametrize("text", LONG, ids=lambda text: f"{text[:8]}-{len(text)}")
def test_very_long_or_deep_text_is_refused_in_a_short_sentence(text):
    assert len(refused(text)) < 1000


def test_unpacking_options_is_refused():
    assert "unpack" in refused("fedavg(**{'lora': 'everyone'})")


def test_an_option_given_twice_is_refused_by_its_name():
    said = refused("fedavg(lora='everyone', lora='language')")
    assert "twice" in said or "repeated" in said
    assert "**" not in said


@pytest.mark.parametrize(
    ("text", "kind", "given"),
    [
        ("fedavg(scope='everyone')", "strategy", "scope"),
        ("fedprox(nu=1)", "strategy", "nu"),
        ("topk(size=3)", "codec", "size"),
        ("sync(quorums=1)", "schedule", "quorums"),
    ],
)
def test_an_option_that_a_part_does_not_have_is_answered_with_those_it_has(text, kind, given):
    said = refused(text, kind)
    name = text.partition("(")[0]
    assert f"{kind} {name}: " in said
    assert repr(given) in said
    assert f"it takes {name}(" in said
    assert "->" not in said


def test_too_many_arguments_are_answered_with_those_it_takes():
    assert "it takes causal_lm()" in refused("causal_lm(1)", "task")


@pytest.mark.parametrize(
    ("text", "kind", "given"),
    [
        ("fedprox(mu=-1)", "strategy", "mu=-1"),
        ("fedprox(mu=1e999)", "strategy", "mu=inf"),
        ("fedavg(lora='village')", "strategy", "lora='village'"),
        ("fedavg(private=-2)", "strategy", "private=-2"),
        ("fedavg(private=1.5)", "strategy", "private=1.5"),
        ("fedavg(private=1e999)", "strategy", "private=inf"),
        ("sync(quorum=1.5)", "schedule", "quorum=1.5"),
        ("sync(quorum=0)", "schedule", "quorum=0"),
        ("sync(deadline_s=0)", "schedule", "deadline_s=0"),
        ("topk(density=0)", "codec", "density=0"),
        ("topk(density=1.01)", "codec", "density=1.01"),
        ("by_language(-1)", "partition", "silos_per_language=-1"),
        ("adam(lr=0)", "outer", "lr=0"),
        ("momentum(momentum=1)", "outer", "momentum=1"),
        ("dirichlet(alpha=0)", "partition", "alpha=0"),
    ],
)
def test_an_argument_out_of_range_is_named_with_what_was_given(text, kind, given):
    said = refused(text, kind)
    assert said.startswith(f"{kind} {text.partition('(')[0]}: {given} ")


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_refuses_an_option_that_no_part_has(kind):
    for name in spec.factories(kind):
        said = refused(f"{name}(no_such_option=[{{}}])", kind)
        assert said.startswith(f"{kind} {name}: ")
        assert "'no_such_option'" in said


@quick
@given(st.text(max_size=40), st.sampled_from(KINDS))
def test_any_text_that_names_no_part_is_refused_as_a_spec_error_and_imports_nothing(text, kind):
    # hypothesis also draws the strings of our own sources, "float16()" among them
    if text.partition("(")[0].strip() not in spec.factories(kind):
        refused(text, kind)


pieces = st.sampled_from(
    ["fedavg", "topk", "os", "__import__", "(", ")", "[", "]", "{", "}", ".", ",", "=", "*", "**",
     "|", "lambda:", "'", '"', "f'", "\\", "1", "1e999", "-", ":", " ", "\n", "for x in", "if", "x"]
)  # fmt: skip


@quick
@given(st.lists(pieces, max_size=14).map("".join), st.sampled_from(KINDS))
def test_scrambled_python_builds_a_part_or_is_refused_and_imports_nothing(text, kind):
    before = set(sys.modules)
    try:
        calls = spec.parse(text, kind)
        [spec.make(call, kind) for call in calls]
    except SpecError as error:
        assert "\n" not in str(error)
    else:
        assert {call.name for call in calls} <= spec.factories(kind).keys()
    assert set(sys.modules) == before


@quick
@given(st.sampled_from(KINDS), st.integers(0, 9), st.lists(literals, min_size=1, max_size=3))
def test_any_literal_given_to_any_part_builds_it_or_is_refused(kind, number, arguments):
    known = spec.factories(kind)
    name = list(known)[number % len(known)]
    try:
        spec.build(f"{name}({', '.join(map(repr, arguments))})", kind)
    except SpecError as error:
        assert str(error).startswith(f"{kind} {name}: ")


def test_a_number_may_be_infinite_where_that_means_something():
    spec.build("fedex(kappa=inf)", "strategy")
    with pytest.raises(SpecError, match="plain numbers"):
        spec.build("fedex(kappa=nan)", "strategy")
