// What is asked for: one object of plain values, kept over a reload, and an event 'change' with the names of what changed.

const KEPT = 'onestep.settings';

const defaults = () => ({
  model: '', // '': the first
  prompt: '', // for a model with classes: the name of one, or '' for any
  negative: '',
  n: 1,
  seed: newSeed(),
  steps: 0, // 0, and for guidance and sizes, too: the model's default
  guidance: 0,
  width: 0,
  height: 0,
  sampler: '',
  loras: [], // {name, weight}
  strength: 0.6,
  init: null, // Blob of the input image
  mask: null, // Blob of the mask: transparent where it is repainted
  live: 'auto', // whether images follow while somebody types: 'auto', 'on' or 'off'
  smooth: false,
  kind: 'text', // of model that prompt, negative and loras are for: 'text' or 'class'
  aside: {}, // those of the other kind
});

/** What belongs to the page and not to an image. */
const ofPage = ['live', 'smooth', 'kind', 'aside'];
const ofKind = ['prompt', 'negative', 'loras'];

export function newSeed() { return crypto.getRandomValues(new Uint32Array(1))[0]; }

export class State extends EventTarget {
  constructor() {
    super();
    const old = kept();
    this.fresh = !old; // nothing is kept: the first visit
    this.values = { ...defaults(), ...old };
  }

  get(name) { return this.values[name]; }

  /** Sets values; by: who did, so that it needs not to follow itself. quiet: nothing is generated for it. */
  set(changes, { by = null, quiet = false } = {}) {
    const names = Object.keys(changes).filter((name) => changes[name] !== this.values[name]);
    if (names.length === 0) return;
    Object.assign(this.values, changes);
    keep(this.values);
    this.dispatchEvent(new CustomEvent('change', { detail: { names, by, quiet: quiet || names.every((n) => ofPage.includes(n)) } }));
  }

  /** Returns everything to its default but the prompt, the model and the input image. */
  reset() {
    const { model, prompt, init, mask, kind, aside } = this.values;
    this.set({ ...defaults(), model, prompt, init, mask, kind, aside, loras: [] });
  }

  /** The changes that put what is for one kind of model aside, and take what was put aside for another. */
  turned(kind) {
    const { kind: before, aside } = this.values;
    if (kind === before) return {};
    const now = Object.fromEntries(ofKind.map((name) => [name, this.values[name]]));
    const { prompt, negative, loras } = defaults();
    return { prompt, negative, loras, ...aside[kind], kind, aside: { ...aside, [before]: now } };
  }

  /** What reproduces an image. */
  settings() {
    const all = structuredClone(this.values);
    for (const name of ofPage) delete all[name];
    return all;
  }

  /** Takes what settings() returned, or some of it, for a kind of model; what is missing has its default. */
  restore(settings, kind, options) {
    const fresh = defaults();
    for (const name of ofPage) delete fresh[name];
    const known = Object.fromEntries(Object.entries(settings).filter(([name]) => name in fresh));
    this.set({ ...this.turned(kind), ...fresh, ...known }, options);
  }
}

/** Images are not kept here: the history has them. */
function keep(values) {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ ...values, init: undefined, mask: undefined }));
  } catch { /* a browser that keeps nothing: the page works without */ }
}

function kept() {
  try {
    const all = JSON.parse(localStorage.getItem(KEPT));
    if (!all) return null;
    const fresh = defaults();
    return Object.fromEntries(Object.entries(all).filter(([name, v]) => typeof v === typeof fresh[name] && v !== null && Array.isArray(v) === Array.isArray(fresh[name])));
  } catch {
    return null;
  }
}
