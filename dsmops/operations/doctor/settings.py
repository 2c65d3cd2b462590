"""The user's settings: where each comes from."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops import user_settings
from dsmops.errors import DsmopsError
from dsmops.findings import Severity
from dsmops.operations.doctor.findings import DoctorFinding, finding, ok
from dsmops.operations.doctor.site import Site
from dsmops.units import counted


def settings(_site: Site) -> Iterator[DoctorFinding]:
    """Report the settings that are not defaults. Keys are named and not shown."""
    file = user_settings.settings_file()
    try:
        user_settings.apply()
    except DsmopsError as exc:
        yield finding("settings-unusable", Severity.ERROR, exc.message, fix=exc.hint)
        return
    found = user_settings.sources()
    where = f"your settings are in {file}" if file.exists() else f"no settings in {file}"
    yield ok("settings", f"{where}; {counted(len(found), 'value')} set", *map(_shown, found))


def _shown(source: user_settings.Source) -> str:
    variable = user_settings.KEYS[source.key]
    value = "is set" if variable == user_settings.API_KEY else f"= {source.value}"
    place = variable if source.line is None else f"line {source.line}"
    return f"{source.key} {value} ({place})"
