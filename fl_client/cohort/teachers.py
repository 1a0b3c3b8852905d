"""The teachers of several silos at once: each silo's teachers of the same number stand in a buffer of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fl_client import model
from fl_client.cohort import buffers
from fl_client.cohort.buffers import Buffers
from fl_client.cohort.loss import Taught
from fl_client.cohort.reader import Reader
from fl_client.model import Warm
from fl_client.tries import Lesson


def of(made: Warm, lessons: Sequence[Lesson]) -> list[Buffers]:
    """Return the first teachers of all silos, the second of all, and so on; each silo has as many."""
    found = []
    for adapters in zip(*(lesson.teachers for lesson in lessons), strict=True):
        held = buffers.make(made, len(adapters))
        for row, adapter in enumerate(adapters):
            model.write(held.of(made, row), adapter)
        found.append(held)
    return found


@torch.no_grad()
def taught(
    reader: Reader, held: Sequence[Buffers], lessons: Sequence[Lesson], ids: torch.Tensor
) -> Taught | None:
    """Return what the teachers of the first silos make of their batch, None without any. The model wears the last's."""
    if not held:
        return None
    shares = torch.tensor([lesson.share for lesson in lessons], device=ids.device)
    found = Taught(shares, [], [])
    for teachers in held:
        found.rows.append(reader.wear(teachers, len(lessons)).rows)
        found.hidden.append(reader.hidden(ids))
    return found
