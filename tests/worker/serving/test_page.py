"""The page: what a person sees in a real browser, and what it asks for."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from dsmops.audio import read
from dsmops.worker.runtime.stt.interface import SttOutput
from tests.support.browser import Watched, opened_browser
from tests.support.engines import EchoEngine
from tests.support.served_tiny import KEY, RECORDINGS
from tests.support.workers import KEY as ECHO_KEY
from tests.support.workers import ThreadedServer, WorkerProcess, request

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

SPOKEN = json.loads((RECORDINGS / "manifest.jsonl").read_text("utf-8").splitlines()[3])
"""A voice of the training: what a microphone plays begins anywhere."""
RECORDING = RECORDINGS / SPOKEN["audio"]
PICTURES = Path(__file__).parents[3] / "runbooks" / "pictures"
FILES = ("", "page/page.css", "page/page.js", "page/messagepack.js", "page/worklet.js")


@pytest.mark.slow
def test_it_is_small_and_asks_no_other_server() -> None:
    with ThreadedServer() as server:
        answers = [request(server.url, "GET", f"/{name}") for name in FILES]
        assert request(server.url, "GET", "/page/__init__.py").status == 404
        assert request(server.url, "GET", "/page/index.html/..").status == 404
    assert [answer.status for answer in answers] == [200] * len(FILES)
    assert sum(len(answer.body) for answer in answers) <= 60_000
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        addresses = re.findall(r"https?://[\w./-]+", answer.text)
        assert {urlsplit(one).hostname for one in addresses} <= {"github.com"}  # a comment
    page = answers[0].text
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|<style", page)


@pytest.mark.slow
def test_a_static_folder_comes_first(tmp_path: Path) -> None:
    """As in moshi-server: its `index.html` is the page then."""
    (tmp_path / "index.html").write_text("mine")
    with ThreadedServer(static_dir=tmp_path) as server:
        assert request(server.url, "GET", "/").text == "mine"
        assert request(server.url, "GET", "/page/page.js").status == 200


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["BrowserContext"]:
    """A browser whose microphone plays the recording, then silence."""
    samples, rate_hz = soundfile.read(RECORDING, dtype="float32")
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    sound = soxr.resample(samples, rate_hz, 48_000)
    soundfile.write(path, np.concatenate([sound, np.zeros(48_000 * 30)]), 48_000, "PCM_16")
    with opened_browser(path) as context:
        yield context


@pytest.fixture
def watched(browser: "BrowserContext", tiny_worker: WorkerProcess) -> Iterator[Watched]:
    opened = Watched(browser, tiny_worker.url)
    yield opened
    host = urlsplit(tiny_worker.url).netloc
    assert opened.complaints == []
    assert {urlsplit(url).netloc for url in opened.asked if not url.startswith("blob:")} <= {
        host,
        "",
    }
    opened.page.close()


@pytest.fixture
def pictures(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where screenshots go: into the runbooks with `--update-golden`."""
    return PICTURES if request.config.getoption("--update-golden") else tmp_path


def share_of_words(text: str) -> float:
    """Return the share of the recording's words that are in `text`."""
    said = SPOKEN["text"].split()
    return len(set(said) & set(text.split())) / len(set(said))


@pytest.mark.slow
def test_a_person_speaks_and_sees_words(watched: Watched, pictures: Path) -> None:
    """The key is asked for once; words with times come while the microphone runs; a pause shows;
    stopping ends it. The server's figures are beside it.
    """
    page = watched.page
    page.get_by_role("button", name="Use the microphone").click()
    watched.give_key(KEY)
    stop = page.get_by_role("button", name="Stop listening")
    stop.wait_for()
    # There is one between its two sentences as well; the last word begins at 4.7 s.
    page.locator("#transcript .pause").filter(
        has_text=re.compile(r" ([5-9]|\d\d)\.")
    ).first.wait_for()
    stop.click()
    page.get_by_text(re.compile(r"^\d+ words\.$")).wait_for()
    words = page.locator("#transcript .word")
    shown = [one.partition("\n")[0] for one in words.all_inner_texts()]
    assert share_of_words(" ".join(shown)) >= 0.8
    assert re.fullmatch(
        r"from \d\.\d\d s|\d\.\d\d to \d+\.\d\d s", words.first.get_attribute("title") or ""
    )
    modules = page.locator("#modules")
    modules.get_by_text("tiny", exact=True).wait_for()
    for text in ("of 4", "f32", "GiB of", "ms of 80 ms"):
        modules.get_by_text(text).first.wait_for()
    assert page.evaluate("sessionStorage.length") == 1
    assert page.evaluate("localStorage.length") == 0
    assert KEY not in page.content()
    page.screenshot(path=pictures / "page.png")


@pytest.mark.slow
def test_a_recording_becomes_its_words(watched: Watched) -> None:
    page = watched.page
    page.evaluate("key => sessionStorage.setItem('dsmops-key', key)", KEY)
    page.reload()
    page.locator("#stt").wait_for()
    page.get_by_label("or drop a recording here").set_input_files(RECORDING)
    page.get_by_text(re.compile(r"^\d+ words\.$")).wait_for()
    page.get_by_label("Show times").uncheck()
    shown = re.sub("— pause at .*? s —", "", page.locator("#transcript").inner_text())
    assert shown.split() == SPOKEN["text"].split()


class LateWords(EchoEngine):
    """Tells what is said below, whatever it gets: the pause comes before the word it follows."""

    TOKENS: ClassVar = {20: 0, 21: 4, 26: 0, 27: 5, 34: 0, 35: 6}
    """The token of a step: 0 begins a word, 4 to 6 are a, b and c; all others are padding."""
    PAUSE_STEP = 28

    def __init__(self) -> None:
        super().__init__(heads=4)

    def step(self, pcm: NDArray[np.float32], exec_mask: NDArray[np.bool_]) -> SttOutput:
        out = super().step(pcm, exec_mask)
        steps = [len(self.heard[slot]) for slot in range(self.batch_size)]
        tokens = np.array([self.TOKENS.get(step, 3) for step in steps], np.int64)
        pauses = np.zeros((self.batch_size, 4), np.float32)
        pauses[:, 2] = np.equal(steps, self.PAUSE_STEP)
        return SttOutput(tokens, pauses, out.finite, 1.0)


@pytest.mark.slow
def test_a_pause_follows_the_words_before_it(browser: "BrowserContext", tmp_path: Path) -> None:
    """Also where the model tells a word after the pause that followed it."""
    soundfile.write(tmp_path / "any.wav", np.zeros(72_000), 24_000)
    with ThreadedServer(LateWords) as server:
        page = Watched(browser, server.url).page
        page.evaluate("key => sessionStorage.setItem('dsmops-key', key)", ECHO_KEY)
        page.reload()
        page.locator("#stt").wait_for()
        page.get_by_label("or drop a recording here").set_input_files(tmp_path / "any.wav")
        page.get_by_text("3 words.").wait_for()
        page.get_by_label("Show times").uncheck()
        shown = page.locator("#transcript").inner_text()
        page.close()
    # The page sends 13 frames of silence first, and its times do not count them.
    pause_s = (LateWords.PAUSE_STEP - 13) * 0.08
    assert re.split("\n+", shown.strip()) == ["a b", f"— pause at {pause_s:.2f} s —", "c"]


@pytest.mark.slow
def test_a_text_becomes_speech(watched: Watched) -> None:
    """Words with times, sound that is not silence, the voices of the server."""
    page = watched.page
    page.evaluate("key => sessionStorage.setItem('dsmops-key', key)", KEY)
    page.reload()
    page.locator("#voices option").first.wait_for(state="attached")
    voices = page.locator("#voices option").evaluate_all("all => all.map(one => one.value)")
    assert voices == ["hibari", "hibari-low"]
    page.get_by_role("textbox", name="Text").fill("good morning my friend")
    page.get_by_label("Voice").fill("hibari-low")
    page.get_by_role("button", name="Speak the text").click()
    page.get_by_text(re.compile(r"s of speech, first sound after \d+ ms")).wait_for()
    shown = [one.partition("\n")[0] for one in page.locator("#spoken .word").all_inner_texts()]
    assert shown == ["good", "morning", "my", "friend"]
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as WAV").click()
    samples = read(io.BytesIO(Path(download.value.path()).read_bytes()))
    assert np.abs(samples).max() > 0.05


@pytest.mark.slow
def test_errors_are_shown_where_they_happen(watched: Watched, tmp_path: Path) -> None:
    """A wrong key is asked for again, and giving up says so; an unknown voice names its
    neighbours; a file without sound is named.
    """
    page = watched.page
    page.get_by_role("button", name="Speak the text").click()
    watched.give_key("a wrong one")
    page.get_by_text("The server does not know this key.").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("alert").get_by_text("does not know the key").wait_for()
    page.get_by_role("button", name="API key").click()
    watched.give_key(KEY)
    page.get_by_role("textbox", name="Text").press_sequentially("!")
    assert page.get_by_role("textbox", name="Text").input_value().startswith("!")
    page.get_by_label("Voice").fill("hibary")
    page.get_by_role("button", name="Speak the text").click()
    page.locator("#tts-error", has_text="hibari").wait_for()
    broken = tmp_path / "notes.txt"
    broken.write_text("no sound")
    page.get_by_label("or drop a recording here").set_input_files(broken)
    page.locator("#stt-error", has_text="notes.txt is not audio").wait_for()


@pytest.mark.slow
def test_it_works_on_a_phone_and_with_a_keyboard(watched: Watched, pictures: Path) -> None:
    """Nothing is wider than a small screen; each control has a name and is reached by Tab."""
    page = watched.page
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("#stt").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    wanted = ["change-key", "mic", "file", "transcript", "times", "text", "voice", "speak"]
    assert [one for one in reached if one in wanted][: len(wanted)] == wanted
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, meter")].filter(
            (one) => !(one.labels?.length || one.ariaHidden === "true" || one.textContent.trim())
        ).map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    page.screenshot(path=pictures / "page-phone.png")
