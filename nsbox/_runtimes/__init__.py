"""The languages that nsbox knows, as data: one file each in `languages`, whose fields `Runtime` describes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nsbox._config import Runtime
from nsbox._errors import ConfigError
from nsbox._runtimes.java import class_names
from nsbox._runtimes.load import BuiltIn, load_runtime

__all__ = ["RUNTIMES", "fill_in", "find_runtime", "language_of_file", "load_runtime", "source_values"]

RUNTIMES: Mapping[str, Runtime] = BuiltIn(
    ("python", "javascript", "typescript", "go", "rust", "c", "cpp", "java", "bash")
)
"""By name."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def find_runtime(language: str | Runtime, *, field: str = "language") -> Runtime:
    """The runtime of a name, or the one given.

    Args:
        language: Either.
        field: What the caller calls it, for the error.

    Raises:
        ConfigError: There is none of that name.
    """
    if isinstance(language, Runtime):
        return language
    try:
        return RUNTIMES[language]
    except KeyError:
        raise ConfigError(f"{field}={language!r}: must be one of {', '.join(RUNTIMES)}, or a Runtime") from None


def language_of_file(name: str) -> str | None:
    """The language that the suffix of a file name stands for, None where it is nobody's."""
    for language, runtime in RUNTIMES.items():
        if any(name.endswith(suffix) and name != suffix for suffix in runtime.suffixes):
            return language
    return None


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders of a runtime's texts, once: what a value contains is no placeholder."""
    if "{" not in text:
        return text
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def source_values(runtime: Runtime, code: str) -> Mapping[str, str]:
    """What is to be replaced by something that stands in the program's text, if anything is."""
    texts = (runtime.file_name, *runtime.run, *(runtime.compile or ()))
    if not any("_class}" in text for text in texts):
        return {}
    main, public = class_names(code)
    return {"main_class": main, "public_class": public}
