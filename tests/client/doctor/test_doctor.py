"""The doctor: a healthy silo is green throughout, and each of the things that go wrong is named with what to do."""

from __future__ import annotations

import errno
import json
import shutil
import socket
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_client import audit, contact, doctor, frames, lock, machine, silo
from fl_client.checks import folder as files
from fl_client.checks import packages
from fl_client.checks.check import Check
from fl_client.config import from_flat
from fl_client.silo import Folder
from fl_server import roster
from fl_server.gateway import seen

NAMES = [
    "Flower", "Torch", "GPU", "key", "silo.toml", "policy.toml", "certificate", "text", "base", "memory", "disk",
    "programs", "hub", "clock", "uplink",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look at this machine without starting Torch in a process of its own."""
    monkeypatch.setattr(machine, "gpus_seen", lambda: ())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the command sets it; it ends with the test


def look(at: Folder, **study: object) -> dict[str, Check]:
    """Return the doctor's checks of a silo by name."""
    pairs = {key.replace("__", "."): value for key, value in study.items()}
    return {c.name: c for c in doctor.checks(at.path, from_flat(pairs), lambda _: None)}


def red(at: Folder, name: str, **study: object) -> Check:
    """Return a check of a silo, which must be red with something to do about it."""
    found = look(at, **study)[name]
    assert not found.ok
    assert found.remedy
    return found


def swap(path: Path, before: str, after: str) -> None:
    content = path.read_text()
    assert before in content
    path.write_text(content.replace(before, after))


def test_a_silo_that_is_well_is_green_throughout(joined):
    found = look(joined)
    assert list(found) == NAMES
    assert {name: c for name, c in found.items() if not c.ok} == {}
    assert found["text"].found == "as 60 rows (780 B)"
    assert "8 x 96 tokens a step) of " in found["memory"].found


def test_the_measured_line_stands_in_silo_toml_afterwards_and_its_comments_stay(joined):
    before = joined.settings.read_text().splitlines()
    look(joined)
    after = joined.settings.read_text().splitlines()
    differ = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(differ) == 1
    assert silo.read(joined.path).uplink_bytes_s > 1000


def meanwhile(monkeypatch, edit):
    """Let someone edit silo.toml while the line is measured."""
    really, edits = doctor.measured, []

    def measured(folder):
        rate = really(folder)
        edits.append(edit())
        return rate

    monkeypatch.setattr(doctor, "measured", measured)
    return edits


def test_an_edit_of_silo_toml_that_was_made_while_the_doctor_looked_is_kept(joined, monkeypatch):
    edits = meanwhile(monkeypatch, lambda: swap(joined.settings, "threads = 0", "threads = 3"))
    assert {name for name, c in look(joined).items() if not c.ok} == set()
    assert len(edits) == 1
    own = silo.read(joined.path)
    assert own.threads == 3 and own.uplink_bytes_s > 1000


@pytest.mark.parametrize(
    ("line", "said"), [("threads = ", "cannot be read"), ("treads = 3", "unknown key 'treads'")]
)
def test_a_silo_toml_that_is_wrong_once_the_line_is_measured_is_named_and_left_alone(
    joined, monkeypatch, line, said
):
    edits = meanwhile(monkeypatch, lambda: swap(joined.settings, "threads = 0", line))
    ran = CliRunner().invoke(doctor.app, ["--dir", str(joined.path)])
    assert len(edits) == 1
    assert ran.exit_code == 1 and isinstance(ran.exception, SystemExit)
    assert said in ran.stdout.partition("wrong  silo.toml")[2]
    assert line in joined.settings.read_text().splitlines()


def test_a_silo_that_does_not_run_tells_the_hub_what_it_is(joined, at):
    look(joined)
    told = seen.load(at / "seen").silos[silo.read(joined.path).name].hello
    assert told["languages"]["as"]["rows"] == 60
    assert told["uplink_bytes_s"] > 0
    assert told["cpus"] >= 1


def test_the_command_ends_with_0_where_all_is_well(joined):
    ran = CliRunner().invoke(doctor.app, ["--dir", str(joined.path), "--json"])
    assert ran.exit_code == 0, ran.output
    said = json.loads(ran.stdout)
    assert said["ok"] is True
    assert [c["name"] for c in said["checks"]] == NAMES


def test_the_command_ends_with_1_and_says_what_to_do(joined):
    joined.key.chmod(0o644)
    ran = CliRunner().invoke(doctor.app, ["--dir", str(joined.path)])
    assert ran.exit_code == 1
    assert "wrong  key" in ran.stdout
    assert f"-> chmod 600 {joined.key}" in ran.stdout
    assert "1 of 15 need you" in ran.stdout


def test_without_a_folder_it_says_how_one_is_made(tmp_path):
    ran = CliRunner().invoke(doctor.app, ["--dir", str(tmp_path / "none")])
    assert ran.exit_code == 2
    assert "`fl-client join KIT` makes" in ran.stderr


# Twenty-odd things that go wrong, each planted in a silo that was well.


def test_1_a_key_that_others_may_read(joined):
    joined.key.chmod(0o640)
    found = red(joined, "key")
    assert "other users of this machine may open" in found.found
    assert found.remedy == f"chmod 600 {joined.key}"


def test_2_a_folder_that_others_may_open(joined):
    joined.path.chmod(0o755)
    assert red(joined, "key").remedy == f"chmod 700 {joined.path}"


def test_3_a_key_that_is_gone(joined):
    joined.key.unlink()
    found = red(joined, "key")
    assert "there is no" in found.found
    assert "put back a copy" in found.remedy


def test_4_text_that_is_gone(joined, tmp_path):
    swap(joined.settings, f'data = "{silo.read(joined.path).data}"', f'data = "{tmp_path}/nothing"')
    found = red(joined, "text")
    assert f"no folder {tmp_path}/nothing" in found.found
    assert "folder of text files" in found.remedy


def replaced(joined: Folder, tmp_path: Path, name: str, content: bytes) -> None:
    """Let the silo's text be a folder with one file."""
    (tmp_path / "text" / "as").mkdir(parents=True)
    if name:
        (tmp_path / "text" / "as" / name).write_bytes(content)
    settings = silo.read(joined.path).model_copy(update={"data": str(tmp_path / "text")})
    silo.write_settings(joined.path, settings)


def test_5_a_folder_without_text(joined, tmp_path):
    replaced(joined, tmp_path, "", b"")
    found = red(joined, "text")
    assert "holds no text" in found.found
    assert "put txt, jsonl, csv or parquet files in it" in found.remedy


def test_6_text_that_is_not_utf_8(joined, tmp_path):
    replaced(joined, tmp_path, "old.txt", "naïve".encode("latin-1"))
    found = red(joined, "text")
    assert "old.txt is not UTF-8 near byte 2" in found.found
    assert found.remedy == "save it as UTF-8"


def test_7_too_little_text_for_its_splits(joined, tmp_path):
    replaced(joined, tmp_path, "one.jsonl", b'{"text": "x", "split": "test"}\n')
    found = red(joined, "text")
    assert "no text for its train and valid split" in found.found
    assert "add text" in found.remedy


def test_a_full_disk_does_not_end_the_doctor(joined, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(doctor.volume, "keep", full)
    monkeypatch.setattr(audit, "append", full)
    found = look(joined)
    assert found["text"].ok
    assert not found["hub"].ok and found["hub"].found == "the disk: No space left on device"


def test_7_files_that_are_no_text_are_counted(joined, tmp_path, text):
    shutil.copytree(text, tmp_path / "own")
    (tmp_path / "own" / "as" / "more.docx").write_text("not read")
    settings = silo.read(joined.path).model_copy(update={"data": str(tmp_path / "own")})
    silo.write_settings(joined.path, settings)
    found = look(joined)["text"]
    assert found.ok and found.found == "as 60 rows (780 B), 1 files of other kinds are not read"


def test_7_questions_and_answers_are_text_too(joined, tmp_path):
    rows = [
        {"prompt": "কি?", "response": f"{split} এক", "split": split}
        for split in ("train", "valid", "test")
    ]
    content = "".join(json.dumps(row) + "\n" for row in [*rows, {"messages": [], "text": "এক"}])
    replaced(joined, tmp_path, "one.jsonl", content.encode())
    assert "as 4 rows" in look(joined)["text"].found


def test_7_a_conversation_that_is_none_is_named(joined, tmp_path):
    row = {"messages": [{"role": "gpt", "content": "x"}]}
    replaced(joined, tmp_path, "one.jsonl", json.dumps(row).encode())
    found = red(joined, "text")
    assert "one.jsonl row 1: its message 1 has role='gpt'" in found.found


def test_8_text_of_no_known_language(joined, tmp_path, text):
    (tmp_path / "notes").mkdir()
    shutil.copy(text / "as" / "rows.jsonl", tmp_path / "notes")
    settings = silo.read(joined.path).model_copy(update={"data": str(tmp_path / "notes")})
    silo.write_settings(joined.path, settings)
    found = red(joined, "text")
    assert "60 rows" in found.found and "name no language" in found.found
    assert "put lang = 'as', or what it is, into silo.toml" in found.remedy
    silo.write_settings(joined.path, settings.model_copy(update={"lang": "as"}))
    assert look(joined)["text"].ok


def test_9_text_in_another_language_than_the_kit_says(joined, tmp_path, text):
    shutil.copytree(text / "as", tmp_path / "other" / "ne")
    settings = silo.read(joined.path).model_copy(update={"data": str(tmp_path / "other")})
    silo.write_settings(joined.path, settings)
    found = red(joined, "text")
    assert "holds ne" in found.found and "the kit names as" in found.found
    assert "tell the coordinator" in found.remedy


def own_base(joined: Folder, tmp_path: Path) -> Path:
    """Let the silo's base be a folder of its own."""
    base = shutil.copytree(Path(doctor.__file__).parent / "bases" / "tiny", tmp_path / "base")
    settings = silo.read(joined.path).model_copy(update={"base": str(base)})
    silo.write_settings(joined.path, settings)
    return base


def test_10_a_base_that_has_changed(joined, tmp_path):
    base = own_base(joined, tmp_path)
    with (base / "tokenizer.json").open("a") as stream:
        stream.write("\n")
    found = red(joined, "base")
    assert f"{base} has changed: its hash is" in found.found
    assert "put back the base" in found.remedy


def test_11_a_base_that_is_gone(joined, tmp_path):
    shutil.rmtree(own_base(joined, tmp_path))
    found = look(joined)
    assert "is no model folder" in found["base"].found
    assert not found["base"].ok
    assert "give a folder" in found["base"].remedy
    assert found["memory"].found.startswith("not estimated")


def dated(joined: Folder, now: datetime) -> Check:
    return files.certificate(joined.path, silo.read(joined.path), now)


def test_12_a_certificate_that_has_expired(joined):
    found = dated(joined, datetime.now(UTC) + timedelta(days=366))
    assert not found.ok
    assert "it expired on" in found.found
    assert "if the clock is right, ask the coordinator for a new kit" in found.remedy


def test_13_a_certificate_that_is_not_valid_yet(joined):
    found = dated(joined, datetime.now(UTC) - timedelta(days=3))
    assert not found.ok
    assert "not valid yet" in found.found
    assert found.remedy == "set this machine's clock"


def test_14_a_certificate_that_ends_soon(joined):
    found = dated(joined, datetime.now(UTC) + timedelta(days=360))
    assert not found.ok
    assert "it ends in 4 days" in found.found


def test_15_a_certificate_that_is_not_there(joined):
    joined.certificate.unlink()
    found = look(joined)
    assert not found["certificate"].ok and not found["hub"].ok
    assert "has not approved this silo yet" in found["certificate"].found
    assert "read its fingerprint to the coordinator" in found["certificate"].remedy


def test_16_a_certificate_of_another_federation(joined, stranger):
    _, other = stranger()
    joined.certificate.write_bytes(other.certificate.read_bytes())
    found = red(joined, "certificate")
    assert "is of another federation than 'demo'" in found.found
    assert "ask the coordinator for a new kit" in found.remedy


def test_17_a_certificate_of_another_silo_or_key(joined, at, text, tmp_path):
    from fl_client import certificates

    swap(joined.settings, f'name = "{silo.read(joined.path).name}"', 'name = "another"')
    assert "is not that of the silo 'another'" in red(joined, "certificate").found
    swap(joined.settings, 'name = "another"', f'name = "{joined.path.name}"')
    joined.key.unlink()
    certificates.save_key(joined.key, certificates.new_key())
    assert "belongs to another key" in red(joined, "certificate").found


def test_18_a_hub_that_cannot_be_reached(joined):
    address = silo.read(joined.path).address
    swap(joined.settings, f'address = "{address}"', 'address = "127.0.0.1:1"')
    found = look(joined)
    assert "127.0.0.1:1 cannot be reached" in found["hub"].found
    assert "network and firewall" in found["hub"].remedy
    assert not {"clock", "uplink"} & found.keys()


def test_19_a_hub_under_another_authority(joined, stranger):
    _, other = stranger()
    joined.root.write_bytes(other.root.read_bytes())
    found = red(joined, "hub")
    assert "does not prove that it is this federation's hub" in found.found
    assert "check address in silo.toml" in found.remedy


def test_20_a_silo_that_is_ejected(joined, at):
    roster.eject(at, silo.read(joined.path).name)
    found = red(joined, "hub")
    assert "it is ejected" in found.found
    assert found.remedy == "ask the coordinator"


@pytest.mark.parametrize(("ahead", "said"), [(7200, "2.0 h ahead of"), (-400000, "5 days behind")])
def test_21_a_clock_that_is_off(joined, monkeypatch, ahead, said):
    monkeypatch.setattr(contact, "clock", lambda folder: ahead)
    found = red(joined, "clock")
    assert said in found.found
    assert "set this machine's clock" in found.remedy


def test_22_a_disk_that_is_too_small(joined, monkeypatch):
    really = machine.look
    monkeypatch.setattr(
        machine, "look", lambda *a, **k: really(*a, **k)._replace(disk_free_bytes=300_000_000)
    )
    found = red(joined, "disk")
    assert "300 MB free of about 1." in found.found
    assert "free some" in found.remedy


def test_23_memory_that_is_too_small(joined, monkeypatch):
    really = machine.look
    monkeypatch.setattr(
        machine, "look", lambda *a, **k: really(*a, **k)._replace(free_bytes=1_000_000_000)
    )
    found = red(joined, "memory", train__length=2048)
    assert "8 x 2048 tokens a step" in found.found
    assert "ask for studies with train." in found.remedy
    assert not look(joined, train__length=4_000_000)["memory"].ok


def test_24_torch_that_is_not_installed(joined, monkeypatch):
    really = machine.installed
    monkeypatch.setattr(packages, "installed", lambda name: "" if name == "torch" else really(name))
    found = red(joined, "Torch")
    assert found.found.startswith("torch>=") and "not installed" in found.found
    assert found.remedy == "pip install 'bhasha-fl[silo]'"


def test_25_flower_of_another_version(joined, monkeypatch):
    monkeypatch.setattr(packages, "installed", lambda name: "1.52.0")
    found = red(joined, "Flower")
    assert "flwr 1.52.0 is installed and bhasha-fl speaks with flwr<1.42" in found.found
    assert found.remedy.startswith("pip install 'flwr<1.42")


def test_26_a_line_of_silo_toml_that_is_wrong(joined):
    with joined.settings.open("a") as stream:
        stream.write("treads = 4\n")
    found = look(joined)
    assert not found["silo.toml"].ok
    assert "unknown key 'treads'" in found["silo.toml"].found
    assert found["silo.toml"].remedy == "did you mean 'threads'?"
    assert "hub" not in found


def test_27_a_silo_toml_that_is_no_toml(joined):
    joined.settings.write_text("name = clinic")
    assert "cannot be read" in red(joined, "silo.toml").found


def test_28_a_policy_that_is_wrong_or_gone(joined):
    swap(joined.policy, "max_rank = 64", 'max_rank = "many"')
    assert "max_rank" in red(joined, "policy.toml").found
    joined.policy.unlink()
    assert "nothing is allowed without it" in red(joined, "policy.toml").remedy


def test_29_a_rank_over_the_policy(joined):
    found = red(joined, "policy.toml", model__rank=128)
    assert found.found == "rank 128 is over its max_rank, 64"
    assert "raise max_rank under [study], or take a lower rank" in found.remedy


def test_30_a_policy_for_another_federation(joined):
    swap(joined.policy, 'federation = "demo"', 'federation = "elsewhere"')
    found = red(joined, "policy.toml")
    assert "'elsewhere'" in found.found and "'demo'" in found.found


def test_31_a_policy_that_does_not_allow_the_pinned_base(joined):
    digest = silo.read(joined.path).base_sha256
    swap(joined.policy, digest, "0" * 64)
    found = red(joined, "policy.toml")
    assert "does not allow the base" in found.found
    assert digest in found.remedy


def test_32_a_worker_group_that_did_not_come_up(joined, monkeypatch):
    monkeypatch.setattr(doctor.children, "running", lambda folder: 4711)
    found = red(joined, "programs")
    assert "pid 4711" in found.found and "worker group is not up" in found.found
    assert "logs/workers.log" in found.remedy


def test_32_a_worker_group_that_was_killed_and_left_its_socket(joined):
    with frames.listen(frames.socket(joined.path)):
        pass
    assert frames.socket(joined.path).exists()
    with lock.only_one(joined.path):
        assert "worker group is not up" in red(joined, "programs").found


def test_32_a_worker_group_at_work_that_nobody_more_can_wait_for_is_up(joined):
    with lock.only_one(joined.path), frames.listen(frames.socket(joined.path)), ExitStack() as held:
        for _ in range(100):
            line = held.enter_context(socket.socket(socket.AF_UNIX))
            line.setblocking(False)
            if line.connect_ex(str(frames.socket(joined.path))):
                break
        else:
            raise AssertionError("its queue is not full")
        assert look(joined)["programs"].ok


def test_33_a_line_that_is_too_slow(joined, monkeypatch):
    monkeypatch.setattr(contact, "probe", lambda folder, size: 2000.0)
    found = red(joined, "uplink")
    assert "2.0 kB/s; an update of" in found.found
    assert "find a faster line" in found.remedy


def test_a_running_silo_greets_the_hub_itself(joined, at):
    with lock.only_one(joined.path), frames.listen(frames.socket(joined.path)):
        found = look(joined)
    assert found["programs"].ok and "gateway and worker group run" in found["programs"].found
    assert not seen.load(at / "seen").silos[silo.read(joined.path).name].hello
