// Hands the microphone's samples to the page as frames of 1920 samples at 24 kHz.
class Frames extends AudioWorkletProcessor {
  constructor() {
    super();
    this.frame = new Float32Array(1920);
    this.filled = 0;
    this.step = sampleRate / 24000; // input samples for each of ours
    this.sum = 0;
    this.count = 0;
    this.until = this.step;
  }

  process([input]) {
    if (input.length === 0) return true;
    for (let at = 0; at < input[0].length; at++) {
      let sample = 0;
      for (const channel of input) sample += channel[at];
      // The mean of the input samples that fall into one of ours: enough of a filter for speech.
      this.sum += sample / input.length;
      this.count++;
      if (this.count >= this.until) {
        this.until += this.step - this.count;
        this.push(this.sum / this.count);
        this.sum = this.count = 0;
      }
    }
    return true;
  }

  push(sample) {
    this.frame[this.filled++] = sample;
    if (this.filled === this.frame.length) {
      this.port.postMessage(this.frame.slice());
      this.filled = 0;
    }
  }
}
registerProcessor("frames", Frames);
