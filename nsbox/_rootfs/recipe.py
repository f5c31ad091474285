"""Recipes of root file systems: those that come with nsbox, and the user's own TOML files.

Those that come with nsbox are the files of `rootfs/` in a checkout, which a wheel has beside this module.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nsbox._errors import ConfigError

_LARGEST = 1 << 20
_VARIANTS = ("essential", "apt", "minbase", "buildd", "important", "standard")
_EPOCH = 1_735_689_600
_WORD = re.compile(r"[a-z0-9][a-z0-9.+/-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")
"""A name by deb-control(5), its architecture, its version; nothing that apt would take for a pattern or an option."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,159}")
"""What a root may be called; `fullmatch` it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a root file system is built from.

    Attributes:
        name: That of the file.
        description: For people.
        suite: The distribution's release, by code name; "": the host's own.
        variant: The set of packages to begin with, as `mmdebstrap --variant` knows it.
        components: Of the distribution's archive.
        packages: What is installed on top, with what that depends on, and nothing that is only recommended.
        exclude: Patterns of paths that are left out, as dpkg's path-exclude takes them: "*" also matches "/".
        keep: Patterns of what is kept all the same.
        epoch: Seconds since 1970; nothing in the root is newer, so that it does not depend on the time of its building.
        files: Texts by path, written last.

    Raises:
        ConfigError: Names the field, the value and what is allowed.
    """

    name: str
    description: str = ""
    suite: str = ""
    variant: str = "essential"
    components: tuple[str, ...] = ("main",)
    packages: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    epoch: int = _EPOCH
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check("suite", self.suite, not self.suite or bool(_WORD.fullmatch(self.suite)), "a code name")
        self._check("variant", self.variant, self.variant in _VARIANTS, "one of " + ", ".join(_VARIANTS))
        for one in self.components:
            self._check("components", one, bool(_WORD.fullmatch(one)), "names such as 'main'")
        for one in self.packages:
            self._check("packages", one, bool(_PACKAGE.fullmatch(one)), "names of packages, with '=VERSION' or without")
        for field in ("exclude", "keep", "files"):
            for one in getattr(self, field):
                fits = one.startswith("/") and ".." not in one.split("/") and "\n" not in one and "\0" not in one
                self._check(field, one, fits, "absolute paths without '..'")
        self._check("epoch", self.epoch, 0 <= self.epoch < 1 << 33, "seconds since 1970")

    def _check(self, field: str, value: object, fits: bool, allowed: str) -> None:
        if not fits:
            raise ConfigError(f"recipe {self.name!r}: {field}: {value!r} must be {allowed}")

    def to_dict(self) -> dict[str, object]:
        """For the record of what was built from it."""
        return {**dataclasses.asdict(self), "files": dict(self.files)}


_TEXTS = ("description", "suite", "variant")
_LISTS = ("components", "packages", "exclude", "keep")
_FIELDS = ("base", "epoch", "files", *_TEXTS, *_LISTS)


def directory() -> Path:
    """Where the recipes are that come with nsbox."""
    beside = Path(__file__).parent / "recipes"
    return beside if beside.is_dir() else Path(__file__).parents[2] / "rootfs"


def recipe_names() -> tuple[str, ...]:
    """Those that come with nsbox."""
    return tuple(sorted(path.stem for path in directory().glob("*.toml")))


def load_recipe(text: str) -> Recipe:
    """A recipe by its name, or from a file.

    Args:
        text: A name from `recipe_names`, or the path of a TOML file: what has a "/" in it or ends in ".toml".

    Raises:
        ConfigError: There is none, it cannot be read, or a field is unknown or not what it may be.
    """
    if "/" in text or text.endswith(".toml"):
        name = Path(text).name.removesuffix(".toml")
        if not NAME.fullmatch(name):
            raise ConfigError(f"recipe {text!r}: the name of the file must be one of lower-case letters, digits, . _ -")
        return _load(name, Path(text), from_user=True)
    if text not in recipe_names():
        raise ConfigError(
            f"recipe {text!r}: must be one of {', '.join(recipe_names())}, or the path of a TOML file"
            f" (such as ./{text}.toml)"
        )
    return _load(text, directory() / f"{text}.toml", from_user=False)


def _load(name: str, path: Path, *, from_user: bool) -> Recipe:
    document = _read(path)
    known = {key: document.pop(key) for key in _FIELDS if key in document}
    if document:
        raise ConfigError(
            f"recipe {str(path)!r}: {min(document)!r} is no field of a recipe; it has {', '.join(_FIELDS)}"
        )
    base = known.pop("base", None)
    fields: dict[str, Any] = {}
    if base is not None:
        if not isinstance(base, str) or base not in recipe_names() or (base == name and not from_user):
            raise ConfigError(f"recipe {str(path)!r}: base: {base!r} must be one of {', '.join(recipe_names())}")
        below = load_recipe(base)
        fields = {one: getattr(below, one) for one in ("suite", "variant", "epoch", "files", *_LISTS)}
    for key, value in known.items():
        _check_type(path, key, value)
        if key == "files":
            fields[key] = {**fields.get(key, {}), **value}
        elif key in _LISTS:
            fields[key] = tuple(dict.fromkeys((*fields.get(key, ()), *value)))
        else:
            fields[key] = value
    return Recipe(name=name, **fields)


def _check_type(path: Path, key: str, value: object) -> None:
    texts = (
        [value]
        if key in _TEXTS
        else [*value]
        if key in _LISTS and isinstance(value, list)
        else [*value.values()]
        if key == "files" and isinstance(value, dict)
        else None
    )
    fits = type(value) is int if key == "epoch" else texts is not None and all(isinstance(one, str) for one in texts)
    if not fits:
        kind = {"epoch": "an integer", "files": "a table of texts"}.get(key, "a text" if key in _TEXTS else "texts")
        raise ConfigError(f"recipe {str(path)!r}: {key} must be {kind}, not {value!r}")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ConfigError(f"recipe {str(path)!r}: must be at most {_LARGEST} bytes")
        return tomllib.loads(content.decode())
    except OSError as exc:
        raise ConfigError(f"recipe {str(path)!r}: cannot be read ({exc.strerror})") from exc
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"recipe {str(path)!r}: {exc}") from exc
