"""JUnit for a test that could not even start. Needs no package but Python's own."""

from __future__ import annotations

from xml.etree import ElementTree

from dsmops.errors import DsmopsError


def error_xml(exc: DsmopsError) -> str:
    """Return a JUnit test suite with one case, which is the error."""
    suite = ElementTree.Element(
        "testsuite", name="dsmops.smoke-test", tests="1", failures="0", errors="1", skipped="0"
    )
    case = ElementTree.SubElement(suite, "testcase", classname="server", name="start", time="0")
    error = ElementTree.SubElement(case, "error", message=xml_text(exc.message), type=exc.code)
    error.text = xml_text(exc.hint)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def xml_text(text: str) -> str:
    """Return `text` without the control characters that XML cannot hold."""
    return "".join(
        char
        if char in "\n\t" or (char.isprintable() and not "\ud800" <= char <= "\udfff")
        else "\ufffd"
        for char in text
    )
