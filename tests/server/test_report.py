import copy
import random
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from fl_server import report as pages
from fl_server.simulation import baselines, sweep_page
from fl_server.summary import summary

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Page(HTMLParser):
    """Reads a page as a person would: tables by rows of text, headings, the sentence, what is drawn."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.headings, self.tags, self.result = [], [], [], ""
        self.open, self.cell, self.telling = [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.telling = self.telling or ("class", "result") in attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None
        if tag == "p":
            self.telling = False

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data.strip() + " "
        if self.telling:
            self.result += data

    def row(self, head):
        return next([cell.strip() for cell in row] for row in self.rows if row[0].strip() == head)


def run(languages=4, rounds=6, alone=1.08):
    """A report in which every silo needs ``alone`` times the bits by itself; None: it never trained alone."""
    dice = random.Random(languages)
    codes = [f"l{n}" for n in range(languages)]
    found, silos, lines = {}, {}, {}
    for n, code in enumerate(codes):
        before, after = dice.uniform(3, 5), dice.uniform(1, 1.5)
        by_itself = None if alone is None else after * alone
        found[code] = {
            "name": f"Language {n}",
            "silos": 2,
            "train_bytes": 120_000 + n,
            "before": {"bits_per_byte": before},
            "after": {"bits_per_byte": after},
            "alone": None if alone is None else {"bits_per_byte": by_itself},
            "traffic": {"down": 2_000_000, "up": 1_000_000},
        }
        for silo in (f"{code}-1", f"{code}-2"):
            silos[silo] = {
                "language": code,
                "before": before,
                "alone": by_itself,
                "together": after,
                "served": "alone" if alone is not None and alone < 1 else "together",
                "alone_lr": 0.004,
            }
        lines[code] = [
            [k, before + (after - before) * k / max(rounds, 1)] for k in range(rounds + 1)
        ]
    parts = {"task": "causal_lm()", "strategy": "fedavg(lora='language')", "weights": "bytes()"}
    parts |= {
        "outer": "mean()",
        "codec": "bfloat16()",
        "schedule": "sync()",
        "home": "/home/someone",
    }
    tables = {"model": {"base": "builtin:tiny", "rank": 16}, "alone": {"margin": 0.0}}
    return {
        "schema": 1,
        "study": {"name": "demo", "rounds": rounds, "seed": 7, **parts, **tables},
        "seed": 7,
        "rounds_completed": rounds,
        "silos": list(silos),
        "languages": found,
        "silo_scores": silos,
        "curves": lines,
        "released_round": dict.fromkeys(codes, rounds),
        "adapters": codes,
        "bytes": {"down": 8_000_000, "up": 4_000_000, "dense_up": 16_000_000},
        "wall_s": 95.2,
        "adapter_sha256": "ab" * 32,
    }


def comparison(**options):
    runs = {
        spec: run(**options) for spec in ("fedavg()", "fedprox(mu=0.01)", "fedavg(lora='family')")
    }
    for worse, made in enumerate(runs.values()):
        for found in made["languages"].values():
            found["after"]["bits_per_byte"] *= 1 + worse / 50
    pooled = {code: {"after": {"bits_per_byte": 0.9}} for code in made["languages"]}
    both = {"centralised": {"languages": pooled}, **baselines.alone(runs)}
    return {"schema": 1, "study": made["study"], "runs": runs, **both}


def known(mean, half=0.02):
    return {"values": [mean - 0.01, mean, mean + 0.01], "mean": mean, "half": half}


def swept(half=0.02):
    """A sweep of two methods, one of which never ended, over two languages."""
    codes = {"l0": "Language 0", "l1": "Language 1"}
    bits = {"alone": 1.3, "fedavg(lora='language')": 1.2, "centralised": 1.1}
    methods = {
        spec: {
            "rate": None if spec == "alone" else 0.01,
            "mean": known(mean, half),
            "gain": None if spec == "alone" else known(7.5, half),
            "languages": {code: known(mean + n / 10, half) for n, code in enumerate(codes)},
        }
        for n, (spec, mean) in enumerate(bits.items())
    }
    valid = {"0.003": 1.5, "0.01": 1.4, "0.03": None}
    methods["fedavg(lora='language')"] |= {"valid": valid, "edge": False, "worse": known(1.5, half)}
    methods["fedavg(lora='language')"]["bytes"] = {"up": 4e6, "down": 8e6}
    methods["centralised"] |= {"valid": valid, "edge": True}
    methods["alone"] |= {"private": 0, "edge": {"lowest": 0, "highest": 0, "of": 12}}
    nothing = {"rate": None, "mean": None, "gain": None, "languages": {}}
    methods["ffa()"] = nothing | {"valid": dict.fromkeys(valid)}
    return {
        "schema": 1,
        "study": run()["study"],
        "rates": [0.003, 0.01, 0.03],
        "seeds": [7, 8, 9] if half is not None else [7],
        "languages": codes,
        "before": methods["alone"],
        "methods": methods,
        "cells": {"ffa-0.03-7": {"failed": "round 1 has 0 of 4 updates"}, "fedavg-0.003-7": {}},
    }


PAGES = [pages.html(run()), pages.compare_html(comparison()), sweep_page.html(swept())]


@pytest.mark.parametrize("page", PAGES, ids=["run", "compare", "sweep"])
def test_the_page_needs_no_network_and_no_script(page):
    assert "http://" not in page and "https://" not in page
    assert "<script" not in page and "@import" not in page and "url(" not in page
    read = Page(page)
    assert not [tag for tag, attrs in read.tags if attrs.get("src") or attrs.get("href")]
    assert "default-src 'none'" in page


@pytest.mark.parametrize("page", PAGES, ids=["run", "compare", "sweep"])
def test_the_page_can_be_heard_as_well_as_seen(page):
    read = Page(page)
    assert ("html", {"lang": "en"}) in read.tags
    assert read.headings[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(read.headings))
    tags = [tag for tag, _ in read.tags]
    assert tags.count("caption") == tags.count("table") > 0
    assert all(attrs.get("scope") for tag, attrs in read.tags if tag == "th")
    pictures = [attrs for tag, attrs in read.tags if tag == "svg" and attrs.get("role") == "img"]
    assert pictures
    assert all(a.get("aria-label") or a.get("aria-labelledby") for a in pictures)


def test_names_are_escaped_wherever_they_stand():
    evil = "<b>&\"'"
    made = run(1)
    made["languages"]["l0"]["name"] = made["study"]["name"] = evil
    made["study"]["model"]["base"] = evil
    made["silos"][0] = evil
    made["silo_scores"] = {evil: made["silo_scores"]["l0-1"], "l0-2": made["silo_scores"]["l0-2"]}
    both = {"schema": 1, "study": made["study"], "runs": {f"{evil}()": made}, "centralised": None}
    both |= {"local_only": baselines.local_only(made), "also_alone": []}
    for page in (pages.html(made), pages.compare_html(both)):
        assert evil not in page
        assert "<b>&" not in page
        assert "&lt;b&gt;&amp;" in page


def test_indic_names_reach_the_page_unharmed():
    made = run(1)
    made["languages"]["l0"]["name"] = "অসমীয়া"
    assert "<bdi>অসমীয়া</bdi>" in pages.html(made)


def test_every_language_and_every_silo_is_on_the_page_even_one_that_fell_silent():
    made = run()
    del made["silo_scores"]["l0-1"]
    read = Page(pages.html(made))
    for name in [found["name"] for found in made["languages"].values()] + made["silos"]:
        assert read.row(name)
    assert read.row("l0-1")[1] == "sent no final result"


def test_a_silo_that_was_not_scored_is_named_at_the_top_and_in_no_sentence_about_all():
    made = run()
    assert "Not scored" not in pages.html(made)
    none = dict.fromkeys(("before", "alone", "together", "served", "alone_lr"))
    made["silo_scores"]["l0-1"] |= none
    made["summary"] = summary(made["silo_scores"])
    page = pages.html(made)
    read = Page(page)
    assert "Not scored: l0-1." in page
    assert read.row("l0-1")[1] == "sent no final result"
    assert "every scored silo ends better than alone" in read.result
    assert [r for r in read.rows if r[0].strip() == "Together"]


def test_the_numbers_in_the_tables_are_those_of_the_report():
    made = run()
    page = pages.html(made)
    read = Page(page)
    for found in made["languages"].values():
        before, alone, after = (
            found[stage]["bits_per_byte"] for stage in ("before", "alone", "after")
        )
        row = read.row(found["name"])
        assert row[1:4] == [f"{value:.3f}" for value in (before, alone, after)]
        assert row[4] == f"+{100 * (1 - after / alone):.1f} %"
        assert row[5:] == ["2", "120.0 kB", "1.0 MB", "2.0 MB"]
        assert f'<data value="{after}">' in page
    for silo, score in made["silo_scores"].items():
        row = read.row(silo)
        assert [row[2], row[4]] == [f"{score['before']:.3f}", f"{score['together']:.3f}"]
        assert row[3].split()[0] == f"{score['alone']:.3f}"


def test_the_sentence_says_that_every_silo_gains_only_where_every_silo_does():
    assert "every silo ends better than alone, with 7.4 % fewer bits on average" in (
        Page(pages.html(run())).result
    )


def test_the_sentence_claims_nothing_where_no_silo_trained_alone():
    told = Page(pages.html(run(alone=None))).result
    assert "bits per byte on average." in told
    assert "alone" not in told and "better" not in told and "silo" not in told


def test_the_sentence_speaks_only_of_the_silos_that_trained_alone():
    made = run()
    for silo in made["silos"][:3]:
        made["silo_scores"][silo]["alone"] = None
    assert "every silo that also trained alone ends better" in Page(pages.html(made)).result


def test_the_sentence_says_so_where_some_silos_end_worse():
    made = run()
    made["silo_scores"]["l0-1"]["alone"] *= 0.9
    told = Page(pages.html(made)).result
    assert "7 of 8 silos end better than alone, 1 worse" in told


def test_the_sentence_hides_neither_that_all_lose_nor_that_the_base_was_better():
    told = Page(pages.html(run(alone=0.9))).result
    assert "no silo ends better than alone, with 11.1 % more bits" in told
    made = run()
    for found in made["languages"].values():
        found["after"]["bits_per_byte"] = 9.0
    assert "Training together did not help" in Page(pages.html(made)).result


def test_a_gain_below_one_per_cent_is_called_no_clear_difference():
    assert "that is no clear difference" in pages.html(run(alone=1.005))
    assert "that is no clear difference" not in pages.html(run(alone=1.08))


def test_the_reason_tells_when_validation_and_test_disagree():
    made = run()
    made["silo_scores"]["l0-1"]["served"] = "alone"
    reasons = Page(pages.html(made))
    assert reasons.row("l0-1")[-1].endswith("on its validation text, though not on its test text.")
    assert reasons.row("l0-2")[-1] == "Together was better on its validation text."


def test_a_run_that_is_not_over_says_so_and_the_folder_of_the_machine_stays_private():
    made = run() | {"rounds_completed": 2}
    page = pages.html(made)
    assert "stands at round 2 of 6" in page
    assert "/home/someone" not in page


@pytest.mark.parametrize(
    ("languages", "rounds", "alone"), [(1, 1, None), (1, 0, 1.1), (12, 40, 1.0), (12, 1, 0.9)]
)
def test_small_and_large_runs_alike_become_pages(languages, rounds, alone):
    read = Page(pages.html(run(languages, rounds, alone)))
    assert [tag for tag, _ in read.tags].count("polyline") == languages
    assert Page(pages.compare_html(comparison(languages=languages, alone=alone))).rows


def test_a_run_without_traffic_curves_or_finite_numbers_is_still_a_page():
    made = run(2)
    made |= {"bytes": {"down": 0, "up": 0, "dense_up": 0}, "partners": ["a", "b"]}
    made["languages"]["l0"]["after"]["bits_per_byte"] = float("nan")
    made["curves"] = {"l0": [[0, float("nan")]], "l1": []}
    page = pages.html(made)
    assert "The silos sent nothing" in page and "a, b" in page
    assert "no result for every language" in Page(page).result


def test_a_language_and_a_silo_without_test_text_leave_blanks_not_errors():
    made = run(2)
    made["languages"]["l0"] |= {"before": None, "alone": None, "after": None}
    made["silo_scores"]["l0-1"] |= {"before": None, "alone": None, "together": None}
    read = Page(pages.html(made))
    assert read.row("Language 0")[1:5] == ["–"] * 4
    assert read.row("l0-1")[2:6] == ["–"] * 4


def test_a_round_is_ringed_only_where_it_is_known_and_told_in_the_details():
    made = run(2)
    assert 'class="ring"' in pages.html(made) and "A ring marks" in pages.html(made)
    made["released_round"] = {"family-a": 5, "family-b": 6}
    page = pages.html(made)
    assert 'class="ring"' not in page and "A ring marks" not in page
    assert "<dt>family-a</dt><dd>5</dd>" in page


def test_a_task_with_a_score_shows_it():
    made = run(1)
    for number, stage in enumerate(("before", "alone", "after")):
        made["languages"]["l0"][stage]["chrf++"] = 10.0 * number + 4
        made["languages"]["l0"][stage]["accuracy"] = 90.0 - number
    page = pages.html(made)
    (row,) = (r for r in Page(page).rows if r[0].strip() == "Language 0" and len(r) == 7)
    assert [cell.strip() for cell in row[1:]] == ["90.0", "89.0", "88.0", "4.0", "14.0", "24.0"]
    assert page.count('<td class="best"><data value="89.0">') == 1
    assert page.count('<td class="best"><data value="24.0">') == 1


def test_the_worst_silo_and_family_stand_beside_the_mean():
    made = run(2)
    made["silo_scores"]["l1-2"] |= {"together": 9.0, "scores": {}}
    for number, own in enumerate(made["silo_scores"].values()):
        own["scores"] = {stage: {"accuracy": 50.0 + number} for stage in ("before", "together")}
    assert "Over all silos" not in pages.html(made)
    made["summary"] = summary(made["silo_scores"])
    read = Page(pages.html(made))
    rows = [[cell.strip() for cell in r] for r in read.rows if r[0].strip() == "Together"]
    assert rows[0][2] == "9.000 l1-2"
    assert rows[0][3].endswith("l1")
    assert rows[1][1:] == ["51.5", "50.0 l0-1", "50.5 l0", "3.0"]
    gap = made["summary"]["gap"]["percent"]
    assert f"{gap:+.1f}" in pages.html(made).replace("−", "-")


def test_a_summary_without_alone_is_still_a_table():
    made = run(2, alone=None)
    made["summary"] = summary(made["silo_scores"])
    page = pages.html(made)
    assert [r for r in Page(page).rows if r[0].strip() == "Before"]
    assert not [r for r in Page(page).rows if r[0].strip() == "Alone"]
    assert "Together minus alone" not in page


def test_a_comparison_has_a_column_for_each_method_and_names_the_lowest():
    made = comparison()
    read = Page(pages.compare_html(made))
    assert [cell.strip() for cell in read.rows[0]] == (
        ["Language", "Before", "Alone", "fedavg 1", "fedprox", "fedavg 2", "Centralised"]
    )
    first, *others = (
        run["languages"]["l0"]["after"]["bits_per_byte"] for run in made["runs"].values()
    )
    assert read.row("Language 0")[3:6] == [f"{value:.3f}" for value in (first, *others)]
    assert read.row("Language 0")[6] == "0.900"
    assert read.result.startswith("Of 3 methods, fedavg 1 ends lowest")


def test_a_comparison_does_without_a_centralised_run_and_with_a_method_that_lacks_a_language():
    made = comparison()
    made["centralised"] = None
    del made["runs"]["fedprox(mu=0.01)"]["languages"]["l0"]
    read = Page(pages.compare_html(made))
    assert read.row("Language 0")[4] == "–"
    assert "pooling" not in read.result


def test_a_comparison_names_the_runs_alone_of_a_method_with_a_private_adapter():
    runs = {"dual()": run(), "fedavg()": run()}
    for found in runs["dual()"]["languages"].values():
        found["alone"] = {"bits_per_byte": 9.0}
    made = comparison() | {"runs": runs, **baselines.alone(runs)}
    page = pages.compare_html(made)
    plain = runs["fedavg()"]["languages"]["l0"]["alone"]["bits_per_byte"]
    assert Page(page).row("Language 0")[2] == f"{plain:.3f}"
    assert "Beside dual silos alone have a private adapter of rank 16 too, and end at 9.000" in page


def test_a_hair_s_breadth_between_methods_is_called_no_difference():
    made = comparison()
    made["runs"]["fedprox(mu=0.01)"] = copy.deepcopy(made["runs"]["fedavg()"])
    assert "With one seed, that is no difference." in pages.compare_html(made)


def test_labels_keep_their_distance_and_their_order():
    placed = pages.spread([50, 51, 49, 300, 52], 18, 8, 292)
    assert sorted(range(5), key=lambda i: placed[i]) == [2, 0, 1, 4, 3]
    ranked = sorted(placed)
    assert all(b - a >= 17.8 for a, b in pairwise(ranked))
    assert ranked[0] >= 8 and ranked[-1] <= 292


@pytest.mark.parametrize(("low", "high"), [(1.1, 1.12), (1, 2), (0.9, 5), (1, 300), (1e5, 1e9)])
def test_ticks_are_few_and_on_the_axis(low, high):
    found = pages.ticks(low, high)
    assert 2 <= len(found) <= 9
    assert all(low <= tick <= high for tick in found)
    places = [pages.Scale(low, high).at(tick) for tick in found]
    assert places == sorted(places) and places[0] >= 0 and places[-1] <= 100


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs /usr/bin/chromium")
def test_a_browser_draws_the_page(tmp_path):
    file, picture = tmp_path / "report.html", tmp_path / "report.png"
    file.write_text(pages.html(run()), encoding="utf-8")
    dom = _chromium(tmp_path, "--dump-dom", file.as_uri())
    assert dom.count("<polyline") == 4
    _chromium(tmp_path, f"--screenshot={picture}", "--window-size=1200,1600", file.as_uri())
    width, pixels = _pixels(picture)
    assert width == 1200
    assert len(set(pixels)) > 64  # a blank page is a handful of byte values


def _chromium(folder, *options):
    profile = folder / "profile"
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={profile}", *options],
        capture_output=True,
        timeout=90,
        check=True,
    )
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout.decode()


def _pixels(picture):
    """The width of a PNG and its filtered bytes, read with nothing but zlib."""
    data, at, packed = picture.read_bytes(), 8, b""
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    return struct.unpack(">I", data[16:20])[0], zlib.decompress(packed)


def test_the_page_shows_how_each_process_of_a_real_silo_worked(finished):
    _, made = finished
    assert "Efficiency" not in pages.html(made)
    speed = {"efficiency": {"0": 0.91, "1": 0.87}, "tokens_s": {"0": 1234.4, "1": 1180.0}}
    gpu = {"efficiency": {"0": 1.0}, "tokens_s": {"0": 5.0}, "gpu_utilisation": {"0": 83.2}}
    page = pages.html(made | {"effort": {"as-1": speed, "ne-1": gpu}})
    for shown in ("0.91", "0.87", "1,234", "1,180", "83 %"):
        assert f"<td>{shown}</td>" in page


def test_a_process_that_tells_one_of_its_speeds_alone_stands_on_the_page_with_a_dash_for_the_other():
    told = {"tokens_s": {"0": 1234.4, "10": 7.0}, "gpu_utilisation": {"0": 83.2}}
    effort = {"a": told, "b": {"efficiency": {"2": 0.91}}, "c": {"compute_s": {"0": 1.0}}}
    rows = [row for row in Page(pages.html(run(1) | {"effort": effort})).rows if len(row) == 6]
    shown = [[cell.strip() for cell in row[:5]] for row in rows[1:]]
    assert shown == [
        ["a", "0", "–", "1,234", "83 %"],
        ["a", "10", "–", "7", "–"],
        ["b", "2", "0.91", "–", "–"],
    ]


def test_the_page_shows_how_much_each_silo_counted_from_its_lightest_round_to_its_heaviest():
    made = run(1)
    assert "Weight" not in pages.html(made)
    made["weights"] = {"l0-1": [0.25, 0.5], "l0-2": [1.0, 1.0]}
    read = Page(pages.html(made))
    assert [read.row(silo)[6] for silo in ("l0-1", "l0-2")] == ["0.25 to 0.50", "1.00"]
    del made["silo_scores"]["l0-1"]
    assert ("td", {"colspan": "8", "class": "words none"}) in Page(pages.html(made)).tags


def test_a_sweep_shows_means_with_intervals_the_rate_chosen_and_silos_worse_than_alone():
    read = Page(sweep_page.html(swept()))
    assert read.result.startswith("fedavg at its best rate ends at 1.200 ± 0.020 bits per byte")
    row = read.row("fedavg")
    assert row[1].split() == ["1.200", "±", "0.020"]
    assert row[2].startswith("+7.5 %") and row[3:5] == ["1.5", "0.01"]
    assert row[5:] == ["1.500", "1.400", "–", "4.0 MB", "8.0 MB"]
    assert read.row("Alone")[4] == "each its own"
    assert read.row("Language 1")[2].split()[0] == "1.400"


def test_a_sweep_tells_which_rate_stands_at_the_edge_and_which_run_broke_off():
    page = sweep_page.html(swept())
    assert "The best rate of centralised, 0.01, is the highest" in page
    assert "ffa-0.03-7 broke off: round 1 has 0 of 4 updates" in page
    assert [cell for cell in Page(page).row("ffa") if cell != "–"] == ["ffa"]


def test_a_sweep_tells_how_often_silos_alone_stand_at_the_edge_of_the_rates():
    made = swept()
    assert "silos alone" not in sweep_page.html(made)
    made["methods"]["alone"]["edge"] = {"lowest": 5, "highest": 0, "of": 12}
    page = sweep_page.html(made)
    assert "The best rate of silos alone is the lowest tried in 5 of 12 runs: one beyond" in page


def test_a_sweep_names_the_runs_alone_that_a_method_with_a_private_adapter_is_set_against():
    made = swept()
    edge = {"lowest": 0, "highest": 2, "of": 12}
    own = {"private": 16, "mean": known(1.25), "edge": edge}
    made["methods"]["fedavg(lora='language')"]["alone"] = own
    page = sweep_page.html(made)
    name = "silos alone with a private adapter of rank 16"
    assert f"The gain of fedavg is over {name}, which end at 1.250 ± 0.020." in page
    assert f"The best rate of {name} is the highest tried in 2 of 12 runs: one beyond" in page


def test_a_sweep_of_one_seed_has_no_intervals_and_says_so():
    page = sweep_page.html(swept(half=None))
    assert "With one seed there is no interval" in page
    assert "<small>±" not in page


def test_a_gain_whose_interval_holds_nothing_is_told_to_be_none():
    made = swept()
    assert "do not tell them apart" not in sweep_page.html(made)
    made["methods"]["fedavg(lora='language')"]["gain"] = known(1.0, 1.5)
    assert "do not tell them apart" in sweep_page.html(made)


def test_an_interval_is_drawn_around_its_mean_and_a_very_wide_one_keeps_the_page_readable():
    found = sweep_page.rows(swept())["strips"]["l0"]
    assert all(low < place < high for _, _, place, low, high in found)
    assert sweep_page.ends(known(1.2)) == pytest.approx((1.18, 1.22))
    assert sweep_page.ends(known(1.2, 40.0)) == pytest.approx((0.6, 2.4))
    points = {line.name: line.points for line in sweep_page.cost(sweep_page_methods()).lines}
    assert len(points["fedavg"]) == 3 and len({x for x, _ in points["fedavg"]}) == 1
    assert [x for x, _ in points["alone"]] == [0.0, 100.0]


def sweep_page_methods():
    made = swept()["methods"]
    return dict(zip(pages.labels(made), made.values(), strict=True))


def test_the_page_says_what_a_short_line_carried_and_what_stayed_behind():
    made = run(1)
    assert "stayed behind" not in pages.html(made)
    cost = {
        "density": [0.02, 0.04],
        "bits": [4, 8],
        "up": [10, 900_000],
        "left_behind": [0.25, 0.254],
    }
    made["budgets"] = {"l0-1": cost, "l0-2": {"up": [7, 7], "left_behind": [0.1, 0.1]}}
    page = pages.html(made)
    for shown in (
        "at most 900.0 kB of an update: 2 to 4 % of its numbers, in 4 to 8 bits",
        "25 % of the norm",
    ):
        assert shown in page
    assert "at most 7 Bytes of an update. 10 % of the norm" in page
