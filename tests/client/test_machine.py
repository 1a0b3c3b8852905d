"""What a machine says of itself: numbers and versions that are true here, and nothing that names a person or a path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from fl_client import machine
from fl_client.machine import Gpu, Machine
from fl_server.gateway.desk import Hello

HERE = Machine("0.1.0", "1.41.0", "2.6.0+cpu", "3.11.7", 4, 16 << 30, 8 << 30, 1 << 40)


@pytest.fixture
def answers(monkeypatch):
    """Let what looks at GPUs answer with a text, or fail."""

    def answer(text: str | Exception) -> None:
        def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
            if isinstance(text, Exception):
                raise text
            return subprocess.CompletedProcess([], 0, stdout=text)

        monkeypatch.setattr(machine.subprocess, "run", run)

    return answer


def test_a_machine_is_described_by_what_is_true_here(tmp_path):
    seen = machine.look(tmp_path)
    assert seen.flower == version("flwr")
    assert seen.torch == version("torch")
    assert seen.python == sys.version.split()[0]
    assert 1 <= seen.cpus <= (os.cpu_count() or 1)
    assert 0 < seen.free_bytes <= seen.memory_bytes <= psutil.virtual_memory().total
    assert seen.disk_free_bytes == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.05)
    assert seen.gpus == ()


@pytest.mark.parametrize(
    ("told", "short"),
    [
        ("flags\t\t: fpu avx2\nflags\t\t: fpu avx2\n", False),
        ("flags\t\t: fpu avx512_bf16\nbugs\t: none\nflags\t\t: fpu avx512_bf16\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("flags\t\t: fpu avx512_bf16\nflags\t\t: fpu\n", False),  # not on every core
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
        (None, False),
    ],
)
def test_a_processor_multiplies_bfloat16_where_all_its_cores_say_so(told, short, monkeypatch):
    def read(path):
        if told is None:
            raise FileNotFoundError(path)
        return told

    monkeypatch.setattr(Path, "read_text", read)
    machine.multiplies_bfloat16.cache_clear()
    try:
        assert machine.multiplies_bfloat16() is short
    finally:
        machine.multiplies_bfloat16.cache_clear()


def test_looking_imports_no_torch():
    code = "import sys; from pathlib import Path; from fl_client import machine; machine.look(Path('.')); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_program_that_looks_at_gpus_sees_what_torch_sees():
    torch = pytest.importorskip("torch")
    assert len(machine.gpus_seen()) == torch.cuda.device_count()


def test_gpus_are_read_from_the_last_line_that_the_program_prints(answers):
    row = json.dumps([{"name": "H200" * 20, "memory_bytes": 5}])
    answers(f"a warning\n{row}\n")
    assert machine.gpus_seen() == (Gpu(("H200" * 20)[:40], 5),)


@pytest.mark.parametrize(
    "answer", ["", "nonsense\n", subprocess.TimeoutExpired("x", 1), OSError(), "[{]"]
)
def test_where_torch_does_not_start_no_gpu_is_seen(answers, answer):
    answers(answer)
    assert machine.gpus_seen() == ()


def test_without_torch_nothing_is_started(answers, monkeypatch):
    answers(AssertionError("started"))
    monkeypatch.setattr(machine, "installed", lambda package: "")
    assert machine.gpus_seen() == ()


def test_a_package_that_is_not_there_has_no_version():
    assert machine.installed("no-such-package-as-this") == ""


@pytest.mark.parametrize(
    ("content", "limit"), [("1000\n", 1000), ("max\n", 5000), ("9000\n", 5000)]
)
def test_a_container_that_allows_less_memory_counts(tmp_path, monkeypatch, content, limit):
    (tmp_path / "memory.max").write_text(content)
    monkeypatch.setattr(machine, "CGROUPS", (str(tmp_path / "none"), str(tmp_path / "memory.max")))
    assert machine.limited(5000) == limit


def test_memory_is_known_without_psutil(monkeypatch):
    known, _ = machine.memory()
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert machine.memory()[0] == pytest.approx(known, rel=0.05)


def test_a_greeting_is_what_a_hub_accepts_and_nothing_is_lost_on_the_way():
    seen = HERE._replace(gpus=(Gpu("A", 80 << 30), Gpu("B", 24 << 30)))
    said = machine.greeting(seen, 1.5e6, {"mni-Beng": {"rows": 3, "bytes": 99}})
    told = Hello.model_validate_json(json.dumps(said))
    assert told.model_dump(exclude_defaults=True) == said
    assert said["gpus"] == 2
    assert said["gpu_memory_bytes"] == 24 << 30


def test_a_greeting_of_this_machine_is_accepted(tmp_path):
    said = machine.greeting(machine.look(tmp_path))
    assert Hello.model_validate_json(json.dumps(said)).cpus == machine.cpus()


def test_a_greeting_names_no_path_and_no_user(tmp_path):
    said = json.dumps(machine.greeting(machine.look(tmp_path), 5.0))
    assert str(tmp_path) not in said
    assert str(Path.home()) not in said


def test_what_is_not_known_is_left_out_of_a_greeting():
    bare = HERE._replace(version="", cpus=0)
    assert set(machine.greeting(bare)) == {"flower", "memory_bytes"}
