"""Studies as the hub signs them: what was signed comes out, and nothing else does."""

from __future__ import annotations

import base64
import json
import stat

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import certificates, signed
from fl_client.config import ConfigError, Study, flat, from_flat

KEY = signed.new_key()
STUDY = from_flat({"name": "clinic", "rounds": 3, "train.lr": 1e-5, "home": "/somewhere"})


def public(key=KEY):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


ENVELOPE = signed.sign(KEY, "Demo", STUDY, "f" * 64, ["a", "b"])


def test_what_was_signed_comes_out():
    found = signed.open_(ENVELOPE, public())
    assert (found.federation, found.bundle, found.silos) == ("Demo", "f" * 64, ("a", "b"))
    assert flat(found.study) == flat(STUDY) | {"home": ""}
    assert found.made.endswith("+00:00")


def test_another_key_is_refused():
    with pytest.raises(ConfigError, match="is not signed by this federation's hub"):
        signed.open_(ENVELOPE, public(signed.new_key()))


@settings(max_examples=300)
@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_an_envelope_with_a_changed_byte_never_says_anything_else(at, flip):
    held = bytearray(ENVELOPE)
    held[at] ^= flip
    try:
        found = signed.open_(bytes(held), public())
    except ConfigError:
        return
    assert found == signed.open_(ENVELOPE, public())  # such as a byte between the two parts


def test_a_signature_over_another_text_is_refused():
    outer = json.loads(ENVELOPE)
    outer["signed"] = outer["signed"].replace('"rounds": 3', '"rounds": 4')
    with pytest.raises(ConfigError, match="is not signed"):
        signed.open_(json.dumps(outer).encode(), public())


def test_a_signature_that_stands_for_something_else_is_refused():
    text = json.loads(ENVELOPE)["signed"]
    bare = base64.b64encode(KEY.sign(text.encode())).decode()
    with pytest.raises(ConfigError, match="is not signed"):
        signed.open_(json.dumps({"signed": text, "signature": bare}).encode(), public())


@pytest.mark.parametrize(
    "rubbish",
    [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"signed": 1, "signature": 2}', b" " * (1 << 19)],
)  # fmt: skip
def test_rubbish_is_refused(rubbish):
    with pytest.raises(ConfigError, match="is not signed"):
        signed.open_(rubbish, public())


def envelope(said):
    text = json.dumps(said)
    signature = base64.b64encode(KEY.sign(signed.MARK + text.encode())).decode()
    return json.dumps({"signed": text, "signature": signature}).encode()


WHOLE = json.loads(json.loads(ENVELOPE)["signed"])


@pytest.mark.parametrize(
    "changes",
    [
        {"study": WHOLE["study"] | {"no.such.key": 1}},
        {"study": WHOLE["study"] | {"rounds": 0}},
        {"study": {k: v for k, v in WHOLE["study"].items() if k != "codec"}},
        {"study": []},
        {"silos": 3},
        {"more": 1},
    ],
)
def test_a_study_of_another_version_is_said_to_be_that(changes):
    with pytest.raises(ConfigError, match="hub and silo need the same version"):
        signed.open_(envelope(WHOLE | changes), public())


def test_a_key_is_kept_for_this_user_alone_and_read_back(tmp_path):
    signed.save(tmp_path / "study.key", KEY)
    assert stat.S_IMODE((tmp_path / "study.key").stat().st_mode) == 0o600
    assert public(signed.load(tmp_path / "study.key")) == public()
    with pytest.raises(ConfigError, match="never overwritten"):
        signed.save(tmp_path / "study.key", KEY)


def test_what_is_no_key_for_studies_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as a key"):
        signed.load(tmp_path / "none")
    certificates.save_key(tmp_path / "tls.key", certificates.new_key())
    with pytest.raises(ConfigError, match="is no key for studies"):
        signed.load(tmp_path / "tls.key")
    with pytest.raises(ConfigError, match="public key for studies cannot be read"):
        signed.open_(ENVELOPE, b"rubbish")


def test_the_default_study_keeps_every_value_and_its_type():
    found = signed.open_(signed.sign(KEY, "Demo", Study(), "f" * 64, []), public()).study
    kinds = {key: (type(value), value) for key, value in flat(found).items()}
    assert kinds == {key: (type(value), value) for key, value in flat(Study()).items()}
