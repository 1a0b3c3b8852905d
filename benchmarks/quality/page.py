"""The tables of all splits as one page of Markdown, ``benchmarks/quality/README.md``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.quality.splits import ADAPTING

HEAD = """# Who gains by joining

Test bits per byte against every silo training alone: tuned (each silo its own rate of the same ones), early stopped.
`mean`, `worst` and `least` are of what all trained together in the same number of steps; `as served` counts what silos
trained on from there, too. Rates of methods are chosen on validation text with the first seed; the method whose figures
stand in `make figures` is the one that served best on test text. Text of `shared/data`, base `builtin:tiny`. Per cent;
above 0 is better than alone; +- is the 95 % interval over seeds.
`capacity` is against silos alone with as many parameters. `worst` compares the silos with most bits, `least` is the
smallest gain of any silo. Where a table names silos that are counted, these four and `as served` are of them alone.
`share` is how much the adapters together have of what one model of all text in one place gains over the base, languages
counting alike. A goal holds where all of the interval meets it; one that the mean alone meets is `not sure`.
`worse` counts silos whose served adapter is worse on test text than alone (0.1 % or more).
What a silo serves is the best on validation text among base, alone, together, what it trained on from there at home
(`alone.adapt`, `alone.distil`), and blends; it leaves alone only for a sure lead (`alone.errors`).
Written by the commands below each title; a cut-short one goes on where it stood.
"""
OLDER = """From before silos trained on at home and left alone only for a sure lead: `as served` and `worse` are of the
best on validation text among base, alone, together and a blend of these two. The other columns hold.
"""
UNDISTILLED = "Nothing was distilled (`alone.distil`) for `as served` and `worse`.\n"
FIGURES = {
    "codecs": "what fewer bytes cost six silos of two languages",
    "newcomer": "what silos that come after the study get at once",
    "control": "what of a silo's gain needs nobody else (without an interval: of the first seed)",
    "control-across": "the same where each silo has a language of its own",
} | {
    f"{split}-edges": f"what {split} would be with silos alone at rates beyond those tried"
    for split in ADAPTING
}
COLUMNS = (
    "method",
    "rate",
    "mean",
    "worst",
    "least",
    "as served",
    "capacity",
    "share",
    "worse",
    "MB up",
)


def write(tables: Path) -> None:
    """Write the page beside the folder of tables, with the figures that are of no split below them."""
    parts = [HEAD]
    for path in sorted(tables.glob("*.json"), key=lambda table: table.stem):
        parts.append(section(path.stem, json.loads(path.read_text("utf-8"))))
    held = figures.held("quality")
    for name, about in FIGURES.items():
        command = f"python -m benchmarks.quality {name}"
        rows = [
            (row["figure"].replace("|", "\\|"), f"{row['value']} {row['unit']}", row["goal"] or "")
            for row in held
            if row["command"] == command
        ]
        if not rows:
            continue
        lines = [f"## {name}: {about}", "", f"`{command}`", ""]
        parts.append("\n".join([*lines, *_rows(("figure", "value", "goal"), rows), ""]))
    (tables.parent / "README.md").write_text("\n".join(parts), encoding="utf-8")


def section(name: str, table: dict[str, Any]) -> str:
    """Return the part of the page about one split."""
    lines = [
        f"## {name}: {table['about']}",
        "",
        f"`{table['command']}`, seeds {table['seeds']}",
        "",
    ]
    if not table.get("adapts"):
        lines.append(OLDER)
    elif not table.get("distils"):
        lines.append(UNDISTILLED)
    if table.get("settings"):
        lines += [
            ", ".join(f"`alone.{key} = {x!r}`" for key, x in table["settings"].items()) + ".",
            "",
        ]
    lines += [f"Counted: {', '.join(table['counted'])}.", ""] if table.get("counted") else []
    lines += _rows(COLUMNS, [_method(n, row) for n, row in table["methods"].items()])
    silos = [
        (silo, f"{own['before']:.3f}", f"{own['alone']:.3f}", *_by_silo(silo, table))
        for silo, own in table["silos"].items()
    ]
    heads = [head for name, row in table["methods"].items() for head in _heads(name, row)]
    lines += ["", *_rows(("silo", "base", "alone", *heads), silos)]
    spoken = table["centralised"]["languages"]
    pooled = ", ".join(f"{lang} {bits:.3f}" for lang, bits in spoken.items())
    return "\n".join(
        [*lines, "", f"Centralised (rate {table['centralised']['rate']:g}): {pooled}.", ""]
    )


def _method(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    together = row["together"]
    rate = f"{row['rate']:g}" + (" (edge)" if row["edge"] else "")
    cells = (
        *(together[kind] for kind in ("mean", "worst silo", "least")),
        row["served"]["mean"],
        row["same capacity"]["mean"],
    )
    up = row["bytes"]["up"] / 1e6
    rest = (f"{row['share']:.0f}", f"{row['worse as served']:.1f}", f"{up:.0f}")
    return (f"`{name}`", rate, *map(_told, cells), *rest)


def _heads(method: str, row: dict[str, Any]) -> list[str]:
    return [method, "as served"] if "served by silo" in row else [method]


def _by_silo(silo: str, table: dict[str, Any]) -> list[str]:
    rows = table["methods"].values()
    kinds = ("by silo", "served by silo")  # older tables tell the first alone
    return [_told(row[kind][silo]) for row in rows for kind in kinds if kind in row]


def _told(held: dict[str, Any]) -> str:
    half = f" +- {held['half']:.1f}" if held["half"] is not None else ""
    return f"{held['mean']:+.1f}{half}"


def _rows(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]
