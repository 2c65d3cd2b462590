// Speech in, words out; text in, speech out; and how the server is. No part of a key is ever shown or stored
// outside this tab.
import { decode, encode } from "./messagepack.js";

const FRAME = 1920, RATE_HZ = 24000, FRAME_S = FRAME / RATE_HZ;
const LEAD_IN = 13; // frames of silence first, which the 2.6B model needs; word times do not count them
const CLOSING = 40; // frames of silence at the end: more than any model's text delay
const WINDOW = 64; // frames of a recording that may be ahead of the answers
const MARK_EVERY = 12;
const STEP_MS = 80;
const TURN_HEAD = 2; // the probability of a pause of 2 s

const $ = (id) => document.getElementById(id);
const base = new URL(".", location.href);
const seconds = (value) => value.toFixed(2);

class Trouble extends Error {}

// --- Key ---------------------------------------------------------------------------------------

const KEY = "dsmops-key";
let key = sessionStorage.getItem(KEY) ?? "";

// Returns whether a key was given.
function askForKey(why) {
  $("key-why").textContent = why;
  const dialog = $("key-dialog");
  dialog.showModal();
  let isGiven = false;
  return new Promise((resolve) => {
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      isGiven = true;
      key = $("key").value.trim();
      sessionStorage.setItem(KEY, key);
      $("key").value = "";
      dialog.close();
    };
    $("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => resolve(isGiven);
  });
}

async function get(path, withKey) {
  const headers = withKey ? { Authorization: `Bearer ${key}` } : {};
  return fetch(new URL(path, base), { headers, cache: "no-store" });
}

// Returns whether the key is right, null where the server has no way to ask.
async function isKeyRight() {
  const answer = await get("v1/models", true);
  return answer.ok ? true : answer.status === 401 ? false : null;
}

async function requireKey() {
  if (!key && !(await askForKey("The server asks for a key."))) throw new Trouble("No key, so nothing was sent.");
  while ((await isKeyRight()) === false) {
    if (!(await askForKey("The server does not know this key."))) throw new Trouble("The server does not know the key.");
  }
  status.update();
}

// --- Sockets -----------------------------------------------------------------------------------

function open(path, query = {}) {
  const url = new URL(path.replace(/^\//, ""), base);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = new URLSearchParams({ auth_id: key, ...query });
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  return socket;
}

function whyClosed(event, isReady) {
  if (event.reason) return event.reason;
  if (event.code === 1013) return "All slots are taken. Try again later.";
  if (!isReady) return "The server did not take the connection: the key may be wrong, or no slot is free.";
  return `The connection ended early (code ${event.code}).`;
}

class Recognition {
  // Takes frames, hands out words. `done` is fulfilled when the last word is in.
  constructor(path, on) {
    this.sent = this.answered = 0;
    this.isReady = this.isFinished = false;
    this.on = on;
    this.socket = open(path);
    this.done = new Promise((resolve, reject) => {
      this.socket.onclose = (event) =>
        this.isFinished ? resolve() : reject(new Trouble(this.error ?? whyClosed(event, this.isReady)));
      this.socket.onmessage = (event) => this.take(decode(event.data));
      this.resolve = resolve;
    });
    this.done.catch(() => this.wake?.());
    this.ready = new Promise((resolve) => (this.setReady = resolve));
    this.socket.onopen = () => this.send(new Float32Array(LEAD_IN * FRAME));
  }

  take(message) {
    switch (message.type) {
      case "Ready":
        this.isReady = true;
        this.setReady();
        this.on.ready();
        break;
      case "Step":
        this.answered++;
        this.on.pause(message.prs[TURN_HEAD], (this.answered - LEAD_IN) * FRAME_S);
        break;
      case "Word":
        this.on.word(message.text, Math.max(0, message.start_time - LEAD_IN * FRAME_S));
        break;
      case "EndWord":
        this.on.wordEnd(Math.max(0, message.stop_time - LEAD_IN * FRAME_S));
        break;
      case "Marker":
        if (message.id === 0) {
          this.isFinished = true;
          this.resolve();
          this.socket.close(1000);
        }
        this.answered = Math.max(this.answered, message.id);
        break;
      case "Error":
        this.error = message.message;
    }
    this.wake?.();
  }

  send(pcm) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(encode({ type: "Audio", pcm }));
    const before = this.sent;
    this.sent += pcm.length / FRAME;
    if (Math.floor(before / MARK_EVERY) !== Math.floor(this.sent / MARK_EVERY)) this.mark(this.sent);
  }

  mark(id) {
    this.socket.send(encode({ type: "Marker", id }));
  }

  // Waits until the server has caught up.
  async room() {
    while (this.sent - this.answered > WINDOW && this.socket.readyState === WebSocket.OPEN) {
      await new Promise((resolve) => (this.wake = resolve));
    }
    return this.socket.readyState === WebSocket.OPEN;
  }

  finish() {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.send(new Float32Array(CLOSING * FRAME));
    this.mark(0);
    this.send(new Float32Array(CLOSING * FRAME));
  }

  cancel() {
    this.isFinished = true;
    this.socket.close(1000);
  }
}

// --- Speech to text ----------------------------------------------------------------------------

const stt = { path: null, running: null, words: [] };

function newTranscript() {
  $("transcript").replaceChildren();
  stt.words = [];
  let paragraph = null, inTurn = false, last = null;
  let before = null, paused_s = 0; // the paragraph that the last pause ended, and when
  const show = (node) => {
    $("transcript").append(node);
    $("transcript").scrollTop = $("transcript").scrollHeight;
  };
  return {
    ready: () => say("stt", stt.running?.hint ?? "Transcribing…"),
    word(text, start_s) {
      last = wordNode(text, start_s, null);
      stt.words.push(last);
      if (before && start_s < paused_s) {
        before.append(last.node, " "); // said before the pause, and told after it
      } else {
        if (!paragraph) {
          paragraph = document.createElement("p");
          show(paragraph);
        }
        paragraph.append(last.node, " ");
        inTurn = true;
      }
      $("copy").disabled = false;
    },
    wordEnd(stop_s) {
      if (last) last.setStop(stop_s);
    },
    pause(probability = 0, time_s) {
      $("pause").value = probability;
      if (inTurn && probability > 0.5) {
        const mark = document.createElement("p");
        mark.className = "pause";
        mark.textContent = `— pause at ${seconds(time_s)} s —`;
        show(mark);
        before = paragraph;
        paused_s = time_s;
        paragraph = null;
        inTurn = false;
      }
    },
  };
}

function wordNode(text, start_s, stop_s) {
  const node = document.createElement("span");
  node.className = "word";
  const time = document.createElement("small");
  time.ariaHidden = "true"; // read with every word, it would drown the text; the title has it
  node.append(text, time);
  const word = {
    node, text, start_s,
    setStop(value) {
      word.stop_s = value;
      node.title = value == null ? `from ${seconds(start_s)} s` : `${seconds(start_s)} to ${seconds(value)} s`;
    },
  };
  time.textContent = seconds(start_s);
  word.setStop(stop_s);
  return word;
}

async function transcribe(hint, feed) {
  if (stt.running) return;
  fail("stt", "");
  const on = newTranscript();
  stt.running = { hint };
  setBusy();
  try {
    await requireKey();
    say("stt", "Waiting for a slot…");
    const recognition = new Recognition(stt.path, on);
    stt.running.recognition = recognition;
    await Promise.race([recognition.ready, recognition.done]);
    await feed(recognition);
    recognition.finish();
    say("stt", "Waiting for the last words…");
    await recognition.done;
    say("stt", `${stt.words.length} words.`);
  } catch (error) {
    say("stt", "");
    fail("stt", described(error));
    stt.running.recognition?.cancel();
  } finally {
    stt.running = null;
    setBusy();
    $("level").value = $("pause").value = 0;
  }
}

function setBusy() {
  const mic = $("mic"), isListening = Boolean(stt.running?.stop);
  mic.ariaPressed = String(isListening);
  mic.textContent = isListening ? "Stop listening" : "Use the microphone";
  mic.disabled = Boolean(stt.running) && !isListening;
  $("file").disabled = Boolean(stt.running);
}

async function listen() {
  if (stt.running?.stop) return stt.running.stop();
  await transcribe("Listening. Speak now.", async (recognition) => {
    if (!navigator.mediaDevices) {
      throw new Trouble("Browsers give pages a microphone on https:// and localhost only. Use one of these, or drop a file.");
    }
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    let context;
    try {
      // Where the browser converts the rate itself, it does it best. Firefox cannot.
      context = new AudioContext({ sampleRate: RATE_HZ });
      context.createMediaStreamSource(stream);
    } catch {
      context = new AudioContext();
    }
    try {
      await context.audioWorklet.addModule(new URL("page/worklet.js", base));
      const source = context.createMediaStreamSource(stream);
      const frames = new AudioWorkletNode(context, "frames", { numberOfOutputs: 0 });
      frames.port.onmessage = ({ data }) => {
        recognition.send(data);
        $("level").value = Math.sqrt(data.reduce((sum, sample) => sum + sample * sample, 0) / data.length) * 3;
      };
      source.connect(frames);
      await context.resume();
      const ended = new Promise((resolve) => (stt.running.stop = resolve));
      setBusy();
      await Promise.race([ended, recognition.done]);
    } finally {
      stt.running.stop = null;
      setBusy();
      for (const track of stream.getTracks()) track.stop();
      await context.close();
    }
  });
}

async function readFile(file) {
  await transcribe(`Transcribing ${file.name}…`, async (recognition) => {
    let audio;
    try {
      audio = await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(await file.arrayBuffer());
    } catch {
      throw new Trouble(`${file.name} is not audio that this browser can read.`);
    }
    const channels = Array.from({ length: audio.numberOfChannels }, (_, number) => audio.getChannelData(number));
    for (let start = 0; start < audio.length; start += FRAME) {
      if (!(await recognition.room())) return;
      const frame = new Float32Array(FRAME);
      for (const channel of channels) {
        for (let at = 0; at < FRAME && start + at < audio.length; at++) frame[at] += channel[start + at] / channels.length;
      }
      recognition.send(frame);
      say("stt", `Transcribing ${file.name}: ${Math.round((100 * start) / audio.length)} %`);
    }
  });
}

// --- Text to speech ----------------------------------------------------------------------------

const tts = { path: null, running: null };

class Playback {
  constructor() {
    this.context = new AudioContext();
    this.next_s = 0;
    this.begin_s = null;
    this.pieces = [];
    this.sources = new Set();
  }

  add(pcm) {
    this.pieces.push(pcm);
    const buffer = this.context.createBuffer(1, pcm.length, RATE_HZ);
    buffer.copyToChannel(pcm, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    this.next_s = Math.max(this.next_s, this.context.currentTime + 0.1);
    this.begin_s ??= this.next_s;
    source.start(this.next_s);
    this.next_s += buffer.duration;
    this.sources.add(source);
    source.onended = () => this.sources.delete(source);
  }

  get played_s() {
    return this.begin_s === null ? 0 : this.context.currentTime - this.begin_s;
  }

  async close() {
    await this.context.close();
  }

  wav() {
    const count = this.pieces.reduce((sum, piece) => sum + piece.length, 0);
    const view = new DataView(new ArrayBuffer(44 + 2 * count));
    const put = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
    put(0, "RIFF"); view.setUint32(4, 36 + 2 * count, true); put(8, "WAVEfmt ");
    view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
    view.setUint32(24, RATE_HZ, true); view.setUint32(28, 2 * RATE_HZ, true);
    view.setUint16(32, 2, true); view.setUint16(34, 16, true);
    put(36, "data"); view.setUint32(40, 2 * count, true);
    let at = 44;
    for (const piece of this.pieces) {
      for (const sample of piece) {
        view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(sample * 32768))), true);
        at += 2;
      }
    }
    return new Blob([view.buffer], { type: "audio/wav" });
  }
}

async function speak() {
  const text = $("text").value.trim();
  if (tts.running) return;
  fail("tts", text ? "" : "Type some text first.");
  if (!text) return;
  $("spoken").replaceChildren();
  $("save").hidden = true;
  const playback = new Playback();
  const words = [];
  let socket = null;
  tts.running = { stop: () => socket?.close(1000) };
  $("speak").disabled = true;
  try {
    await requireKey();
    $("stop").disabled = false;
    say("tts", "Waiting for a slot…");
    const begin_ms = performance.now();
    let first_ms = null;
    await new Promise((resolve, reject) => {
      let isReady = false, error = null, stopped = false;
      socket = open(tts.path, { format: "PcmMessagePack", voice: $("voice").value.trim() });
      tts.running.stop = () => {
        stopped = true;
        socket.close(1000);
        resolve();
      };
      socket.onopen = () => {
        socket.send(encode({ type: "Text", text }));
        socket.send(encode({ type: "Eos" }));
      };
      socket.onmessage = ({ data }) => {
        const message = decode(data);
        if (message.type === "Ready") isReady = true;
        else if (message.type === "Error") error = message.message;
        else if (message.type === "Audio") {
          first_ms ??= performance.now() - begin_ms;
          playback.add(Float32Array.from(message.pcm));
          say("tts", `Speaking. First sound after ${Math.round(first_ms)} ms.`);
        } else if (message.type === "Text") {
          const word = wordNode(message.text, message.start_s, message.stop_s);
          words.push(word);
          $("spoken").append(word.node, " ");
        }
      };
      socket.onclose = (event) => {
        // The original server ends a text without a code.
        const isEnd = stopped || (!error && first_ms !== null && [1000, 1005, 1006].includes(event.code));
        isEnd ? resolve() : reject(new Trouble(error ?? whyClosed(event, isReady)));
      };
    });
    await follow(playback, words);
    const save = $("save");
    URL.revokeObjectURL(save.href);
    save.href = URL.createObjectURL(playback.wav());
    save.hidden = playback.pieces.length === 0;
    say("tts", `${seconds(playback.pieces.length * FRAME_S)} s of speech, first sound after ${Math.round(first_ms ?? 0)} ms.`);
  } catch (error) {
    say("tts", "");
    fail("tts", described(error));
  } finally {
    await playback.close();
    tts.running = null;
    $("speak").disabled = false;
    $("stop").disabled = true;
  }
}

// Marks the word that sounds, until all has sounded or the stop button ends it.
function follow(playback, words) {
  return new Promise((resolve) => {
    tts.running.stop = () => resolve();
    const look = () => {
      const now_s = playback.played_s;
      for (const word of words) word.node.classList.toggle("now", word.start_s <= now_s && now_s < word.stop_s);
      playback.sources.size && playback.context.state === "running" ? requestAnimationFrame(look) : resolve();
    };
    look();
  }).finally(() => words.forEach((word) => word.node.classList.remove("now")));
}

// --- Server ------------------------------------------------------------------------------------

const status = {
  before: {},
  models: [],

  async update() {
    try {
      const [ready, modules, metrics] = await Promise.all([get("readyz"), get("api/modules_info"), get("metrics")]);
      const health = ready.ok || ready.status === 503 ? await ready.json() : null;
      this.models = key ? await this.readModels() : [];
      this.show(health, await modules.json(), parseMetrics(await metrics.text()));
      fail("server", "");
    } catch (error) {
      $("health").textContent = "The server does not answer.";
      $("health").className = "bad";
    }
  },

  async readModels() {
    const answer = await get("v1/models", true);
    return answer.ok ? (await answer.json()).data : [];
  },

  show(health, modules, metrics) {
    const bad = (health?.modules ?? []).filter((module) => !module.ready);
    $("health").className = bad.length ? "bad" : "";
    $("health").textContent = bad.length
      ? bad.map((module) => `${module.name} is not ready: ${module.reason}`).join("; ")
      : health ? "The server is ready." : "The server answers.";
    stt.path = modules.find((module) => module.type === "batched_asr")?.path ?? null;
    tts.path = modules.find((module) => module.type === "py")?.path ?? null;
    $("stt").hidden = !stt.path;
    $("tts").hidden = !tts.path;
    if (!modules.length) fail("server", "The server lists no modules that this page can use.");
    $("modules").replaceChildren(...modules.map((module) => this.describe(module, metrics)));
  },

  describe(module, metrics) {
    const isStt = module.type === "batched_asr";
    const model = this.models.find((one) => one.path === module.path);
    const list = document.createElement("dl");
    const row = (name, ...held) => {
      const term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = name;
      value.append(...held);
      list.append(term, value);
    };
    row("Module", `${isStt ? "speech to text" : "text to speech"}, ${module.path}`);
    row("Model", model?.id ?? module.lm ?? module.script ?? "unknown");
    row("Slots", bar(Number(module.used_slots), Number(module.total_slots)), ` ${module.used_slots} of ${module.total_slots}`);
    for (const engine of model?.engines ?? []) {
      row("Device", `${engine.device_name} (${engine.device}), ${engine.dtype}`);
      row("Memory", memory(engine));
    }
    row("Step", ...this.step(isStt ? "asr_model_step_duration" : "py_model_step_duration", metrics));
    return list;
  },

  // The mean of the steps since the last look, against the 80 ms that a frame lasts.
  step(name, metrics) {
    const count = metrics[`${name}_count`] ?? 0, sum = metrics[`${name}_sum`] ?? 0;
    const within = metrics[`${name}_bucket{le="0.08"}`] ?? count;
    const old = this.before[name] ?? { count: 0, sum: 0, within: 0 };
    if (count > old.count) {
      this.before[name] = { count, sum, within, mean_ms: (1000 * (sum - old.sum)) / (count - old.count),
        late: 1 - (within - old.within) / (count - old.count) };
    }
    const { mean_ms, late } = this.before[name] ?? {};
    if (mean_ms === undefined) return ["no step yet"];
    return [bar(mean_ms, STEP_MS), ` ${mean_ms.toFixed(1)} ms of ${STEP_MS} ms; ${(100 * late).toFixed(0)} % took longer`];
  },
};

function bar(value, max) {
  const meter = document.createElement("meter");
  Object.assign(meter, { min: 0, max, high: 0.8 * max, value });
  meter.ariaHidden = "true"; // the text beside it says the same
  return meter;
}

function memory({ memory_bytes, memory_total_bytes }) {
  const gib = (value) => (value / 2 ** 30).toFixed(2);
  if (memory_bytes == null) return "unknown";
  return `${gib(memory_bytes)} GiB` + (memory_total_bytes == null ? "" : ` of ${gib(memory_total_bytes)} GiB`);
}

function parseMetrics(text) {
  const lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
  return Object.fromEntries(lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ")))]));
}

async function readVoices() {
  if (!key || $("voices").childElementCount) return;
  const answer = await get("v1/audio/voices", true);
  if (!answer.ok) return;
  const voices = (await answer.json()).data;
  $("voices").replaceChildren(...voices.map((voice) => Object.assign(document.createElement("option"), { value: voice.id })));
}

// --- The page ----------------------------------------------------------------------------------

function say(part, text) {
  $(`${part}-state`).textContent = text;
}

function fail(part, text) {
  $(`${part}-error`).textContent = text;
}

function described(error) {
  if (error instanceof Trouble) return error.message;
  if (error.name === "NotAllowedError") return "The browser may not use the microphone. Allow it in the address bar.";
  if (error.name === "NotFoundError") return "This computer has no microphone.";
  return error instanceof TypeError ? "The server does not answer." : String(error.message || error);
}

$("mic").onclick = listen;
$("file").onchange = () => $("file").files[0] && readFile($("file").files[0]).finally(() => ($("file").value = ""));
$("speak").onclick = speak;
$("stop").onclick = () => tts.running?.stop();
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) speak();
};
$("voice").onfocus = readVoices;
$("times").onchange = () => document.body.classList.toggle("without-times", !$("times").checked);
$("copy").onclick = () => navigator.clipboard.writeText(stt.words.map((word) => word.text).join(" "));
$("change-key").onclick = async () => (await askForKey("")) && (await status.update());
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file && stt.path) readFile(file);
  });
}

await status.update();
await readVoices();
setInterval(() => document.hidden || status.update(), 2000);
