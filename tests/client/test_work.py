"""A job at its silo: what keeps it from being opened is told apart, and only of missing text the hub hears that."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from fl_client import chat, shapes, silo, work
from fl_client.config import ConfigError, Study, from_flat
from fl_client.messages import TOKENS, Fault, Order
from fl_client.silo import Folder, Settings
from fl_client.site import Place
from fl_client.spec import SpecError
from fl_client.workers import Job


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a silo with text in Assamese."""
    text = tmp_path / "text" / "as"
    text.mkdir(parents=True)
    (text / "as.txt").write_text(
        "".join(f"শাৰী {'কখগঘঙচছজঝঞ'[n % 10] * (n + 1)}\n" for n in range(80))
    )
    settings = Settings(
        name="clinic",
        federation="demo",
        address="hub.example.org:9443",
        data=str(text.parent),
        base="builtin:tiny",
        base_sha256="0" * 64,
    )
    silo.create(tmp_path / "silo", settings)
    return tmp_path / "silo"


@pytest.fixture
def spoken(folder):
    """Return the folder of a silo with conversations instead."""
    text = folder.parent / "text" / "as"
    (text / "as.txt").rename(text / "was")
    said = [line.split()[1] for line in (text / "was").read_text().splitlines()]
    roles = ("user", "assistant")
    rows = [{"messages": [{"role": role, "content": text} for role in roles]} for text in said]
    (text / "as.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def opened(folder, **changes):
    study = from_flat({key.replace("__", "."): value for key, value in changes.items()})
    return work.opened(Job(study, Place(silo=str(folder)), Order(), {}))


def code(place: Place, study: Study) -> str:
    with pytest.raises(Fault) as raised:
        work.opened(Job(study, place, Order(), {}))
    return raised.value.code


def test_a_silo_with_text_is_opened(folder):
    assert opened(folder).site.name == "clinic"


@pytest.mark.parametrize("spoilt", ["threads = -1\n", "= nonsense\n", None])
def test_settings_that_cannot_be_used_are_not_told_as_missing_text(spoilt, folder):
    path = Folder(folder).settings
    if spoilt is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace("threads = 0\n", spoilt))
        assert spoilt in path.read_text()
    with pytest.raises(ConfigError, match=r"silo\.toml"):
        opened(folder)


def test_a_base_that_is_gone_is_not_told_as_missing_text(spoken):
    path = Folder(spoken).settings
    path.write_text(path.read_text().replace("builtin:tiny", "/no/such/base"))
    with pytest.raises(ConfigError, match="/no/such/base"):
        opened(spoken, task="instruct()")


def test_a_study_that_names_nothing_is_not_told_as_missing_text(folder):
    with pytest.raises(SpecError, match="unknown task"):
        opened(folder, task="sing()")


def emptied(folder):
    (folder.parent / "text" / "as" / "as.txt").unlink()


def short(folder):
    (folder.parent / "text" / "as" / "as.txt").write_text("শাৰী\n")


def not_utf8(folder):
    (folder.parent / "text" / "as" / "as.txt").write_bytes(b"\xff\xfe\xff")


@pytest.mark.parametrize("spoil", [emptied, short, not_utf8])
def test_text_that_is_missing_or_damaged_has_its_code(spoil, folder):
    spoil(folder)
    assert code(Place(silo=str(folder)), Study()) == "text_missing"


@pytest.mark.parametrize(
    "changes", [{"languages": "as,xx"}, {"sources": "novels"}, {"silos": 4000}], ids=str
)
def test_text_that_simulated_silos_lack_has_its_code(changes, tmp_path):
    study = from_flat({f"simulation.{key}": value for key, value in changes.items()})
    assert code(Place(home=str(tmp_path)), study) == "text_missing"


def test_a_conversation_that_the_base_cannot_write_has_its_code(spoken, monkeypatch):
    place, study = Place(silo=str(spoken)), from_flat({"task": "instruct()"})
    assert work.opened(Job(study, place, Order(), {})).site.name == "clinic"
    monkeypatch.setattr(chat, "PLAIN", "{{ raise_exception('no such role') }}")
    chat.frame.cache_clear()
    assert code(place, study) == "text_missing"


@pytest.mark.parametrize(("rows", "arrays"), [("scripts", {TOKENS}), ("none", set())])
def test_what_a_silo_says_of_the_first_adapter_names_modules_and_no_folder(
    folder, tmp_path, rows, arrays
):
    base = tmp_path / "home" / "dr.rao" / "base"
    shutil.copytree(shapes.folder("builtin:tiny"), base)
    settings = Folder(folder).settings
    settings.write_text(settings.read_text().replace("builtin:tiny", str(base)))
    study = from_flat({"model.rank": 2, "model.rows": rows})
    job = Job(study, Place(silo=str(folder)), Order(scripts="Beng"), {})
    made = work.initial(work.opened(job))
    assert set(made.facts) == {"peft"} and set(made.facts["peft"]) == {"target_modules"}
    assert "dr.rao" not in json.dumps(made.facts)
    found = {name for name in made.arrays if name == TOKENS}
    assert found == arrays
    for name in arrays:
        learned = next(x for n, x in made.arrays.items() if n.endswith("trainable_tokens_delta"))
        assert made.arrays[name].dtype == np.int32
        assert made.arrays[name].shape == learned.shape[:1]
