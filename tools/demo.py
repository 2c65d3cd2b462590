"""`make demo`: the whole loop, without a GPU and without a network.

It uses the small trained model and a simulated T4. Each step is a real command in a process of its
own; the demo fails with the first that fails, or that does not do what it must.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from dsmops.operations.smoke import Simulation
from dsmops.operations.smoke.simulate import TinyModel
from dsmops.report import Reporter, Table
from dsmops.shipped import shipped_models
from dsmops.units import size
from tests.support.s3_servers import moto_server

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "demo"
API_KEY = "demo-key-3f1c9a7be2"
BOLD, GREEN, PLAIN = (
    ("\x1b[1m", "\x1b[32m", "\x1b[0m")
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    else ("", "", "")
)
RAW_LOG = "".join(
    f"\x1b[2m2026-01-02T03:04:{second:02d}.595169Z\x1b[0m \x1b[32m INFO\x1b[0m"
    " \x1b[2mmoshi_server::batched_asr\x1b[0m\x1b[2m:\x1b[0m"
    f" \x1b[2msrc/batched_asr.rs\x1b[0m\x1b[2m:\x1b[0m\x1b[2m{line}:\x1b[0m {message}\n"
    for second, line, message in (
        (1, 228, "starting asr loop 4"),
        (
            2,
            565,
            (
                "batched-asr ws query \x1b[3mquery\x1b[0m\x1b[2m=\x1b[0mAsrStreamingQuery {"
                f' auth_id: Some("{API_KEY}") }}'
            ),
        ),
        *(
            (second, 268, f"2{second % 10}.38ms \x1b[3mstep_idx\x1b[0m\x1b[2m=\x1b[0m{second}")
            for second in range(3, 50)
        ),
    )
)
"""A raw log of moshi-server with a key in it, as the server writes them."""


@dataclass
class Demo:
    """Runs the steps, two lines each, and remembers what they proved."""

    proven: list[tuple[str, float]] = field(default_factory=list)

    def step(
        self,
        claim: str,
        *command: str | Path,
        code: int = 0,
        check: Callable[[str], bool] = lambda _: True,
    ) -> str:
        """Run `dsmops` with `command` and return its output.

        `claim` is proven when it exits with `code` and `check` accepts the output.
        """
        words = [str(part) for part in command]
        shown = " ".join(
            quote(str(Path(word).relative_to(FOLDER)) if word.startswith(str(FOLDER)) else word)
            for word in words
        )
        print(f"{BOLD}$ dsmops {shown}{PLAIN}", flush=True)
        start_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "dsmops", *words],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start_s
        if done.returncode != code or not check(done.stdout):
            print(
                f"{done.stdout}{done.stderr}\nfailed after {seconds:.1f} s, with exit code"
                f" {done.returncode}: {claim}"
            )
            raise SystemExit(1)
        print(f"  {GREEN}{claim}{PLAIN} ({seconds:.1f} s)", flush=True)
        self.proven.append((claim, seconds))
        return done.stdout

    def conclude(self, files: Sequence[tuple[str, Path]]) -> None:
        """Say what was proven, how long each step took, and where the files are."""
        total_s = sum(seconds for _, seconds in self.proven)
        rows = [(claim, f"{seconds:.1f} s") for claim, seconds in self.proven]
        found = [
            (what, str(path.relative_to(ROOT)), size(path.stat().st_size)) for what, path in files
        ]
        print()
        Reporter().result(
            {},
            [
                Table((f"proven, in {total_s:.0f} s", "took>"), rows),
                Table(("file", "where", "size>"), found),
            ],
        )
        print(
            "The card was simulated and the text-to-speech model random; everything else was real."
            " On a machine with a card: dsmops prep-sm75"
        )


def run_the_model(demo: Demo, config: Path) -> Path:
    """Serve and test the converted model, transcribe with it, and return the server's log.

    The log is the raw one.
    """
    text = demo.step(
        "the converted model is served, answers in time, and its words are those that are spoken",
        *("smoke-test", "--config", config, "--cpu", "--junit", FOLDER / "smoke.xml", "--json"),
        check=lambda out: (
            json.loads(out)["passed"]
            and any(
                check["name"] == "words" and check["status"] == "passed"
                for check in json.loads(out)["checks"]
            )
        ),
    )
    example = shipped_models()["tiny"] / "example"
    spoken = " ".join(example.with_suffix(".txt").read_text(encoding="utf-8").split())
    demo.step(
        "it also transcribes on this machine, every word right",
        "transcribe",
        "--model",
        config,
        "--cpu",
        example.with_suffix(".flac"),
        check=lambda out: " ".join(out.split()) == spoken,
    )
    broken = FOLDER / "broken.toml"
    broken.write_text(
        config.read_text().replace('dtype_override = "f16"', 'dtype_override = "float16"')
    )
    demo.step(
        "a config with a wrong dtype is not started",
        *("smoke-test", "--config", broken, "--cpu", "--json"),
        code=1,
        check=lambda out: json.loads(out)["failed"] == ["config-lint"],
    )
    return FOLDER / str(json.loads(text)["raw_log"])


def speak(demo: Demo, model: TinyModel, hearing: Path) -> Path:
    """Prepare the random TTS model, synthesize a text and return the recording.

    The STT model transcribes it.
    """
    config = FOLDER / "assets" / "fp16" / "speaking.toml"
    demo.step(
        "the TTS model is prepared as well",
        *(
            "prep-sm75",
            "--simulate",
            "t4",
            "--input-path",
            model.weights,
            "--template",
            model.template,
            "--config-out",
            config,
        ),
        check=lambda _: config.exists(),
    )
    said = FOLDER / "said.wav"
    text = "The morning train leaves the old station at seven, and it is never late."
    demo.step(
        "it says a text",
        "synthesize",
        text,
        said,
        "--model",
        config,
        "--cpu",
        "--seed",
        "7",
        check=lambda _: said.exists(),
    )
    demo.step(
        "which the first one reads to its end; random speech has no words to find",
        *("transcribe", "--model", hearing, "--cpu", said, "--json"),
        check=lambda out: json.loads(out)["audio_s"] > 1,
    )
    return said


def share_logs(demo: Demo, raw_log: Path) -> Path:
    """Format two logs, publish them to a local S3 server, also after a rotation, and pull them.

    They are the server's log and one of moshi-server's.
    """
    raw = raw_log.with_name("log.demo.2026-01-02")
    raw.write_text(RAW_LOG, encoding="utf-8")
    friendly, rotated = raw.parent.parent / raw.name, raw.parent.parent / "log.demo.2026-01-02.1"
    served = raw.parent.parent / raw_log.name
    demo.step(
        "the server's raw log becomes readable",
        "format-log",
        raw_log,
        check=lambda _: "starting asr loop" in served.read_text(),
    )
    demo.step(
        "so does one of moshi-server, and the key in it is gone",
        *("format-log", raw, "--tz", "UTC"),
        check=lambda _: (
            API_KEY not in friendly.read_text()
            and "[INFO] [moshi_server::batched_asr]" in friendly.read_text()
        ),
    )
    sent_bytes = friendly.stat().st_size + served.stat().st_size
    with moto_server() as server:
        os.environ.update(server.env)
        to = ("--bucket", server.new_bucket(), "--endpoint-url", server.url)
        publish = ("publish-logs", *to, "--source", friendly.parent, "--json")
        demo.step(
            "both are published",
            *publish,
            check=lambda out: json.loads(out)["body_bytes"] == sent_bytes,
        )
        demo.step(
            "a second run sends nothing",
            *publish,
            check=lambda out: json.loads(out)["body_bytes"] == 0,
        )
        friendly.rename(rotated)
        demo.step(
            "nor does one after a rotation",
            *publish,
            check=lambda out: json.loads(out)["body_bytes"] == 0,
        )
        pulled = FOLDER / "pulled"
        demo.step("they come back byte for byte", "pull-logs", *to, "--output", pulled)
    if (pulled / rotated.name).read_bytes() != rotated.read_bytes():
        raise SystemExit("failed: the pulled log differs")
    return served


def main() -> int:
    """Run the loop and say what was proven."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    hears, speaks = Simulation().generate(FOLDER / "source")
    weights = hears.weights
    converted = FOLDER / "assets" / "fp16" / "model.fp16.safetensors"
    config = converted.with_suffix(".toml")
    prepare = ("prep-sm75", "--simulate", "t4", "--input-path", weights)
    demo = Demo()

    demo.step(
        "a T4 is found to need f16, and why is said",
        "check-gpu",
        "--simulate",
        "t4",
        check=lambda out: "dtype_override" in out,
    )
    demo.step(
        "--fail-on-pre-ampere says no",
        "check-gpu",
        "--simulate",
        "t4",
        "--fail-on-pre-ampere",
        "--quiet",
        code=1,
    )
    demo.step(
        "memory and time of the real 1B model are planned",
        "plan",
        "--simulate",
        "t4",
        check=lambda out: "batch_size = " in out,
    )
    demo.step(
        "the checkpoint is bf16, and known by its layout",
        "inspect",
        weights,
        check=lambda out: "BF16" in out and "tiny" in out,
    )
    demo.step(
        "a dry run shows the plan",
        *prepare,
        "--dry-run",
        check=lambda out: "would convert" in out and not converted.exists(),
    )
    demo.step(
        "the card is prepared: converted, configured, linted",
        *prepare,
        check=lambda _: converted.exists() and config.exists(),
    )
    demo.step("a second run does nothing", *prepare, check=lambda out: "nothing was done" in out)
    demo.step("every converted value is the right one", "verify", weights, converted)
    demo.step(
        "the config suits the card and server 0.6.4",
        "check-config",
        config,
        "--simulate",
        "t4",
        "--server-version",
        "0.6.4",
    )
    demo.step(
        "server 0.6.3 would ignore the switch",
        "check-config",
        config,
        "--simulate",
        "t4",
        "--server-version",
        "0.6.3",
        code=1,
    )
    raw_log = run_the_model(demo, config)
    said = speak(demo, speaks, config)
    friendly = share_logs(demo, raw_log)
    demo.conclude(
        [
            ("the bf16 model", weights),
            ("converted to f16", converted),
            ("its config", config),
            ("what the smoke test found", FOLDER / "smoke.xml"),
            ("what was said", said),
            ("the server's raw log", raw_log),
            ("the same, to read and to share", friendly),
        ]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
