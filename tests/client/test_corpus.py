"""Text of a silo: four formats, its language, and a plain sentence for every file that cannot be used."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import itertools
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from benchmarks import shared
from fl_client import corpus
from fl_client.cli import app
from fl_client.corpus import CorpusError
from tasks.classify import classify

SHARED = Path(__file__).parents[3] / "shared" / "data"
TEXTS = ["অসমীয়া ভাষা", "नेपाली, 'भाषा'", 'a "quoted" text']


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory) -> Path:
    """Let the cache of ``datasets`` be a folder of this test, and hold it free of text in every test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads")
    return folder


@pytest.fixture
def put(tmp_path):
    """Return a function that writes a file below the folder of this test and returns that folder."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "text"

    return write


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(texts: list[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream).writerows([["text"], *[[text] for text in texts]])
    return stream.getvalue()


def as_parquet(rows: list[dict]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


WRITTEN = {
    "as.txt": "".join(text + "\n" for text in TEXTS).encode(),
    "as.txt.gz": gzip.compress("".join(text + "\n" for text in TEXTS).encode()),
    "as.jsonl": lines(*({"text": text} for text in TEXTS)).encode(),
    "as.jsonl.gz": gzip.compress(lines(*({"text": text} for text in TEXTS)).encode()),
    "as.csv": as_csv(TEXTS).encode(),
    "as.csv.gz": gzip.compress(as_csv(TEXTS).encode()),
    "as.parquet": as_parquet([{"text": text} for text in TEXTS]),
}


def refused(folder: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        list(corpus.read(folder))
    said = str(caught.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", WRITTEN)
def test_each_format_gives_its_texts_in_their_order(name, put):
    rows = list(corpus.read(put(name, WRITTEN[name])))
    assert [(row["text"], row["lang"], row["source"]) for row in rows] == [
        (text, "as", "as") for text in TEXTS
    ]


def test_rows_of_json_are_what_stands_there_whatever_the_others_hold(put):
    told = [
        {"text": "2024-01-31"},
        {"text": "এক", "page": 3, "more": {"of": [None]}},
        {"text": "\U0001f642"},
    ]
    text = json.dumps(told[0]) + "\r\n\n" + lines(told[1]) + json.dumps(told[2])
    assert "\\ud83d" in text
    found = [
        {key: row[key] for key in row.keys() - {"lang", "source"}}
        for row in corpus.read(put("as.jsonl", text))
    ]
    assert found == told


@pytest.mark.parametrize("name", ["as.txt", "as.jsonl.gz", "as.csv", "as.csv.gz"])
def test_to_read_all_but_parquet_takes_no_library(name, put):
    code = (
        "import sys; from fl_client import corpus; rows = list(corpus.read(sys.argv[1])); "
        "print(len(rows), sorted({'datasets', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    folder = put(name, WRITTEN[name])
    ended = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert ended.stdout == f"{len(TEXTS)} []\n", ended.stderr


@pytest.mark.parametrize("name", WRITTEN)
def test_no_copy_of_the_text_stays_in_a_cache(name, put, cache, tmp_path):
    before = set(tmp_path.rglob("*"))
    folder = put(name, WRITTEN[name])
    assert len(list(corpus.read(folder))) == len(TEXTS)
    assert all(path.stat().st_size == 0 for path in cache.rglob("*") if path.is_file())
    assert set(tmp_path.rglob("*")) - before == {folder, folder / name}


def test_the_cache_of_these_tests_is_where_a_copy_would_lie(put, cache):
    folder = put("as.txt", WRITTEN["as.txt"])
    datasets.load_dataset("text", data_files=str(folder / "as.txt"), split="train")
    assert any(path.stat().st_size for path in cache.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", WRITTEN)
def test_reading_text_asks_nothing_of_a_network(name, put, monkeypatch):
    asked = []

    def refuse(*where, **_):
        asked.append(where[:2])
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert len(list(corpus.read(put(name, WRITTEN[name])))) == len(TEXTS)
    assert asked == []


def test_other_fields_of_a_row_are_kept(put):
    row = {"text": "t", "lang": "or", "source": "s", "doc": "d", "split": "test", "en": "e"}
    assert list(corpus.read(put("x.jsonl", lines(row)))) == [row]
    assert list(corpus.read(put("x.parquet", as_parquet([row])))) == [row, row]


def test_the_subfolder_names_the_language(put):
    put("as/prose.txt", "এক\n")
    put("mni-Beng/prose.txt", "দুই\n")
    rows = list(corpus.read(put("or/ne.txt", "ଏକ\n")))
    assert [row["lang"] for row in rows] == ["as", "mni-Beng", "or"]


def test_the_subfolder_names_the_language_of_files_deeper_in_it(put):
    rows = list(corpus.read(put("as/news/2024/prose.txt", "এক\n")))
    assert [row["lang"] for row in rows] == ["as"]


def test_the_file_name_names_the_language_where_no_subfolder_does(put):
    put("as.txt", "এক\n")
    put("mni-Beng.jsonl", lines({"text": "দুই"}))
    rows = list(corpus.read(put("ne.old.csv", "text\nएक\n")))
    assert sorted(row["lang"] for row in rows) == ["as", "mni-Beng", "ne"]


def test_the_file_name_counts_more_than_the_name_of_the_folder_that_was_given(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "as.txt").write_text("এক\n", "utf-8")
    (folder / "ne.txt").write_text("एक\n", "utf-8")
    assert [row["lang"] for row in corpus.read(folder)] == ["as", "ne"]


def test_a_language_folder_can_be_given_by_itself(put):
    folder = put("as/prose.txt", "এক\n") / "as"
    assert [row["lang"] for row in corpus.read(folder)] == ["as"]


def test_the_row_names_its_language_before_any_folder(put):
    folder = put("as/x.jsonl", lines({"text": "a", "lang": "ne"}, {"text": "b", "lang": None}))
    assert [row["lang"] for row in corpus.read(folder)] == ["ne", "as"]


def test_text_of_no_known_language_is_undetermined(put):
    assert [row["lang"] for row in corpus.read(put("stories.txt", "x\n"))] == ["und"]


def test_a_language_that_is_no_text_is_refused(put):
    said = refused(put("x.jsonl", lines({"text": "a", "lang": 5})))
    assert "x.jsonl row 1" in said
    assert "lang" in said


def test_files_and_folders_beside_a_language_folder_are_read_too(put):
    put("as/prose.txt", "এক\n")
    put("Archive/old.txt", "old\n")
    folder = put("ne.txt", "नेपाली\n")
    rows = [(row["lang"], row["text"]) for row in corpus.read(folder)]
    assert rows == [("und", "old"), ("as", "এক"), ("ne", "नेपाली")]
    put("attribution.jsonl", lines({"title": "no text here"}))
    assert "attribution.jsonl row 1 has no 'text'" in refused(folder)


def test_a_suffix_may_be_written_in_capitals(put):
    put("as/A.TXT", "এক\n")
    put("as/B.JSONL.GZ", WRITTEN["as.jsonl.gz"])
    rows = list(corpus.read(put("as/C.Csv", WRITTEN["as.csv"])))
    assert [row["text"] for row in rows] == ["এক", *TEXTS, *TEXTS]


def test_what_is_hidden_is_not_read(put):
    put("as/._a.txt", b"\x00\x05\xff")
    put("as/.ipynb_checkpoints/a-checkpoint.txt", "twice\n")
    folder = put("as/a.txt", "এক\n")
    assert [row["text"] for row in corpus.read(folder)] == ["এক"]
    assert corpus.others(folder) == 0


def test_a_folder_that_cannot_be_read_is_named(put, monkeypatch):
    put("as/a.txt", "এক\n")
    folder, scan = put("ne/b.txt", "एक\n"), os.scandir

    def look(path):
        if Path(path).name == "ne":  # these tests may run as root, who may read all
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", look)
    said = refused(folder)
    assert said.startswith(f"{folder / 'ne'} cannot be read: Permission denied; let this user")


def test_a_folder_behind_a_link_is_read_once_and_a_circle_of_links_ends(put, tmp_path):
    folder = put("data/x.txt", "एक\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.txt").write_text("दुई\n")
    (folder / "ne").symlink_to(tmp_path / "elsewhere")
    (folder / "data" / "round").symlink_to(folder)
    rows = [(row["lang"], row["text"]) for row in corpus.read(folder)]
    assert rows == [("und", "एक"), ("ne", "दुई")]


def test_other_kinds_of_file_are_not_read(put):
    put("as.md", "no\n")
    put("as.pkl", b"\x80\x04no")
    put("as.txt.bak", "no\n")
    folder = put("as.txt", "এক\n")
    assert [row["text"] for row in corpus.read(folder)] == ["এক"]
    assert corpus.others(folder) == 3
    said = CliRunner().invoke(app, ["text", str(folder), "--json"])
    assert said.stderr == "3 files of other kinds are not read\n"
    assert list(json.loads(said.stdout)) == ["as"]


def test_files_are_read_in_the_order_of_their_names(put):
    for name in ("b/2.txt", "a/9.txt", "c.txt", "b/1.txt"):
        folder = put(name, f"{name}\n")
    rows = list(corpus.read(folder))
    assert [row["text"] for row in rows] == ["a/9.txt", "b/1.txt", "b/2.txt", "c.txt"]


@pytest.mark.parametrize("name", ["x [1].txt", "x*.txt", "x?.txt"])
def test_a_file_name_is_no_pattern(name, put):
    put("x 1.txt", "other\n")
    rows = list(corpus.read(put(name, "own\n")))
    assert sorted(row["text"] for row in rows) == ["other", "own"]


def test_csv_words_that_look_like_missing_values_are_text(put):
    rows = list(corpus.read(put("x.csv", "text,lang\nNA,as\nnull,as\nNaN,as\n")))
    assert [row["text"] for row in rows] == ["NA", "null", "NaN"]


@pytest.mark.parametrize(
    ("content", "row", "line", "held", "wanted"),
    [
        ("text,source\nfever, cough and pain,ward\nall, well,ward\n", 1, 2, 3, 2),
        ("text\nall well\nfever, cough\n", 2, 3, 2, 1),
        ('text,source\n"two\nlines",a\n\nall well\n', 2, 5, 1, 2),
        ("text,source\r\na,b\r\nc,d,\r\n", 2, 3, 3, 2),
    ],
)
def test_a_csv_row_with_another_number_of_fields_than_the_header_is_refused_with_its_number(
    content, row, line, held, wanted, put
):
    said = refused(put("as.csv", content))
    assert f"as.csv row {row} (line {line}) has {held} fields and the header {wanted}; put" in said


def test_every_value_of_csv_is_the_text_that_stands_there(put):
    content = 'text,doc,page\r\n"a, ""b""\r\nc",007,1.50\r\n NA ,,nan\r\n'
    found = list(corpus.read(put("as.csv", content)))
    told = [(row["text"], row["doc"], row["page"]) for row in found]
    assert told == [('a, "b"\r\nc', "007", "1.50"), (" NA ", "", "nan")]


def test_a_field_of_csv_may_be_long(put):
    text = "a" * 200_000
    assert [row["text"] for row in corpus.read(put("as.csv", f"text\n{text}\n"))] == [text]


def test_a_quotation_mark_that_is_never_closed_is_no_csv(put):
    said = refused(put("as.csv", 'text\nall well\n"fever\ncough\n'))
    assert "as.csv cannot be read as csv: line 4: " in said


@pytest.mark.parametrize("line", ['{"text": "a', "[]", '{"text": "\\ud83d"}', "[" * 9999])
def test_a_line_of_json_that_is_damaged_is_named_by_its_number(line, put):
    said = refused(put("as.jsonl", f"{lines({'text': 'a'})}\n{line}\n"))
    assert "as.jsonl cannot be read as json: line 3 is no object (" in said


def test_csv_text_that_looks_like_numbers_is_text(put):
    rows = list(corpus.read(put("x.csv", "text,lang\n007,as\n12,as\n")))
    assert [row["text"] for row in rows] == ["007", "12"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.txt", "এক\n"), ("x.jsonl", lines({"text": "এক"})), ("x.csv", "text\nএক\n")],
)
def test_a_byte_order_mark_is_no_part_of_the_text(name, content, put):
    folder = put(name, b"\xef\xbb\xbf" + content.encode())
    assert [row["text"] for row in corpus.read(folder)] == ["এক"]


BLOCK = 1 << 20  # what the check reads at once


@pytest.mark.parametrize(
    ("content", "at"),
    [
        (b"abc\xff", 3),
        ("এক\n".encode() + b"\x80x", 7),
        (b"a" * BLOCK + b"\xfe" + b"a", BLOCK),
        (b"a" * (2 * BLOCK + 5) + b"\xc0", 2 * BLOCK + 5),
        ("caf\xe9".encode("latin-1") + b" au lait", 3),
        ("text".encode("utf-16"), 0),
    ],
)
@pytest.mark.parametrize("name", ["as.txt", "as.jsonl", "as.csv", "as.txt.gz"])
def test_a_file_that_is_not_utf8_is_named_with_the_place_of_its_first_bad_byte(
    content, at, name, put
):
    folder = put(name, gzip.compress(content) if name.endswith(".gz") else content)
    said = refused(folder)
    assert said == f"{folder / name} is not UTF-8 near byte {at}; save it as UTF-8"


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("before", [3, BLOCK - 1, BLOCK])
def test_a_character_cut_off_at_the_end_is_not_utf8(cut, before, put):
    said = refused(put("as.txt", b"a" * before + "এ".encode()[:cut]))
    near = int(said.partition("near byte ")[2].partition(";")[0])
    assert before <= near <= before + cut


def test_characters_across_the_blocks_of_the_check_are_utf8(put):
    text = "a" * (BLOCK - 1) + "এক"
    assert [row["text"] for row in corpus.read(put("as.txt", text + "\n"))] == [text]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    said = refused(tmp_path / "nowhere")
    assert (
        said == f"no folder {tmp_path / 'nowhere'}; give a folder of text files or the name 'cldr'"
    )


def test_a_file_is_no_folder(put):
    folder = put("as.txt", "এক\n")
    assert "no folder" in refused(folder / "as.txt")


@pytest.mark.parametrize("name", ["notes.md", "as/notes.md", "as.txt"])
def test_a_folder_without_text_says_what_to_put_in_it(name, put):
    folder = put(name, "")
    said = refused(folder)
    assert said == f"{folder} holds no text; put txt, jsonl, csv or parquet files in it"


def test_an_empty_file_among_others_is_no_error(put):
    put("a.jsonl", "")
    assert [row["text"] for row in corpus.read(put("b.jsonl", lines({"text": "এক"})))] == ["এক"]


@pytest.mark.parametrize(
    ("row", "has"),
    [
        ({"txt": "b", "lang": "as"}, "lang, txt"),
        ({"text": None, "lang": "as"}, ""),
        ({"text": 5}, ""),
    ],
)
def test_a_row_without_text_is_named_with_its_number_and_what_it_has(row, has, put):
    said = refused(put("x.jsonl", lines(row, row)))
    assert "x.jsonl row 1 has no 'text'" in said
    assert has in said


def test_rows_before_a_row_without_text_are_counted(put):
    folder = put("x.jsonl", lines({"text": "a"}, {"text": "b"}, {"other": "c"}))
    assert "x.jsonl row 3 has no 'text'" in refused(folder)


PAIR, LABELLED = (("messages",), ("prompt", "response")), (("text", "label"),)
MESSAGES = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "এক"}]
ASKED = {"prompt": "007", "response": "এক"}


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        (PAIR, ASKED),
        (PAIR, {"messages": MESSAGES}),
        (LABELLED, {"text": "এক", "label": "good"}),
        (LABELLED, {"text": "এক", "label": 1}),
        (corpus.ANY, ASKED),
        (corpus.ANY, {"messages": MESSAGES}),
    ],
)
def test_rows_of_each_task_are_read_from_jsonl_and_parquet(fields, row, put):
    for name, content in (("as.jsonl", lines(row)), ("as.parquet", as_parquet([row]))):
        found = list(corpus.read(put(name, content), fields))
        assert {key: found[0][key] for key in row} == row


def test_the_fields_of_a_csv_file_are_text(put):
    messages = json.dumps(MESSAGES, ensure_ascii=False)
    stream = io.StringIO()
    csv.writer(stream).writerows(
        [["prompt", "response", "messages", "label"], ["007", "NA", messages, "01"]]
    )
    (row,) = corpus.read(put("as.csv", stream.getvalue()), PAIR)
    assert (row["prompt"], row["response"], row["messages"], row["label"]) == (
        "007",
        "NA",
        messages,
        "01",
    )


@pytest.mark.parametrize(
    ("fields", "row", "said"),
    [
        (PAIR, {"prompt": "?"}, "has no 'messages' or 'prompt' with 'response'; it has prompt"),
        (PAIR, {"text": "এক"}, "has no 'messages' or 'prompt' with 'response'; it has text"),
        (PAIR, {"prompt": "?", "response": None}, "has no 'messages' or 'prompt' with 'response'"),
        (LABELLED, {"text": "এক"}, "has no 'text' with 'label'; it has text"),
        (LABELLED, {"text": "এক", "label": None}, "has no 'text' with 'label'"),
    ],
)
def test_a_row_without_a_field_of_its_task_is_named_by_file_and_number(fields, row, said, put):
    folder = put("x.jsonl", lines({**ASKED, "text": "a", "label": "b"}, row))
    with pytest.raises(CorpusError) as caught:
        list(corpus.read(folder, fields))
    assert str(caught.value).startswith(f"{folder / 'x.jsonl'} row 2 {said}")


def test_the_built_in_corpus_does_not_serve_every_task():
    with pytest.raises(CorpusError, match="cldr has no 'text' with 'label'; it has en, lang"):
        next(corpus.read("cldr", LABELLED))


def test_what_a_task_refuses_is_named_by_file_and_number(put):
    folder = put("x.jsonl", lines({"text": "a", "label": "good"}, {"text": "b", "label": "god"}))
    task = classify("good,bad")
    (_, first), (place, second) = corpus.placed(folder, task.fields)
    assert corpus.example(task, "", first).text == "good"
    with pytest.raises(CorpusError) as caught:
        corpus.example(task, place, second)
    assert str(caught.value).startswith(f"{folder / 'x.jsonl'} row 2: label='god' is unknown; ")
    assert "good, bad" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "written"),
    [
        ({"text": "এক", "label": "good", "en": "one"}, "এক"),
        (ASKED, "007\nএক"),
        ({"messages": MESSAGES}, "?\nএক"),
        ({"messages": "[]"}, "[]"),
        ({"messages": [{"role": "user"}, "x"]}, ""),
    ],
)
def test_what_is_counted_of_a_row_is_all_that_is_written_in_it(row, written):
    assert corpus.words(row) == written


def packed() -> bytes:
    draw = random.Random(7)
    return gzip.compress(lines(*({"text": str(draw.random())} for _ in range(500))).encode())


DAMAGED = {
    "cut off": packed()[:-20],
    "no gzip at all": b"not gzip",
    "a length that is wrong": packed()[:-4] + b"\x00" * 4,
    "a checksum that is wrong": packed()[:-8] + b"\x00" * 4 + packed()[-4:],
    "bytes inside that are wrong": packed()[:10] + b"\xff" * 40 + packed()[50:],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_gzip_file_is_named(name, put):
    folder = put("as.jsonl.gz", DAMAGED[name])
    assert refused(folder).startswith(f"{folder / 'as.jsonl.gz'} is damaged: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b'{"text": "a"\n'),
        ("x.jsonl", b'"just a text"\n'),
        ("x.jsonl", b'[["text", "a"]]\n'),
        ("x.jsonl", b'{"text": "half a \\ud83d"}\n'),
        ("x.parquet", b"no parquet"),
        ("x.parquet", WRITTEN["as.parquet"][:-9]),
        ("x.parquet", b""),
    ],
)
def test_a_file_that_its_reader_cannot_read_is_named_with_its_format(name, content, put):
    folder = put(name, content)
    assert refused(folder).startswith(f"{folder / name} cannot be read as ")


def test_a_parquet_file_is_not_checked_as_text(put):
    assert b"PAR1" in WRITTEN["as.parquet"]
    with pytest.raises(UnicodeDecodeError):
        WRITTEN["as.parquet"].decode()
    assert len(list(corpus.read(put("as.parquet", WRITTEN["as.parquet"])))) == len(TEXTS)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not on this machine")
def test_of_the_shared_text_benchmarks_read_the_languages_and_neither_credits_nor_the_wider_text():
    found = corpus.files(shared.languages())
    assert {path.parent.name for path in found} >= {"as", "ne", "or", "mni-Beng"}
    assert {path.name for path in found} == {"prose.jsonl.gz", "software.jsonl.gz"}
    assert len(corpus.files(SHARED)) > len(found)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not on this machine")
def test_the_shared_rows_have_source_licence_and_split():
    rows = list(itertools.islice(corpus.read(SHARED / "as"), 200))
    assert len(rows) == 200
    for row in rows:
        assert row["lang"] == "as"
        assert row["text"].strip()
        assert row["source"] and row["licence"]
        assert row["split"] in {"train", "test"}
