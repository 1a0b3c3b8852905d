"""The built-in corpus ``cldr``: names and formatted values of the Unicode CLDR, as Babel carries them.

Real text in eight low-resource languages that comes by pip: names of languages, places, scripts, currencies and
time zones, and dates, amounts, measures and spans of time as these languages write them, each paired with English.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_timedelta
from babel.localedata import locale_identifiers
from babel.numbers import format_currency
from babel.units import format_unit

SCRIPTS = {
    "as": "BENGALI",
    "brx": "DEVANAGARI",
    "kok": "DEVANAGARI",
    "ks": "ARABIC",
    "mai": "DEVANAGARI",
    "ne": "DEVANAGARI",
    "or": "ORIYA",
    "sat": "OL CHIKI",
}
LANGUAGES = tuple(SCRIPTS)
NAMES = ("languages", "territories", "scripts", "variants", "currencies")
AMOUNTS = (1, 2, 5, 25, 300)
DAYS = tuple(date(2024, 1, 1) + timedelta(days=n) for n in range(366))
SPANS = tuple(timedelta(days=n) for n in (1, 2, 6, 14, 45, 200, 900))
OWN_SCRIPT = 0.6  # of the letters: what CLDR leaves in Latin letters is dropped

Row = dict[str, Any]


def rows() -> Iterator[Row]:
    """Yield rows with ``text``, ``lang``, ``en`` and ``source``, in a fixed order."""
    english = Locale.parse("en")
    for lang in LANGUAGES:
        seen: set[str] = set()
        for source, text, given in _pairs(Locale.parse(lang), english):
            text = unicodedata.normalize("NFC", text)
            if text not in seen and _own(text, SCRIPTS[lang]):
                seen.add(text)
                yield {"text": text, "lang": lang, "en": given, "source": f"cldr-{source}"}


def _pairs(own: Locale, english: Locale) -> Iterator[tuple[str, str, str]]:
    for source in NAMES:
        yield from _names(source, own, english)
    for zone, names in sorted(own.time_zones.items()):
        given = english.time_zones.get(zone, {}).get("city")
        if "city" in names:
            yield "places", names["city"], given or zone.rpartition("/")[2].replace("_", " ")
    yield from _locales(own, english)
    for day in DAYS:
        for form in ("full", "long"):
            yield "dates", format_date(day, form, own), format_date(day, form, english)
    for span in SPANS:
        yield (
            "spans",
            format_timedelta(span, add_direction=True, threshold=1.2, locale=own),
            format_timedelta(span, add_direction=True, threshold=1.2, locale=english),
        )
    yield from _values(own, english)


def _names(source: str, own: Locale, english: Locale) -> Iterator[tuple[str, str, str]]:
    theirs = getattr(english, source)
    for code, name in sorted(getattr(own, source).items()):
        if code in theirs:
            yield source, name, theirs[code]


def _locales(own: Locale, english: Locale) -> Iterator[tuple[str, str, str]]:
    """Names such as "Nepali (India)": a language, and where or in which script it is written."""
    for identifier in sorted(locale_identifiers()):
        try:
            named = Locale.parse(identifier)
        except (UnknownLocaleError, ValueError):
            continue
        text, given = named.get_display_name(own), named.get_display_name(english)
        if "_" in identifier and text and given:
            yield "locales", text, given


def _values(own: Locale, english: Locale) -> Iterator[tuple[str, str, str]]:
    for unit in sorted(own.unit_display_names):
        for amount in AMOUNTS:
            try:
                pair = (
                    format_unit(amount, unit, "long", locale=own),
                    format_unit(amount, unit, "long", locale=english),
                )
            except ValueError:  # a unit that one of the two languages does not have
                continue
            yield "measures", *pair
    for code in sorted(own.currencies):
        for amount in AMOUNTS[::2]:
            yield (
                "amounts",
                format_currency(amount, code, locale=own, format_type="name"),
                format_currency(amount, code, locale=english, format_type="name"),
            )


def _own(text: str, script: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    mine = sum(unicodedata.name(c, "").startswith(script) for c in letters)
    return bool(letters) and mine >= OWN_SCRIPT * len(letters)
