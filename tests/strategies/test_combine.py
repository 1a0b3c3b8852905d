"""Which choices fit together: a combination is refused with a reason, or it works."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from strategies import accumulate, combine
from strategies.adapter import flatten, initial, layout, pick, size, unflatten
from strategies.codecs.bfloat16 import bfloat16
from strategies.codecs.codec import Key, chain
from strategies.codecs.ef21 import ef21
from strategies.codecs.float16 import float16
from strategies.codecs.int2 import int2
from strategies.codecs.int4 import int4
from strategies.codecs.int8 import int8
from strategies.codecs.qsgd import qsgd
from strategies.codecs.randk import randk
from strategies.codecs.topk import topk
from strategies.combine import Cohort, Parts, refusals
from strategies.fedavg import fedavg
from strategies.fedex import fedex
from strategies.fedprox import fedprox
from strategies.fedsb import fedsb
from strategies.ffa import ffa
from strategies.flexlora import flexlora
from strategies.flora import flora
from strategies.guards.bulyan import bulyan
from strategies.guards.median import median
from strategies.guards.multi_krum import multi_krum
from strategies.guards.none import none
from strategies.guards.norm_clip import norm_clip
from strategies.guards.trimmed_mean import trimmed_mean
from strategies.hetlora import hetlora
from strategies.merge_reset import merge_reset
from strategies.outer.adagrad import adagrad
from strategies.outer.adam import adam
from strategies.outer.delayed_nesterov import delayed_nesterov
from strategies.outer.mean import mean
from strategies.outer.momentum import momentum
from strategies.outer.nesterov import nesterov
from strategies.outer.yogi import yogi
from strategies.partial_pool import partial_pool
from strategies.rolora import rolora
from strategies.rowwise import rowwise
from strategies.scaffold import scaffold
from strategies.schedules.sync import sync
from strategies.scope import group
from strategies.sketch import sketch
from strategies.weights.bytes import bytes as by_bytes
from strategies.weights.examples import examples
from strategies.weights.loss_gap import loss_gap
from strategies.weights.qffl import qffl
from strategies.weights.uniform import uniform
from strategies.weights.weight import Counts

A, B, CORE = "x.lora_A.weight", "x.lora_B.weight", "x.lora_B.core"
ROWS = "x.token_adapter.trainable_tokens_delta"
SHAPES = {A: (2, 5), B: (4, 2), ROWS: (3, 5)}
SILOS = {"s1": "as", "s2": "as", "s3": "ta"}
COHORT = Cohort(SILOS, (A, B, ROWS))
NO_ROWS = Cohort(SILOS, (A, B))
UNKNOWN = Cohort({"s1": "as", "s2": "und"}, (A, B, ROWS))
MIXED = Cohort({"s1": "as", "s2": "bn", "s3": "und"}, (A, B, ROWS))
STRANGE = Cohort({"s1": "as", "s2": "tlh"}, (A, B, ROWS))

ALONE = fedavg("silo", "silo")
STRATEGIES = {
    "fedavg": fedavg(),
    "language": fedavg("language", "silo"),
    "family": fedavg("family", "script"),
    "share-A": fedavg(b="silo"),
    "dual": fedavg(private=2),
    "rows only": fedavg("silo", "everyone"),
    "fedprox": fedprox(mu=0.1),
    "ffa": ffa(),
    "ffa orthonormal": ffa(init="orthonormal"),
    "ffa rows": ffa("silo", "everyone"),
    "alone": ALONE,
    "ffa alone": ffa("silo", "silo"),
}
OLD = {"topk": topk(0.3), "float16": float16(), "bfloat16": bfloat16(), "int8": int8()}
NEW = {
    "ef21": ef21(),
    "randk": randk(0.3),
    "int4": int4(),
    "int2": int2(),
    "qsgd": qsgd(4),
    "qsgd2": qsgd(bits=2),
}
LINKS = OLD | NEW
CHAINS = [
    *((), *((a,) for a in LINKS), *itertools.product(OLD, OLD), ("topk", "topk", "int8")),
    *(itertools.product(("topk", "randk"), NEW)),
    *(("qsgd2", "topk"), ("int4", "randk"), ("randk", "topk", "int4")),
]
WEIGHTS = [uniform(), examples(), by_bytes(3.0)]
OUTERS = [mean(), momentum(), nesterov(), adam(), yogi(), adagrad()]


MANY = Cohort({f"s{k}": "as" for k in range(7)}, (A, B, ROWS))
SIX = Cohort({f"s{k}": ("as", "ne")[k % 2] for k in range(6)}, (A, B, ROWS))
RANKED = MANY._replace(ranks={"s1": 4, "s2": 8})
BF16 = chain([bfloat16()])
ONE_OF_ITS_KIND = Cohort({**MANY.languages, "s7": "sat"}, (A, B))
SANTALI_ELSEWHERE = ONE_OF_ITS_KIND._replace(held={"s1": {"as", "sat"}})
ONE_UNTAGGED = Cohort({**MANY.languages, "s7": "und"}, (A, B))
UNTAGGED = Cohort(dict.fromkeys(MANY.languages, "und"), (A, B))
MIX = dict(zip(MANY.languages, ("as", "ne", "ta", "hi", "bn", "te", "sat"), strict=True))
ALIKE = Cohort(MIX, (A, B), held=dict.fromkeys(MIX, set(MIX.values())))
OTHER_CODE = Cohort({"s1": "ig", "s2": "ibo", "s3": "ig"}, (A, B))


def parts(strategy=None, links=(), weights=None, outer=None, guard=None):
    codec = chain([LINKS[name] for name in links])
    return Parts(
        strategy or fedavg(), weights or uniform(), outer or mean(), codec, guard or none()
    )


def tracked(*chosen, **others):
    """Return parts whose codec sends by how much updates change."""
    return parts(*chosen, links=("ef21", "topk"), **others)


def codes(found):
    return [refusal.code for refusal in found]


def buffered(*chosen, **others):
    """Return parts of silos that do not wait for each other."""
    return parts(*chosen, **others)._replace(buffered=True)


LANGUAGE_MEDIAN = parts(fedavg("language", "silo"), guard=median())

BAD = {
    "late updates of another turn": (buffered(rolora()), COHORT, "C30"),
    "late updates of another basis": (buffered(merge_reset()), None, "C30"),
    "late updates of another base": (buffered(flora()), COHORT, "C30"),
    "late updates that are multiplied": (buffered(flexlora()), COHORT, "C34"),
    "late updates that are padded": (buffered(hetlora()), None, "C34"),
    "late updates of own rows": (buffered(rowwise()), COHORT, "C34"),
    "late updates under adam": (buffered(outer=adam()), COHORT, "C31"),
    "late updates under yogi": (buffered(outer=yogi()), None, "C31"),
    "late updates under adagrad": (buffered(outer=adagrad()), COHORT, "C31"),
    "nobody waits for a second pass": (buffered(sketch()), COHORT, "C35"),
    "late control variates": (buffered(scaffold())._replace(adaptive=False), None, "C32"),
    "late changes of updates": (buffered(links=("ef21", "topk")), COHORT, "C66"),
    "a median of late updates": (buffered(guard=median()), None, "C48"),
    "a bound on late updates": (buffered(guard=norm_clip()), None, "C48"),
    "late losses": (buffered(weights=qffl()), None, "C17"),
    "delays without a buffer": (parts(outer=delayed_nesterov()), None, "C31"),
    "a gap to nothing": (parts(weights=loss_gap())._replace(alone=False), None, "C16"),
    "losses that come too late": (parts(weights=qffl())._replace(scored=False), None, "C17"),
    "narrow first": (parts(links=("int8", "topk")), COHORT, "C52"),
    "narrow in the middle": (parts(links=("topk", "float16", "int8")), None, "C52"),
    "narrow twice": (parts(links=("bfloat16", "float16")), COHORT, "C52"),
    "narrow to four bits first": (parts(links=("int4", "topk")), COHORT, "C52"),
    "lots first": (parts(links=("qsgd", "int8")), COHORT, "C52"),
    "randk twice": (parts(links=("randk", "randk")), None, "C53"),
    "largest of a lot": (parts(links=("randk", "topk", "int4")), COHORT, "C53"),
    "coarse lots under feedback": (parts(links=("topk", "qsgd2")), COHORT, "C54"),
    "coarse lots of a lot": (parts(links=("randk", "qsgd2")), None, "C54"),
    "topk twice": (parts(links=("topk", "topk")), COHORT, "C53"),
    "topk twice and narrow": (parts(links=("topk", "topk", "int8")), None, "C53"),
    "nothing shared": (parts(ALONE), None, "C60"),
    "nothing shared, known silos": (parts(ALONE), COHORT, "C60"),
    "only A shared, which ffa freezes": (parts(ffa("silo", "silo")), None, "C60"),
    "only rows shared, none trained": (parts(fedavg("silo")), NO_ROWS, "C60"),
    "language unknown": (parts(), UNKNOWN, "C61"),
    "family of an unknown language": (parts(fedavg("family", "silo")), UNKNOWN, "C61"),
    "family of a strange language": (parts(fedavg("family")), STRANGE, "C62"),
    "script of a strange language": (parts(fedavg(rows="script")), STRANGE, "C62"),
    "grouping, language unknown": (parts(fedavg("as+bn", "as+bn")), MIXED, "C61"),
    "a grouping of absent languages": (parts(fedavg("as+kha", "silo")), COHORT, "C63"),
    "krum of two": (parts(fedavg("language", "silo"), guard=multi_krum(1)), COHORT, "C40"),
    "median of two": (parts(fedavg("language", "silo"), guard=median()), COHORT, "C40"),
    "rolora under error feedback": (parts(rolora(), ("topk",)), MANY, "C54"),
    "changes of what flexlora must see": (tracked(flexlora()), None, "C66"),
    "changes under control variates": (tracked(scaffold()), None, "C56"),
    "changes under a guard": (tracked(guard=norm_clip()), None, "C66"),
    "changes of weights that change": (tracked(weights=qffl()), None, "C66"),
    "changes of own rows": (tracked(rowwise()), None, "C57"),
    "own rows in two bits": (parts(rowwise(), ("int2",)), COHORT, "C57"),
    "the largest of own rows in two bits": (parts(rowwise(), ("topk", "int2")), MANY, "C57"),
    "a median of own rows": (parts(rowwise(), guard=median()), MANY, "C49"),
    "a trimmed mean of own rows": (parts(rowwise(), guard=trimmed_mean()), None, "C49"),
    "the middle of own rows": (parts(rowwise(), guard=bulyan(1)), MANY, "C49"),
    "a broadcast with holes": (parts()._replace(broadcast=chain([topk(0.3)])), None, "C64"),
    "a broadcast narrowed twice": (
        parts()._replace(broadcast=chain([int8(), bfloat16()])),
        COHORT,
        "C52",
    ),
    "merged after a rounded start": (parts(flora())._replace(broadcast=BF16), None, "C65"),
    "sketches of a rounded start": (parts(sketch())._replace(broadcast=BF16), COHORT, "C65"),
    "bulyan of seven, two hostile": (parts(guard=bulyan(2)), MANY, "C40"),
    "krum of three at a time": (
        parts(guard=multi_krum(1))._replace(counted=sync(sample=3).waits_for),
        MANY,
        "C40",
    ),
    "a median of the first two": (
        parts(guard=median())._replace(counted=sync(sample=2, over_sample=4).waits_for),
        MANY,
        "C40",
    ),
    "krum of a group that a sample splits": (
        parts(fedavg("language", "silo"), guard=median())._replace(
            counted=sync(sample=5).waits_for
        ),
        SIX,
        "C40",
    ),
    "fedex of a median": (parts(fedex(), guard=median()), MANY, "C67"),
    "krum, one of its language": (parts(guard=multi_krum(1)), ONE_OF_ITS_KIND, "C41"),
    "median, one of its language": (parts(guard=median()), ONE_OF_ITS_KIND, "C41"),
    "krum, one of an unknown language": (parts(guard=multi_krum(1)), ONE_UNTAGGED, "C41"),
    "krum, all of unknown languages": (parts(guard=multi_krum(1)), UNTAGGED, "C41"),
    "median, each of another language": (parts(guard=median()), ALIKE._replace(held={}), "C41"),
    "krum of three of a language": (parts(guard=multi_krum(1)), SIX, "C40"),
    "median of one, alone among all": (LANGUAGE_MEDIAN, ONE_OF_ITS_KIND, "C40"),
    "bulyan of eight, one alone": (parts(guard=bulyan(2)), ONE_OF_ITS_KIND, "C40"),
    "a sample below the guard, too few silos": (
        parts(fedavg("language", "silo"), guard=multi_krum(1))._replace(
            counted=sync(sample=2).waits_for
        ),
        COHORT,
        "C40",
    ),
    "krum under error feedback": (parts(links=("topk", "int8"), guard=multi_krum()), MANY, "C42"),
    "median under error feedback": (parts(links=("topk",), guard=median()), None, "C42"),
    "flora with a rate of the hub": (parts(flora(), outer=mean(lr=0.5)), MANY, "C22"),
    "merging with momentum": (parts(merge_reset(), outer=momentum()), None, "C22"),
    "flora under error feedback": (parts(flora(), ("topk", "int8")), MANY, "C55"),
    "a lot of a basis that is gone": (parts(merge_reset(), ("randk",)), None, "C55"),
    "clip of a pool": (parts(partial_pool(), guard=norm_clip()), MANY, "C43"),
    "scaffold under AdamW": (parts(scaffold())._replace(adaptive=True), None, "C32"),
    "scaffold under moving weights": (parts(scaffold(), weights=qffl()), MANY, "C33"),
    "scaffold under error feedback": (parts(scaffold(), ("topk", "int8")), MANY, "C56"),
    "scaffold of a lot": (parts(scaffold(), ("randk",)), None, "C56"),
    "clip of control variates": (parts(scaffold(), guard=norm_clip()), MANY, "C44"),
    "clip of what was surveyed": (parts(fedsb(), guard=norm_clip()), MANY, "C46"),
    "krum of what was surveyed": (parts(ffa(init="gradsketch"), guard=multi_krum()), None, "C46"),
    "a core of several ranks": (parts(fedsb()), RANKED, "C20"),
    "factors of several ranks": (parts(), RANKED, "C20"),
    "scaffold of several ranks": (parts(scaffold()), RANKED, "C20"),
    "clip of several ranks": (parts(flexlora(), guard=norm_clip()), RANKED, "C45"),
    "clip of sketches": (parts(sketch(), guard=norm_clip()), MANY, "C47"),
    "krum of sketches": (parts(sketch(), guard=multi_krum()), MANY, "C47"),
    "sketches under error feedback": (parts(sketch(), ("topk", "int8")), MANY, "C58"),
    "a lot of a sketch": (parts(sketch(), ("randk",)), RANKED, "C58"),
    "sketches below the rank": (parts(sketch(size=7))._replace(rank=8), None, "C59"),
    "krum of a pool": (parts(partial_pool(), guard=multi_krum()), MANY, "C43"),
}


@pytest.mark.parametrize(("bad", "cohort", "code"), BAD.values(), ids=BAD.keys())
def test_a_combination_that_cannot_work_is_refused_once_with_reason_and_alternative(
    bad, cohort, code
):
    found = refusals(bad, cohort)
    assert codes(found) == [code]
    assert len(found[0].reason.split()) > 4
    assert len(found[0].instead.split()) > 4
    assert str(found[0]) == f"{found[0].reason} [{code}]; {found[0].instead}"


def test_every_rule_is_reached_and_says_its_code():
    reached = {}
    for bad, cohort, _ in BAD.values():
        for rule in combine.RULES:
            reached.setdefault(rule.__name__, set()).add(rule(bad))
        for rule in combine.COHORT_RULES:
            reached.setdefault(rule.__name__, set()).add(rule(bad, cohort or COHORT))
    assert all(any(found) and None in found for found in reached.values()), reached
    for rule in [*combine.RULES, *combine.COHORT_RULES]:
        code = (rule.__doc__ or "").partition(" ")[0].rstrip(":")
        assert {r.code for r in reached[rule.__name__] if r} == {code}


def test_two_faults_are_both_told():
    assert set(codes(refusals(parts(ALONE, ("int8", "topk")), None))) == {"C52", "C60"}


def test_silos_of_a_lower_rank_are_named_with_the_rank_that_all_can_train():
    refusal = refusals(parts(), RANKED)[0]
    assert "s1 (rank 4), s2 (rank 8)" in refusal.reason
    assert "model.rank=4" in refusal.instead


def test_the_silos_whose_language_is_missing_are_named():
    assert "s2" in refusals(parts(), UNKNOWN)[0].reason
    assert "s2" in refusals(parts(fedavg("family")), STRANGE)[0].reason


def test_silos_that_a_guard_cannot_tell_are_named_with_their_group_and_why():
    reason = refusals(parts(guard=multi_krum(1)), ONE_OF_ITS_KIND)[0].reason
    assert "everyone" in reason and reason.endswith(": s7 (no other silo there holds sat)")
    two = ONE_UNTAGGED._replace(languages={**ONE_UNTAGGED.languages, "s8": "sat"})
    assert refusals(parts(guard=multi_krum(1)), two)[0].reason.endswith(
        ": s7 (its language is not known), s8 (no other silo there holds sat)"
    )


def test_a_group_that_is_too_small_is_named_with_what_it_has_and_needs():
    reason = refusals(parts(fedavg("language", "silo"), guard=median()), COHORT)[0].reason
    assert "needs 3" in reason and "as has 2" in reason


CURED = {
    "scaffold under SGD": (parts(scaffold(), ("int8",), weights=by_bytes(2.0)), MANY),
    "AdamW without control variates": (parts()._replace(adaptive=True), MANY),
    "products of several ranks": (parts(flexlora()), RANKED),
    "sketches of several ranks": (parts(sketch(), ("int8",), outer=adam()), RANKED),
    "sketches of the rank": (parts(sketch(size=8))._replace(rank=8), RANKED),
    "exact sketches": (parts(sketch())._replace(rank=8), COHORT),
    "padded factors": (parts(hetlora(), ("topk", "int8")), RANKED),
    "a guard and enough silos": (parts(guard=bulyan(1)), MANY),
    "exclusion accepted": (parts(guard=multi_krum(1, accept_exclusion=True)), ONE_OF_ITS_KIND),
    "krum where others hold its language too": (parts(guard=multi_krum(1)), SANTALI_ELSEWHERE),
    "krum of silos that hold the same mix": (parts(guard=multi_krum(1)), ALIKE),
    "a median of two codes of a language": (parts(guard=median()), OTHER_CODE),
    "unknown languages accepted": (parts(guard=median(accept_exclusion=True)), UNTAGGED),
    "clip instead of krum": (parts(guard=norm_clip()), ONE_OF_ITS_KIND),
    "rolora without feedback": (parts(rolora(), ("int8",)), MANY),
    "clip of a subspace by lot": (parts(ffa(init="orthonormal"), guard=norm_clip()), MANY),
    "cores alone": (
        parts(fedsb(rows="silo"), ("topk", "int8")),
        MANY._replace(tensors=(A, B, CORE)),
    ),
    "own rows in eight bits": (parts(rowwise(), ("int8",)), MANY),
    "own rows under error feedback": (parts(rowwise(), ("topk", "int4")), MANY),
    "own rows of a lot": (parts(rowwise(), ("randk",)), COHORT),
    "own rows in four bits": (parts(rowwise(), ("int4",)), MANY),
    "own rows by lot": (parts(rowwise(), ("qsgd2",)), COHORT),
    "own rows in four bits where a line is short": (
        parts(rowwise())._replace(codec=chain([int8(least=4)])),
        COHORT,
    ),
    "own rows in the upper half of a float": (parts(rowwise(), ("bfloat16",)), COHORT),
    "clip of own rows": (parts(rowwise(), guard=norm_clip()), MANY),
    "krum of own rows": (parts(rowwise(), guard=multi_krum()), MANY),
    "late updates under delayed momentum": (buffered(outer=delayed_nesterov()), COHORT),
    "late updates under momentum": (buffered(outer=nesterov()), COHORT),
    "adam where silos wait": (parts(outer=adam()), COHORT),
    "a survey under momentum": (
        parts(ffa("language", init="gradsketch"), outer=momentum()),
        COHORT,
    ),
    "ffa under feedback": (parts(ffa(), ("topk", "int8")), MANY),
    "clip of two": (parts(fedavg("language", "silo"), guard=norm_clip()), COHORT),
    "merged by language": (parts(fedavg("as+ta", "silo"), guard=norm_clip()), COHORT),
    "no feedback under krum": (parts(links=("int8",), guard=multi_krum()), MANY),
    "clip under feedback": (parts(links=("topk", "int8"), guard=norm_clip()), MANY),
    "a family under a guard": (parts(fedavg("family"), guard=median()), MANY),
    "a pool without a guard": (parts(partial_pool()), MANY),
    "a grouping of present languages": (parts(fedavg("as+ta", "silo")), COHORT),
    "a gap to training alone": (parts(weights=loss_gap()), COHORT),
    "the loss itself": (parts(weights=qffl())._replace(alone=False), COHORT),
    "losses in time": (parts(weights=qffl())._replace(scored=True), COHORT),
    "by text": (parts(weights=by_bytes())._replace(alone=False, scored=False), COHORT),
    "narrow last": (parts(links=("topk", "int8")), COHORT),
    "finer lots": (parts(links=("topk", "qsgd")), COHORT),
    "four bits": (parts(links=("randk", "int4")), COHORT),
    "two bits": (parts(links=("topk", "int2")), COHORT),
    "coarse lots without feedback": (parts(links=("qsgd2",)), COHORT),
    "one topk": (parts(links=("topk",)), COHORT),
    "wider lora": (parts(fedavg("language", "silo")), COHORT),
    "wider rows": (parts(fedavg("silo", "language")), COHORT),
    "wider lora without rows": (parts(fedavg("everyone", "silo")), NO_ROWS),
    "everyone, languages unknown": (parts(fedavg(rows="everyone")), UNKNOWN),
    "silo, languages unknown": (parts(fedavg(rows="silo")), UNKNOWN),
    "language, a strange one": (parts(fedavg("language")), STRANGE),
}


@pytest.mark.parametrize(("good", "cohort"), CURED.values(), ids=CURED.keys())
def test_what_a_refusal_advises_is_accepted(good, cohort):
    assert refusals(good, cohort) == []


def way_out(chosen, way):
    """Return the parts as one way out of C40 or C41 has them."""
    strategy, guard = chosen.strategy, chosen.guard
    if raised := re.fullmatch(r"raise sample= in schedule to (\d+) or more", way):
        return chosen._replace(counted=sync(sample=int(raised[1])).waits_for)
    if wider := re.fullmatch(r"merge by '(\w+)' instead of '(.+)'", way):
        wide, narrow = wider.groups()
        scopes = {p: wide if own == narrow else own for p, own in strategy.scopes.items()}
        return chosen._replace(strategy=strategy._replace(scopes=scopes))
    cured = {
        "expect one hostile silo (f=1)": bulyan(1) if guard.mixes else multi_krum(1),
        "choose guard='norm_clip()'": norm_clip(),
        "choose guard='norm_clip()' for groups of any size": norm_clip(),
        "give the guard accept_exclusion=True": guard._replace(accept_exclusion=True),
    }
    return chosen._replace(guard=cured[way])


COMPARING = {name: bad for name, bad in BAD.items() if bad[2] in ("C40", "C41")}


@pytest.mark.parametrize(("bad", "cohort", "code"), COMPARING.values(), ids=COMPARING.keys())
def test_what_a_refused_guard_is_advised_is_accepted_with_the_same_parts(bad, cohort, code):
    (refusal,) = refusals(bad, cohort)
    ways = re.split(", (?:or )?", refusal.instead)
    assert all(refusals(way_out(bad, way), cohort) == [] for way in ways), ways


@pytest.mark.parametrize(
    ("case", "first"),
    [
        ("krum of three of a language", "merge by 'family' instead of 'language'"),
        ("median of one, alone among all", "choose guard='norm_clip()'"),
        ("median of two", "choose guard='norm_clip()'"),
        ("bulyan of seven, two hostile", "expect one hostile silo (f=1)"),
        ("bulyan of eight, one alone", "choose guard='norm_clip()'"),
        ("krum of three at a time", "raise sample= in schedule to 5 or more"),
        ("krum of a group that a sample splits", "raise sample= in schedule to 6 or more"),
        ("a sample below the guard, too few silos", "choose guard='norm_clip()'"),
    ],
)
def test_a_guard_of_too_few_silos_is_advised_only_what_helps(case, first):
    bad, cohort, _ = BAD[case]
    assert refusals(bad, cohort)[0].instead.startswith(first)


@pytest.mark.parametrize("cohort", [UNKNOWN, STRANGE])
def test_a_scope_of_rows_that_no_silo_trains_needs_no_language(cohort):
    no_rows = cohort._replace(tensors=(A, B))
    assert refusals(parts(fedavg("everyone", "script")), no_rows) == []


def counts(number):
    return Counts(*(number * n for n in (10, 1000, 900, 300)))


def two_rounds(chosen):
    """Run two rounds as a hub and its silos would, on random updates; return all groups."""
    strategy = chosen.strategy
    weights = [chosen.weights.of(counts(k)) for k in range(1, len(SILOS) + 1)]
    weights = [w / max(weights) for w in weights]
    feedback, merged = {}, {}
    for number in (1, 2):
        names = [n for n in SHAPES if strategy.sent(n, number)]
        wires = {}
        for k, silo in enumerate(SILOS):
            draw = np.random.default_rng([number, k])
            update = {n: draw.normal(0, 0.1, SHAPES[n]).astype(np.float32) for n in names}
            x = flatten(update)
            memory = feedback.get(silo, chosen.codec.init(x.size))
            wires[silo], feedback[silo] = chosen.codec.encode(x, memory, Key(7, number, silo))
        one_round(chosen, number, names, wires, dict(zip(SILOS, weights, strict=True)), merged)
    return merged


def one_round(chosen, number, names, wires, weights, merged):
    strategy = chosen.strategy
    shapes = {n: SHAPES[n] for n in names}
    received = {
        silo: unflatten(chosen.codec.decode(wire, size(shapes), Key(7, number, silo)), shapes)
        for silo, wire in wires.items()
    }
    for within in sorted({strategy.scope(n) for n in names}):
        own = [n for n in names if strategy.scope(n) == within]
        groups = {}
        for silo, lang in SILOS.items():
            groups.setdefault(group(within, lang, silo), []).append(silo)
        for key, members in groups.items():
            start = {n: initial(n, SHAPES[n], 1) for n in own}
            adapter, hub, outer = merged.get((within, key)) or (
                start,
                strategy.init(start),
                chosen.outer.init(start),
            )
            running = accumulate.empty(layout(start))
            for silo in members:
                running = accumulate.add(running, pick(received[silo], own), weights[silo])
            step, hub = strategy.aggregate(accumulate.mean(running), adapter, hub)
            adapter, outer = chosen.outer.step(adapter, step, outer)
            merged[within, key] = (strategy.broadcast(adapter, hub), hub, outer)


@pytest.mark.parametrize("links", CHAINS, ids=lambda links: "|".join(links) or "nothing")
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
def test_every_combination_is_refused_or_works_for_two_rounds(strategy, links):
    for weights, outer in itertools.product(WEIGHTS, OUTERS):
        chosen = parts(strategy, links, weights, outer)
        if found := refusals(chosen, COHORT):
            assert set(codes(found)) <= {"C52", "C53", "C54", "C60"}
            continue
        merged = two_rounds(chosen)
        assert {n for adapter, _, _ in merged.values() for n in adapter} == {
            n for n in SHAPES if strategy.sent(n, 1)
        }
        for adapter, _, _ in merged.values():
            for name, x in adapter.items():
                assert x.shape == SHAPES[name]
                assert x.dtype == np.float32
                assert np.isfinite(x).all()
                assert np.any(x != initial(name, SHAPES[name], 1))


def test_the_table_holds_both_kinds_of_combination():
    found = [refusals(parts(s, c), COHORT) for s in STRATEGIES.values() for c in CHAINS]
    assert sum(map(bool, found)) > 50
    assert sum(not f for f in found) > 50
