"""A silo's round, one of whose ranks is killed in the middle."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import psutil
from safetensors.numpy import load_file

from fl_client import bases, frames, parcels, silo, site
from fl_client.config import Study, from_flat
from fl_client.messages import TOKENS, Order
from fl_client.site import Place
from fl_client.workers import Job, Kind, Result
from strategies import adapter as algebra
from strategies import scope

CHECKPOINT_S = 2.0


def silo_of(folder: Path, steps: int) -> Job:
    """Make a silo's folder with text of the built-in corpus; return a job of it without a start."""
    own = site.simulated(Study())[0]
    rows = [e for split in site.SPLITS for e in getattr(own, split)]
    (folder / "text").mkdir()
    text = "".join(json.dumps({"text": e.text, "lang": e.lang}) + "\n" for e in rows)
    (folder / "text" / "all.jsonl").write_text(text)
    changes = {"data": str(folder / "text"), "threads": 1, "checkpoint_s": CHECKPOINT_S}
    known = {"name": "clinic", "federation": "figures", "address": "hub.example.org:8443"}
    pinned = {"base": "builtin:tiny", "base_sha256": bases.sha256("builtin:tiny")}
    silo.create(folder, silo.Settings(**known, **changes, **pinned))
    study = from_flat({"train.steps": steps, "train.dtype": "float32", "rounds": 2})
    order = Order(scripts=scope.scripts(e.lang for e in own.train))
    return Job(study, Place(silo=str(folder)), order, {})


def answered(folder: Path, kind: Kind, job: Job) -> Result:
    """Return what a silo's group makes of a job, with the arrays that it put into the outbox."""
    found = frames.call(frames.socket(folder), kind, job)
    if found.parcel is None:
        return found
    return found._replace(arrays=parcels.read(folder / parcels.OUTBOX, found.parcel))


def started(job: Job) -> Job:
    """Return the job with the start that the silo's own group makes."""
    start = answered(Path(job.place.silo), "initial", job).arrays
    start.pop(TOKENS, None)
    return job._replace(order=job.order._replace(start_sha256=algebra.sha256(start)))


def killed(folder: Path, job: Job, group: int, steps: int) -> tuple[Result, dict[str, float]]:
    """Return the result of a round whose second rank is killed after half of its steps, and what that cost."""
    notes: dict[str, float] = {}
    began = time.time()

    def kill() -> None:
        while True:
            held = list(folder.glob("studies/*/steps/round.safetensors"))
            if held and len(load_file(held[0])["losses"]) >= steps // 3:
                notes["step_s"] = (held[0].stat().st_mtime - began) / len(
                    load_file(held[0])["losses"]
                )
                time.sleep(CHECKPOINT_S / 2)
                notes["again_s"] = time.time() - held[0].stat().st_mtime
                ranks = [
                    p for p in psutil.Process(group).children() if "fl_client.rank" in p.cmdline()
                ]
                max(ranks, key=lambda p: p.pid).kill()
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    found = answered(folder, "fit", job)
    watcher.join(timeout=1)
    if "again_s" not in notes:
        raise SystemExit("the round ended before a rank could be killed; give more --steps")
    notes["lost_s"] = time.time() - began - steps * notes["step_s"]
    return found, notes


def same(left: Result, right: Result) -> bool:
    """Return whether two updates hold the same bytes."""
    return all(left.arrays[n].tobytes() == x.tobytes() for n, x in right.arrays.items())
