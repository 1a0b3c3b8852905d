"""A silo's folder, made from a kit: its key, its settings and its policy, with the base's hash pinned.

Whatever breaks off, the same call goes on where it ended, and nothing that is there is overwritten.
"""

from __future__ import annotations

from pathlib import Path

from fl_client import certificates, kit, settings, silo
from fl_client.config import ConfigError
from fl_client.kit import Kit
from fl_client.memory import part, write_whole
from fl_client.silo import Folder, Settings

IDENTITY = ("federation", "name", "root_pem", "study_pub")


def prepare(folder: Path, given: Kit, data: str, base: str, lang: str = "") -> Settings:
    """Make what a silo's folder lacks and return its settings; raises ``ConfigError`` before it changes anything."""
    at = Folder(folder)
    _check_own(at, given)
    data = data if data == "cldr" else str(Path(data).absolute())
    base = str(Path(base).absolute()) if Path(base).exists() else base
    if at.settings.exists():
        own = silo.read(folder)
        _check_same(at, own, {"address": given.address, "data": data, "base": base, "lang": lang})
    else:
        own = _settings(given, data, base, lang)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    keep(folder, given)
    if not at.key.exists():
        certificates.save_key(at.key, certificates.new_key())
    for path, text in ((at.root, given.root_pem), (at.study_key, given.study_pub)):
        if not path.exists():
            write_whole(path, text.encode())
    if not at.policy.exists():
        from fl_client import policy

        policy.create(folder, own.base_sha256, own.federation)
    if not at.settings.exists():
        silo.create(folder, own)
    return own


def recall(folder: Path) -> Kit:
    """Return the kit that a silo's folder was made from; raises ``ConfigError`` where it is no such folder."""
    path = Folder(folder).kit
    try:
        return kit.parse(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{folder} is no silo's folder; `fl-client join KIT` makes one") from None


def keep(folder: Path, given: Kit) -> None:
    """Write the kit into a silo's folder, for this user's eyes alone."""
    certificates.write_private(Folder(folder).kit, given.model_dump_json(indent=1).encode())


def _check_own(at: Folder, given: Kit) -> None:
    silo.check_path(at.path)
    if at.path.exists() and not at.path.is_dir():
        raise ConfigError(f"{at.path} is no folder; choose another --dir")
    if at.kit.exists():
        held = recall(at.path)
        if any(getattr(held, name) != getattr(given, name) for name in IDENTITY):
            raise ConfigError(
                f"{at.path} is silo {held.name!r} of {held.federation!r} and the kit is for another,"
                f" {given.name!r} of {given.federation!r}; choose another --dir"
            )
    elif at.path.exists() and {*at.path.iterdir()} - {part(at.kit)}:
        raise ConfigError(f"{at.path} is not empty and holds no silo; choose another --dir")


def _check_same(at: Folder, own: Settings, given: dict[str, str]) -> None:
    for key, value in given.items():
        if value and getattr(own, key) != value:
            raise ConfigError(
                f"{at.settings} has {key} = {getattr(own, key)!r}, not {value!r};"
                " change it there, or choose another --dir"
            )


def _settings(given: Kit, data: str, base: str, lang: str) -> Settings:
    from fl_client import bases, corpus

    if data != "cldr" and not corpus.files(Path(data)):
        raise ConfigError(f"{data} holds no text; put txt, jsonl, csv or parquet files in it")
    if lang and not corpus.is_language(lang):
        raise ConfigError(f"--lang {lang!r} is no language code; use one such as as, or mni-Beng")
    try:
        pinned = bases.sha256(base)
    except ConfigError as error:  # which speaks of a study's settings
        said = str(error).replace(f"model.base={base!r}", f"--base {base!r}")
        raise ConfigError(said) from None
    return settings.checked(
        Settings,
        name=given.name,
        federation=given.federation,
        address=given.address,
        data=data,
        lang=lang,
        base=base,
        base_sha256=pinned,
    )
