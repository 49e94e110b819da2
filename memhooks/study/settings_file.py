"""`study.toml`: every setting of a study, one a line, with what it means."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

from memhooks.errors import InputError, in_short
from memhooks.study.settings import Settings
from memhooks.writing import whole_file

_HEAD = "# The settings of a memhooks study: `memhooks study --settings THIS_FILE --out NEW_FOLDER` runs it again.\n"


def load_settings(path: Path) -> dict[str, object]:
    """The settings that a file gives; the others keep their defaults.

    Raises:
        InputError: the file is missing or not TOML, or it names a setting that there is not.
    """
    try:
        given = tomllib.loads(path.read_text("utf8"))
    except FileNotFoundError as error:
        raise InputError(f"no settings file at {path}; `memhooks study --write-settings {path}` writes one") from error
    except (OSError, ValueError) as error:  # TOML and UTF-8 errors are ValueErrors
        raise InputError(f"{path} cannot be read as TOML ({in_short(error)})") from error
    check_names(given, str(path))
    return given


def check_names(given: Mapping[str, object], source: str) -> None:
    """Refuse settings that there are not, naming the nearest that there is.

    Raises:
        InputError: as said.
    """
    known = [one.name for one in fields(Settings)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"{source} has no setting {name!r} that a study knows; {hint}")


def save_settings(settings: Settings, path: Path) -> None:
    """Write every setting with its meaning, whole or not at all."""
    values = asdict(settings)
    lines = [f"# {one.metadata['about']}\n{one.name} = {_toml(values[one.name])}\n" for one in fields(Settings)]
    with whole_file(path) as partial:
        partial.write_text(_HEAD + "\n" + "\n".join(lines), "utf8")


def _toml(value: object) -> str:
    # Texts and numbers are written alike in both, but for the exponent of a float, which repr has.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)
