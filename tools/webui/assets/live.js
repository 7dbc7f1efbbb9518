// Plays speech while it is still being made: reads raw samples from the server and lines them up without gaps.
// The page calls prepare() in the click on Speak, play() when the server has named the sound, and stop().
window.liveSpeech = (() => {
  "use strict";

  const USUAL_RATE = 32000; // of all presets
  const LEAD_SECONDS = 0.05; // from lining up to sounding: less, and a busy browser comes too late
  const FIRST_WAIT_SECONDS = 0.2; // held back before the first sound
  const LONGEST_WAIT_SECONDS = 3; // held back at most after it ran dry
  const PIECE_SECONDS = 0.1; // lined up at once, at least
  const MOST_AHEAD_SECONDS = 60; // more stays on the server until it is needed
  const FADE_SECONDS = 0.02; // so that Stop does not click

  let context = null; // one for all sounds: a browser allows only a few
  let current = null;

  // In the user's click, because only there a browser lets a page begin to sound. Tells whether it can.
  function prepare(wanted) {
    stop();
    if (!wanted || !window.AudioContext || !window.ReadableStream) return false;
    try {
      context ??= new AudioContext({ sampleRate: USUAL_RATE });
      context.resume().catch(() => {});
      return true;
    } catch {
      return false; // no sound device, or a browser that does not allow it: the finished speech is still there
    }
  }

  function play(token) {
    stop();
    if (!token || !context) return;
    const sound = {
      cancel: new AbortController(), gain: null, sources: new Set(), waiting: [], held: 0,
      rate: 0, begin: 0, end: 0, wait: FIRST_WAIT_SECONDS, dry: true, over: false, stopped: false,
      samples: 0, gaps: 0, clock: null,
    };
    current = sound;
    read(sound, token).catch(() => {}).finally(() => {
      sound.over = true;
      if (!sound.stopped) lineUp(sound);
      if (!sound.sources.size) leave(sound);
    });
  }

  async function read(sound, token) {
    const root = (window.gradio_config?.root ?? "").replace(/\/$/, "");
    const options = { signal: sound.cancel.signal, cache: "no-store" };
    const answer = await fetch(`${root}/gpt-sovits2/stream/${token}`, options);
    if (!answer.ok) return;
    const reader = answer.body.getReader();
    let rest = new Uint8Array(0); // what is cut off in the middle of a number
    for (;;) {
      const { done, value } = await reader.read();
      if (done || sound.stopped) return;
      let bytes = join(rest, value);
      if (!sound.rate) {
        if (bytes.length < 4) { rest = bytes; continue; }
        sound.rate = new DataView(bytes.buffer).getUint32(0, true);
        bytes = bytes.slice(4);
        connect(sound);
      }
      rest = bytes.slice(bytes.length & ~1);
      add(sound, bytes);
      lineUp(sound);
      while (!sound.stopped && sound.end - context.currentTime > MOST_AHEAD_SECONDS) await sleep(500);
    }
  }

  function connect(sound) {
    if (context.sampleRate !== sound.rate) { // the browser would resample each piece by itself, which clicks at the joins
      context.close().catch(() => {});
      context = new AudioContext({ sampleRate: sound.rate });
      context.resume().catch(() => {});
    }
    sound.gain = context.createGain();
    sound.gain.connect(context.destination);
  }

  function add(sound, bytes) {
    const view = new DataView(bytes.buffer);
    const samples = new Float32Array(bytes.length >> 1);
    for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
    sound.waiting.push(samples);
    sound.held += samples.length;
  }

  // Hand what waits to the browser's clock. After it ran dry more is held back, so that it stutters less often.
  function lineUp(sound) {
    const now = context.currentTime;
    if (!sound.held) return;
    if (!sound.dry && sound.end < now + 0.01) {
      sound.dry = true;
      sound.gaps += 1;
      sound.wait = Math.min(LONGEST_WAIT_SECONDS, 2 * sound.wait);
    }
    const least = (sound.dry ? sound.wait : PIECE_SECONDS) * sound.rate;
    // A short rest may wait for more only as long as something sounds.
    if (sound.held < least && !sound.over && (sound.dry || sound.end > now + 2 * PIECE_SECONDS)) return;
    if (sound.dry) {
      sound.begin = Math.ceil((now + LEAD_SECONDS) * sound.rate); // a whole sample, else it would be smeared
      sound.dry = false;
      sound.from = 0;
    }
    const buffer = context.createBuffer(1, sound.held, sound.rate);
    let at = 0;
    for (const samples of sound.waiting) {
      buffer.copyToChannel(samples, 0, at);
      at += samples.length;
    }
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(sound.gain);
    source.onended = () => {
      sound.sources.delete(source);
      if (sound.over && !sound.sources.size) leave(sound);
    };
    sound.sources.add(source);
    // Counted in samples from where it began, so that no error grows.
    source.start((sound.begin + sound.from) / sound.rate);
    sound.from += sound.held;
    sound.samples += sound.held;
    sound.end = (sound.begin + sound.from) / sound.rate;
    sound.waiting = [];
    sound.held = 0;
    show(sound);
  }

  function stop() {
    const sound = current;
    if (!sound || sound.stopped) return;
    sound.stopped = true;
    sound.cancel.abort();
    const now = context.currentTime;
    sound.gain?.gain.setTargetAtTime(0, now, FADE_SECONDS / 4);
    for (const source of sound.sources) source.stop(now + FADE_SECONDS);
    leave(sound);
  }

  function show(sound) {
    const box = document.querySelector("#live");
    if (!box || sound.clock) return;
    const tick = () => {
      const ahead = Math.max(0, sound.end - context.currentTime);
      box.dataset.seconds = `${Math.max(0, sound.samples / sound.rate - ahead).toFixed(0)} s`;
    };
    tick();
    sound.clock = setInterval(tick, 250);
    box.classList.add("sounding");
  }

  function leave(sound) {
    clearInterval(sound.clock);
    if (current === sound) document.querySelector("#live")?.classList.remove("sounding");
  }

  // For the curious and for tests: how much was lined up, how much of it is over, how often it ran dry.
  function report() {
    if (!current) return null;
    const { samples, gaps, rate, sources, over, stopped, end } = current;
    const ahead = stopped ? 0 : Math.max(0, end - context.currentTime);
    return { samples, gaps, rate, over, stopped, ahead, sounding: !stopped && sources.size > 0, state: context.state };
  }

  function join(first, second) {
    const both = new Uint8Array(first.length + second.length);
    both.set(first);
    both.set(second, first.length);
    return both;
  }

  const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

  // Whoever starts another player wants to hear that one.
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("#player button, #history-player button")) stop();
  }, true);

  return { prepare, play, stop, report };
})();
