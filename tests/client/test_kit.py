"""A startup kit: what was written is read again, and what is no kit, damaged, too big or expired is refused."""

from __future__ import annotations

import json
import stat
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fl_client import certificates, kit
from fl_client.config import ConfigError
from fl_client.kit import Kit
from fl_server import authority, hub, roster


def soon(hours: float = 1) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Kit:
    folder = tmp_path_factory.mktemp("hub")
    settings = hub.new("ভাষা জাল", "hub.example.org:8443")
    authority.create(folder, settings)
    hub.create(folder, settings)
    return roster.invite(folder, "clinic", ("as", "brx"), 1)


def zipped(path, **members: bytes | str):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", "."), content)
    return path


def test_a_kit_that_was_written_is_read_again(good, tmp_path):
    path = tmp_path / "clinic.zip"
    kit.write(path, good)
    assert kit.read(path) == good
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_kit_says_in_plain_words_what_to_type_and_holds_no_private_key(good, tmp_path):
    path = tmp_path / "clinic.zip"
    kit.write(path, good)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["README.txt", "kit.json"]
        readme = archive.read("README.txt").decode()
        everything = b"".join(archive.read(name) for name in archive.namelist())
    for words in ("fl-client join clinic.zip --data", "clinic", good.federation, good.expires):
        assert words in readme
    assert good.token not in readme
    assert b"PRIVATE" not in everything


def test_a_kit_never_overwrites_a_file(good, tmp_path):
    path = tmp_path / "thesis.zip"
    path.write_text("years of work")
    with pytest.raises(ConfigError, match="is there already"):
        kit.write(path, good)
    assert path.read_text() == "years of work"


def test_an_expired_kit_says_when_it_expired(good, tmp_path):
    old = good.model_copy(update={"expires": soon(-1)})
    kit.write(tmp_path / "old.zip", old)
    with pytest.raises(ConfigError) as refusal:
        kit.read(tmp_path / "old.zip")
    assert f"expired on {old.expires}" in str(refusal.value)
    assert "clock" in str(refusal.value)
    assert "ask the coordinator" in str(refusal.value)


def write_text(path, good):
    path.write_text("this is no zip")


def write_without_a_kit(path, good):
    zipped(path, thesis_txt="years of work")


def write_cut_short(path, good):
    kit.write(path, good)
    path.write_bytes(path.read_bytes()[:-30])


def write_with_a_changed_byte(path, good):
    kit.write(path, good)
    content = bytearray(path.read_bytes())
    content[60] ^= 1  # within the compressed kit.json
    path.write_bytes(content)


def write_a_folder(path, good):
    path.mkdir()


def write_no_json(path, good):
    zipped(path, kit_json="{")


def write_a_list(path, good):
    zipped(path, kit_json="[]")


def write_too_big(path, good):
    path.write_bytes(bytes(kit.CAP + 1))


def write_a_bomb(path, good):
    zipped(path, kit_json=bytes(64 * kit.CAP))


def write_nothing(path, good):
    pass


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_nothing, "no file"),
        (write_a_folder, "no file"),
        (write_text, "no startup kit"),
        (write_without_a_kit, "no startup kit"),
        (write_cut_short, "no startup kit"),
        (write_with_a_changed_byte, "no startup kit"),
        (write_no_json, "no startup kit"),
        (write_a_list, "no startup kit"),
        (write_too_big, "bigger than 1 MiB"),
        (write_a_bomb, "more than 1 MiB"),
    ],
)
def test_what_is_no_kit_is_refused_in_one_sentence_that_names_the_file(
    write, words, good, tmp_path
):
    path = tmp_path / "clinic.zip"
    write(path, good)
    with pytest.raises(ConfigError, match=words) as refusal:
        kit.read(path)
    assert "clinic.zip" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../up"),
        ("name", "Clinic"),
        ("federation", 'a" b'),
        ("address", "hub.example.org"),
        ("address", "hub.example.org:0"),
        ("address", "https://hub.example.org:8443"),
        ("root_pem", "no certificate"),
        ("study_pub", "no key"),
        ("languages", []),
        ("languages", ["English"]),
        ("token", "short"),
        ("token", "x" * 42 + "\n"),
        ("expires", "tomorrow"),
        ("expires", "2030-01-01T00:00:00"),
        ("surprise", "more"),
    ],
)
def test_a_kit_with_a_wrong_value_is_refused_with_the_key_named(key, value, good, tmp_path):
    changed = json.loads(good.model_dump_json()) | {key: value}
    path = zipped(tmp_path / "clinic.zip", kit_json=json.dumps(changed))
    with pytest.raises(ConfigError, match=key) as refusal:
        kit.read(path)
    assert "\n" not in str(refusal.value)


def test_a_study_key_of_another_kind_is_refused(good):
    public = certificates.new_key().public_key()
    text = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    changed = json.loads(good.model_dump_json()) | {"study_pub": text}
    with pytest.raises(ConfigError, match="Ed25519"):
        kit.parse(json.dumps(changed).encode(), "kit.json")
