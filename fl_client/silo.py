"""A silo's folder: what lies where, and ``silo.toml``, the settings that the silo's own people edit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple
from unicodedata import category

from pydantic import AfterValidator, Field

from fl_client import settings as files
from fl_client.address import Public
from fl_client.config import ConfigError, Section
from fl_client.hours import Written

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ConfigError(f"{text!r} is no name for a silo; use a-z, 0-9 and -, at most 40")
    return text


def _federation(text: str) -> str:
    # In any script; no quotes, so that it is the same text in every file.
    allowed = (c.isalnum() or c in " ._-" or category(c).startswith("M") for c in text)
    if not (text[:1].isalnum() and len(text) <= 60 and all(allowed)):
        raise ConfigError(
            f"{text!r} is no name for a federation; use letters, digits, spaces and . _ - (at most 60)"
        )
    return text


def _lang(text: str) -> str:
    from fl_client import corpus

    if text and not corpus.is_language(text):
        raise ConfigError(f"{text!r} is no language code; use one such as as, or mni-Beng")
    return text


Name = Annotated[str, AfterValidator(_name)]
Federation = Annotated[str, AfterValidator(_federation)]
Lang = Annotated[str, AfterValidator(_lang)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Settings(Section):
    """The settings of this silo. Change them here; they hold from the next `fl-client start` on."""

    name: Name = Field(description="The silo's name on the hub's roster.")
    federation: Federation = Field(description="The federation it belongs to.")
    address: Public = Field(description="Where the hub is reached, host:port.")
    data: str = Field(
        min_length=1, description="The folder of text. It is read in place and never leaves."
    )
    lang: Lang = Field(
        "", description="The language of text that names none; empty if files and folders say it."
    )
    base: str = Field(
        min_length=1,
        description="The base model: a folder, a GGUF file, a hub name or builtin:tiny. A study"
        " never chooses it.",
    )
    base_sha256: Sha256 = Field(description="The hash of that base when this silo joined.")
    rank: int = Field(
        0,
        ge=0,
        le=1024,
        description="The most LoRA rank to train, for studies that mix ranks; 0 takes the study's.",
    )
    processes: str = Field(
        "auto",
        pattern=r"^(auto|[1-9][0-9]{0,3})$",
        description="Worker processes on this machine: auto is one for each GPU, or one on a CPU.",
    )
    threads: int = Field(0, ge=0, description="CPU threads of each process; 0 shares the cores.")
    nnodes: int = Field(1, ge=1, description="Machines that train together as this silo.")
    rdzv_endpoint: str = Field(
        "", description="Where these machines meet, host:port; empty for one machine."
    )
    checkpoint_s: float = Field(
        30,
        gt=0,
        allow_inf_nan=False,
        description="Seconds between step checkpoints: the most work that a power cut can cost.",
    )
    gateway_port: int = Field(
        0, ge=0, le=65535, description="The gateway's port on loopback; 0 takes a free one."
    )
    round_megabytes: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="The most megabytes of an update, for each round; 0 sends what the study's codec"
        " makes. Where the study leaves it to silos, as topk(0.05, least=0.01) does, less is sent.",
    )
    update_hours: Written = Field(
        "",
        description="The hours in which updates are sent, by this machine's clock, as 22:00-06:00;"
        " empty for all. The few bytes that keep the silo in touch are sent at any time.",
    )
    uplink_bytes_s: int = Field(
        0, ge=0, description="Bytes a second to the hub as `fl-client doctor` measured; 0: unknown."
    )

    @property
    def round_bytes(self) -> int:
        """Return the most bytes of an update in a round, 0 for no limit."""
        return int(1e6 * self.round_megabytes)


class Folder(NamedTuple):
    """Where each thing lies in a silo's folder."""

    path: Path

    @property
    def settings(self) -> Path:
        """Return the silo's settings."""
        return self.path / "silo.toml"

    @property
    def policy(self) -> Path:
        """Return what may leave."""
        return self.path / "policy.toml"

    @property
    def key(self) -> Path:
        """Return the private key; it was made here and stays here."""
        return self.path / "silo.key"

    @property
    def certificate(self) -> Path:
        """Return the certificate with its chain; there once the coordinator has approved."""
        return self.path / "silo.pem"

    @property
    def root(self) -> Path:
        """Return the federation's root certificate."""
        return self.path / "ca.pem"

    @property
    def study_key(self) -> Path:
        """Return the public key with which the hub's studies are checked."""
        return self.path / "hub_study.pub"

    @property
    def kit(self) -> Path:
        """Return what was in the kit; its token goes once it has served."""
        return self.path / "kit.json"


def read(folder: Path) -> Settings:
    """Return a silo's settings; raises ``ConfigError``."""
    return files.read(
        Folder(folder).settings, Settings, "`fl-client join KIT` makes a silo's folder"
    )


def check_path(folder: Path) -> None:
    """Raise ``ConfigError`` where Flower, which is told a silo's folder, would read another one."""
    path = str(folder.absolute())
    wrong = sorted({c for c in path if c in '"\\' or (category(c) in {"Cc", "Cs"} and c != "\t")})
    if wrong:
        raise ConfigError(
            f"{path!r} cannot be a silo's folder: Flower reads no path with {', '.join(map(repr, wrong))};"
            " move it, or choose another --dir"
        )


def create(folder: Path, settings: Settings) -> None:
    """Write ``silo.toml`` with a comment for each key; raises ``ConfigError`` where there is one."""
    files.create(Folder(folder).settings, settings)


def write_settings(folder: Path, settings: Settings) -> None:
    """Bring ``silo.toml`` to these settings; lines and comments that do not change stay as they are."""
    files.change(Folder(folder).settings, settings)
