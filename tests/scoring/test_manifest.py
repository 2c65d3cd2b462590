"""Lists of recordings in every form that is read, and every mistake that is reported."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import DsmopsError, InputError, SourceError
from dsmops.scoring import Utterance, read_manifest
from dsmops.scoring.corpus import TEXT_COLUMNS


def manifest(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a list beside two recordings, of which only the presence matters here."""
    (folder / "sub").mkdir(exist_ok=True)
    for audio in ("a.wav", "sub/b c.wav"):
        (folder / audio).touch()
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "m.jsonl",
            '{"audio": "a.wav", "text": "one, \\"two\\""}\n{"audio": "sub/b c.wav", "text": ""}\n',
        ),
        (
            "m.json",
            (
                '{"duration": 1.5, "audio": "a.wav", "offset": null, "text": "one,'
                ' \\"two\\""}\n\n{"audio": "sub/b c.wav", "text": ""}'
            ),
        ),
        ("m.csv", 'id,path,sentence\r\n1,a.wav,"one, ""two"""\r\n2,sub/b c.wav,\r\n'),
        ("m.CSV", '\nfile_name,transcription\na.wav,"one, ""two"""\n\nsub/b c.wav,""\n'),
        ("m.tsv", 'path\tsentence\tup_votes\na.wav\tone, "two"\t2\nsub/b c.wav\t\t0\n'),
        ("m.txt", 'a.wav\tone, "two"\nsub/b c.wav\t\n'),
        ("list", '\ufeffa.wav\tone, "two"\r\n\r\nsub/b c.wav\t\r\n'),
    ],
)
def test_each_form_gives_the_same_utterances(tmp_path: Path, name: str, content: str) -> None:
    """JSON Lines, CSV, TSV with names and without: paths count from the list's folder; empty lines,
    a BOM and CRLF do not matter.
    """
    corpus = read_manifest(manifest(tmp_path, name, content))
    assert corpus.count == 2
    assert list(corpus.utterances) == [
        Utterance("a.wav", tmp_path / "a.wav", 'one, "two"'),
        Utterance("sub/b c.wav", tmp_path / "sub/b c.wav", ""),
    ]


def test_absolute_paths_stay(tmp_path: Path) -> None:
    """A full path is not put below the list's folder."""
    path = manifest(tmp_path, "sub-list", f"{tmp_path}/a.wav\tx\n")
    assert [utterance.audio for utterance in read_manifest(path).utterances] == [tmp_path / "a.wav"]


@pytest.mark.parametrize("first", range(len(TEXT_COLUMNS)))
def test_the_first_reference_column_counts(tmp_path: Path, first: int) -> None:
    """Of text, sentence, normalized_text, transcript and transcription, in whatever order they
    stand.
    """
    columns = list(reversed(TEXT_COLUMNS[first:]))
    path = manifest(
        tmp_path,
        "m.csv",
        f"audio,{','.join(columns)}\na.wav,{','.join(f'in {column}' for column in columns)}\n",
    )
    assert [utterance.reference for utterance in read_manifest(path).utterances] == [
        f"in {TEXT_COLUMNS[first]}"
    ]


def test_line_separators_inside_json_are_text(tmp_path: Path) -> None:
    """U+2028 and a vertical tab do not end a line, as they would for `str.splitlines`."""
    path = manifest(tmp_path, "m.jsonl", '{"audio": "a.wav", "text": "one\u2028two"}\n')
    assert [utterance.reference for utterance in read_manifest(path).utterances] == ["one\u2028two"]


GOOD = '{"audio": "a.wav", "text": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.jsonl", GOOD + '{"audio": "a.wav", "text": "x"\n', "line 2: no JSON: "),
        ("m.jsonl", GOOD + "\n[1]\n", "line 3: no JSON object"),
        (
            "m.jsonl",
            '{"text": "x"}\n',
            "line 1: no path under any of audio, audio_filepath, path, file_name",
        ),
        ("m.jsonl", GOOD + '{"audio": "a.wav"}\n', "line 2: no reference"),
        ("m.jsonl", '{"audio": "a.wav", "text": 21}\n', "line 1: its text is 21"),
        (
            "m.jsonl",
            '{"audio": "a.wav", "text": null, "sentence": "x"}\n',
            "line 1: its text is None",
        ),
        ("m.jsonl", '{"audio": 5, "text": "x"}\n', "line 1: its audio is 5"),
        ("m.jsonl", '{"audio": " ", "text": "x"}\n', "line 1: its audio is ' '"),
        ("m.jsonl", '{"audio": "a\\u0000.wav", "text": "x"}\n', "line 1: its audio is "),
        ("m.jsonl", '{"audio": "\\ud800.wav", "text": "x"}\n', "line 1: its audio is "),
        (
            "m.jsonl",
            '{"audio": "a.wav", "text": "x", "offset": "late"}\n',
            "line 1: its offset is 'late', and seconds were expected",
        ),
        (
            "m.jsonl",
            '[{"audio": "a.wav", "text": "x"}]\n',
            "line 1: neither a JSON object nor columns",
        ),
        (
            "m.jsonl",
            GOOD.encode() + b'{"audio": "a.wav", "text": "\xff"}\n',
            "line 2: not UTF-8 at byte 29",
        ),
        ("m.jsonl", "{" + '"a":{' * 100_000 + "\n", "line 1: no JSON: "),
        (
            "m.csv",
            "a.wav,hello\n",
            "line 1: none of its columns is called audio or audio_filepath or path or file_name",
        ),
        ("m.csv", "audio,words\na.wav,hello\n", "line 1: none of its columns is called text or "),
        ("m.csv", "audio,text\na.wav,one, two\n", "line 2: 3 columns where there are 2"),
        ("m.csv", 'audio,text\n\na.wav,"one\nand\nmore', "line 3: no CSV: "),
        ("m.csv", "audio,text\n", "has column names and no lines below them"),
        ("m.tsv", "path\twords\na.wav\tone\n", "line 1: none of its columns is called text or "),
        ("m.txt", "a.wav\tone\na.wav two\n", "line 2: 1 columns where there are 2"),
        ("m.txt", "a.wav one\n", "line 1: neither a JSON object nor columns"),
        ("m.txt", b"RIFF\0\0\0\0WAVE", "line 1: a NUL character"),
        ("m.txt", "", "has no lines"),
        ("m.txt", "\ufeff \n\n", "has no lines"),
        (
            "m.txt",
            "gone.wav\tone\nalso-gone.wav\ttwo\n",
            "none of its recordings is there, the first being ",
        ),
        ("m.txt", f"{'x' * 5000}\tone\n", "none of its recordings is there"),
    ],
)
def test_wrong_input(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """One error that names the file, the line and what is wrong with it, and a hint."""
    path = manifest(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["gone.jsonl", "sub", "a.wav/m.jsonl"])
def test_what_cannot_be_opened(tmp_path: Path, name: str) -> None:
    """No such file, a folder, a path through a file: the usual errors."""
    manifest(tmp_path, "m.txt", "a.wav\tx\n")
    with pytest.raises(DsmopsError, match=name):
        read_manifest(tmp_path / name)


def test_some_recordings_may_be_missing(tmp_path: Path) -> None:
    """One that is there is enough to go on with; the others will be told one by one."""
    assert read_manifest(manifest(tmp_path, "m.txt", "gone.wav\tone\na.wav\ttwo\n")).count == 2


def test_nothing_endless_is_read(tmp_path: Path) -> None:
    """A device, or a film named by mistake, is refused at a bound."""
    path = tmp_path / "film.jsonl"
    with path.open("wb") as file:
        file.truncate((256 << 20) + 1)
    with pytest.raises(InputError, match="longer than 256 MiB"):
        read_manifest(path)


PIECES = st.sampled_from(
    [
        b'{"audio": "a.wav", "text": "x"}',
        b"audio,text",
        b"a.wav,x",
        b"path\tsentence",
        b"a.wav\tx",
        b"\n",
        b"\r\n",
        b'"',
        b"{}",
        b",",
        b"\t",
        b"\r",
    ]
)


@given(
    name=st.sampled_from(["m.jsonl", "m.csv", "m.tsv"]),
    content=st.lists(PIECES | st.binary(max_size=6), max_size=8).map(b"".join),
)
def test_any_bytes_give_utterances_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes
) -> None:
    """Whatever is in a list, it is read or refused in words; what is read has a path and a
    reference each.
    """
    path = manifest(tmp_path_factory.getbasetemp(), name, content)
    try:
        corpus = read_manifest(path)
    except InputError:
        return
    utterances = list(corpus.utterances)
    assert len(utterances) == corpus.count > 0
    assert all(utterance.audio == path.parent / utterance.name for utterance in utterances)


def test_source_errors_are_input_errors(tmp_path: Path) -> None:
    """A list without any of its recordings is a source that is not there."""
    with pytest.raises(SourceError):
        read_manifest(manifest(tmp_path, "m.txt", "gone.wav\tone\n"))
