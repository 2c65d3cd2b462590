"""The command: files that it writes, stores that it reads, and what is mistyped."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dsmops.cli.views.log_report_csv import csv_text
from dsmops.operations.log_report import read_logs
from dsmops.operations.publishing import PublishRequest, publish_logs
from dsmops.publish.names import REPORT_NAME
from dsmops.publish.store import StoreOptions
from dsmops.report.document import document
from dsmops.report.page import page
from tests.operations.log_report.test_reading import made_up, same, write
from tests.support.cli import dsmops
from tests.support.s3_servers import moto_server, shared_sdk_data


def test_time_series_as_csv(tmp_path: Path) -> None:
    """The rows are those of `over_time`, with the module before them."""
    log = write(tmp_path / "log.a", made_up())
    target = tmp_path / "series.csv"
    run = dsmops("log-report", log, "--csv", target, "--json")
    rows = list(csv.DictReader(target.read_text(encoding="utf-8").splitlines()))
    [module] = run.document["modules"]
    assert [{**row, "module": None} for row in rows] == [
        {"module": None} | {name: str(value) for name, value in moment.items()}
        for moment in module["over_time"]
    ]
    assert sum(int(row["steps"]) for row in rows) == 1000
    assert {row["module"] for row in rows} == {"batched_asr"}


def test_two_periods_of_one_log(tmp_path: Path) -> None:
    """`--against-until` cuts the old one, `--since` the new one."""
    log = write(tmp_path / "log.a", made_up())
    at = "2026-01-02 03:00:40+00:00"
    run = dsmops(
        *("log-report", log, "--since", at, "--against", log, "--against-until", at, "--json")
    )
    comparison = run.document["comparison"]
    steps = [run.document["steps"]["count"], comparison["old"]["steps"]["count"]]
    assert sum(steps) == 1000
    assert min(steps) > 300
    assert comparison["differences"][0]["measure"] == "step time, median"
    shown = dsmops(*("log-report", log, "--since", at, "--against", log, "--against-until", at))
    assert "compared" in shown.stdout


@pytest.mark.slow
def test_what_is_mistyped(tmp_path: Path) -> None:
    """Usage errors are exit code 2, wrong values 3; nothing is written, nothing is overwritten."""
    log = write(tmp_path / "log.a", made_up(20))
    csv_file = tmp_path / "a.csv"
    for words, code in (
        (("--against-since", "-3h"), 2),
        (("-o", tmp_path / "report.txt"), 2),
        (("--csv", log), 2),
        (("--gpu", "t5000"), 3),
        (("--model", "stt-9b"), 3),
        (("--config", tmp_path / "none.toml"), 3),
        (("--since", "soonish"), 3),
        (("--since", "2026-01-02", "--until", "2026-01-01"), 3),
        (("--against", "http://host/log"), 3),
        (("--against", tmp_path / "none.log"), 3),
    ):
        run = dsmops("log-report", log, "--csv", csv_file, *words)
        assert run.code == code, (words, run.stderr)
        assert "error: " in run.stderr.lower() or code == 2
        assert not csv_file.exists()
    assert log.read_text() == made_up(20)


@pytest.mark.slow
def test_published_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `publish-logs` put into a folder or a bucket says what the files say; so do objects that
    were put there in another way.
    """
    folder = tmp_path / "logs"
    folder.mkdir()
    plain = read_logs([write(folder / "log.a.2026-01-02", made_up(200))])
    store = tmp_path / "store"
    publish_logs(PublishRequest(f"file:{store}", folder))
    assert same(read_logs([f"file:{store}"]), plain)
    with shared_sdk_data(), moto_server() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        bucket = server.new_bucket()
        options = StoreOptions(endpoint_url=server.url)
        publish_logs(PublishRequest(f"s3://{bucket}/a", folder, options))
        assert same(read_logs([f"s3://{bucket}/a"], options=options), plain)
        for name, body in (("log.b", made_up(200).encode()), ("voice.wav", b"RIFF")):
            server.client.put_object(Bucket=bucket, Key=f"b/x/{name}", Body=body)
        found = read_logs([f"s3://{bucket}/b"], options=options)
        assert found.sources == ("log.b",)
        assert same(found, plain)
        run = dsmops("log-report", f"s3://{bucket}/c", "--endpoint-url", server.url)
        assert run.code == 3
        assert "holds no log" in run.stderr


def test_a_report_may_be_published(tmp_path: Path) -> None:
    """With --include-reports, found by how they begin; other pages and captures stay, and so does a
    report in which there is a secret.
    """
    folder = tmp_path / "logs"
    folder.mkdir()
    report = read_logs([write(tmp_path / "log.a", made_up(50))])
    write(folder / "a.json", document("log-report", report))
    write(folder / "b.csv", csv_text(report))
    write(folder / "c.html", page("Report", [], generator=REPORT_NAME))
    write(folder / "other.json", '{"schema": "dsmops.bench/1"}')
    write(folder / "query.json", '{"auth_id": "x"}')
    write(folder / "other.html", page("Report", []))
    token = "hf_" + "aB3" * 12
    write(folder / "d.html", page("Report", [f"<p>{token}</p>"], generator=REPORT_NAME))

    def publish(*, reports: bool) -> dict[str, str]:
        store = f"file:{tmp_path / 'store'}"
        found = publish_logs(PublishRequest(store, folder, include_reports=reports))
        return {file.name: file.outcome for file in found.files}

    assert publish(reports=False) == {}
    assert publish(reports=True) == {
        "a.json": "sent",
        "b.csv": "sent",
        "c.html": "sent",
        "d.html": "refused",
    }


@pytest.mark.parametrize("option", ["--json", "-o"])
def test_a_document_of_nothing_but_text(tmp_path: Path, option: str) -> None:
    """A file without any event is read to its end, and says so."""
    log = write(tmp_path / "log.a", "no log at all\n" * 5)
    target = tmp_path / "report.json"
    run = dsmops("log-report", log, option, *([target] if option == "-o" else []))
    assert run.code == 0
    document = json.loads(target.read_text()) if option == "-o" else run.document
    assert (document["lines"], document["lines_text"], document["steps"]) == (5, 5, None)
