// The page: what is asked for goes to the server, and what comes back is shown.

import { ApiError, Lost, adapters, generate, models, onKey } from './api.js';
import { Controls } from './controls.js';
import { $, ask, element, icon, plural, seconds } from './dom.js';
import { History } from './history.js';
import { Input } from './input.js';
import { Latest } from './live.js';
import { refused, say, sentence, showNotices, showProgress, tell } from './lines.js';
import { Mask } from './mask.js';
import { Pace } from './pace.js';
import { size } from './png.js';
import { offerSave } from './save.js';
import { Stage } from './stage.js';
import { State, newSeed } from './state.js';

const SETTLED = 1200; // ms after which an image that is shown is one to keep
const RETRY = 1500; // ms between two attempts to find a lost server
const STOPPABLE = 300; // ms after which the button that generates stops
const TINY = 64; // pixels: of a model whose images are so small, and quick, a new user finds a grid

const state = new State();
const controls = new Controls(state);
const stage = new Stage(choose);
const history = new History(restore, say);
const mask = new Mask(state, () => stage.image(0) && { blob: stage.image(0).blob, size: stage.size });
const latest = new Latest(run, { watch: showBusy });
const pace = new Pace();
const input = new Input(state, controls, say);

let settling = 0; // the timer until what is shown goes into the history
let shown = null; // {settings, about}: of what is shown and not in the history yet
let staged = null; // what shown was last: it is on the stage until something else is
let lost = false;
let newcomer = state.fresh; // has asked for nothing yet
let changed = true; // the state, since the image was made that is shown

// --- Generating ---

/** What is asked of the server: the state, with sizes that suit the input image. */
async function wanted() {
  const p = state.settings();
  const { model } = controls;
  p.model = model?.name ?? '';
  if (model?.kind && !model.prompts && !model.classes.includes(p.prompt)) p.prompt = ''; // of a model with prompts
  p.n = Math.min(p.n, controls.limits.images);
  const edits = p.mask && !model?.prompts; // which take dozens of steps
  p.previews = edits || (p.steps || controls.steps || 1) > 8 ? 3 : 0; // few steps are done before one would be of use
  if (p.init && !controls.takesImages) p.init = p.mask = null;
  p.whole = Boolean(p.mask && !controls.usesStrength); // is repainted completely
  if (!p.init) return p;
  if (!p.width && model?.width) Object.assign(p, await sizeLike(p.init, model));
  return p;
}

/** The shape of the input image, with as many pixels as the model's images have. */
async function sizeLike(blob, { width, height, prompts }) {
  if (!prompts || width < 256) return { width, height };
  const head = size(new Uint8Array(await blob.slice(0, 33).arrayBuffer()));
  const shape = Math.sqrt(head.width / head.height);
  return { width: Math.round(width * shape / 64) * 64, height: Math.round(height / shape / 64) * 64 };
}

async function run(signal) {
  if (!controls.model) { // no key was given
    try {
      await learn();
    } catch (e) {
      if (!signal.aborted) failed(e);
      return;
    }
  }
  if (controls.nothing) {
    showProgress(null);
    tell('Type a prompt, or choose an example.');
    return;
  }
  const before = performance.now();
  let waited = 0;
  let did = '';
  changed = false;
  const timer = setInterval(() => tell(`${did ? `${did} · ` : ''}${seconds(performance.now() - before)}`, true), 250);
  try {
    const p = await wanted();
    const about = describe(p);
    clearTimeout(settling); // what was shown for a moment only is not kept
    shown = null;
    let first = true;
    const show = (it) => {
      if (signal.aborted) return;
      if (first) stage.places(p.n, about);
      first = false;
      stage.show({ ...it, about: controls.model?.classes[it.label] });
      if (it.index === 0) mask.result(stage.image(0).blob, stage.size);
    };
    const is = await generate(p, {
      image: show,
      preview: (it) => show({ ...it, preview: true }),
      progress: ({ queued, step, steps }) => {
        if (queued) waited = performance.now() - before;
        did = queued ? `Waiting for ${plural(queued, 'request')}` : step ? `Step ${step} of ${steps}` : '';
        if (steps > 1) showProgress(step / steps);
      },
    }, signal);
    if (signal.aborted) return;
    finished(p, about, performance.now() - before, waited, is);
  } catch (e) {
    if (!signal.aborted) failed(e);
  } finally {
    clearInterval(timer);
    if (!signal.aborted) showProgress(null); // else it is the newer request's, or nobody's
  }
}

function finished(p, about, ms, waited, { notices, steps }) {
  found();
  showNotices(notices);
  const { width, height } = stage.size;
  tell([seconds(ms) + (waited > 100 ? `, ${seconds(waited)} of it in the queue` : ''), steps && plural(steps, 'step'), `${width} × ${height}`, `seed ${p.seed}`].filter(Boolean).join(' · '));
  const { previews, whole, ...settings } = p;
  onStage({ ...settings, ...(p.init ? { width: state.get('width'), height: state.get('height') } : {}) }, about);
  clearTimeout(settling);
  settling = setTimeout(settle, SETTLED);
  const wasLoaded = controls.model?.loaded;
  if (!wasLoaded || !controls.model.kind) learn().catch(failed); // opening the model told the server what it is
  if (!wasLoaded) return;
  const wasSlow = pace.slow;
  pace.take(ms - waited);
  if (pace.slow === wasSlow || state.get('live') !== 'auto') return;
  const take = p.n > 1 ? `${p.n} images take` : 'An image takes';
  say(pace.slow ? `${take} ${seconds(ms)}: press Generate or Enter. "Update while typing" in the settings changes that.` : `${take} ${seconds(ms)}: the image follows while you type again.`);
}

/** Whether the image follows while somebody types. */
function follows() { return state.get('live') === 'on' || (state.get('live') === 'auto' && !pace.slow); }

/** What the stage shows has these settings, and, if it is an entry of the history, its id. */
function onStage(settings, about, id = null) {
  shown = staged = id === null ? { settings, about } : null;
  history.current = id;
  changed = false;
  $('use').hidden = !controls.takesImages || stage.images.length !== 1;
  offerSave(stage.images, stage.size, settings.seed, about);
}

/** Says once that typing has an end, and keeps the image. */
function settle() {
  if (!shown) return;
  $('status').textContent = `${plural(stage.images.length, 'image')}: ${$('meta').textContent}`;
  keep();
}

/** Puts what is shown into the history, once. */
function keep() {
  clearTimeout(settling);
  if (!shown || stage.images.length === 0) return;
  const is = shown;
  const { settings, about } = is;
  shown = null;
  history.add(settings, stage.images.map((i) => ({ ...i })), about).then(
    (id) => { if (is === staged) history.current = id; },
    () => say('The image could not be saved to the history.', true),
  );
}

function describe(p) { return p.prompt || (controls.model?.classes.length ? 'any class' : 'no prompt'); }

// --- Errors ---

function failed(e) {
  changed = true;
  tell('');
  if (e instanceof Lost) lose('The server does not answer.');
  else if (e instanceof ApiError && (e.status === 502 || e.status === 503)) lose('The server is stopping.');
  else if (e instanceof ApiError && e.status === 429) {
    const wait = Math.max(1, e.retryAfter);
    refused(`The server is busy. Trying again in ${plural(wait, 'second')}.`, false);
    setTimeout(() => { if (!latest.busy) latest.ask(); }, wait * 1000);
  } else if (e instanceof ApiError && e.status === 400 && !controls.model?.kind) {
    again(e);
  } else if (e instanceof ApiError && e.param === 'loras' && deselected(e.message)) {
    latest.ask();
  } else if (e instanceof ApiError) {
    refused(e.message);
  } else {
    refused('Something went wrong in this page: reload it.');
    console.error(e);
  }
}

/** Deselects the adapters that an error names, and says so; false if it names none. */
function deselected(message) {
  const loras = state.get('loras');
  const left = loras.filter(({ name }) => !message.includes(`"${name}"`));
  if (left.length === loras.length) return false;
  state.set({ loras: left }, { by: 'error', quiet: true });
  say(`${sentence(message.replace(/^loras: /, ''))}. It is no longer selected.`, true);
  return true;
}

/** A request for a model that was not open yet: now the server knows what the model takes, such as classes in place of prompts. */
async function again(e) {
  try {
    await learn();
  } catch (other) {
    failed(other);
    return;
  }
  if (controls.model?.kind) latest.ask();
  else refused(e.message);
}

/** The server is gone: says so, and looks for it until it is back. */
function lose(why) {
  if (lost) return;
  lost = true;
  $('lost').hidden = false;
  $('lost').textContent = `${why} Trying again…`;
  const look = async () => {
    try {
      await learn();
      found();
      latest.ask();
    } catch (e) {
      if (e instanceof Lost || e.status >= 500) setTimeout(look, RETRY);
      else failed(e);
    }
  };
  setTimeout(look, RETRY);
}

function found() {
  if (!lost) return;
  lost = false;
  $('lost').hidden = true;
  $('status').textContent = 'The server is back.';
}

async function learn() {
  const [{ models: all, limits }, names] = await Promise.all([models(), adapters()]);
  controls.know(all, limits, names);
  input.show();
  if (newcomer) welcome();
}

/** Gives a new user something to look at: a prompt, or where images are tiny and quick a grid of any class. */
function welcome() {
  const { kind, prompts, width } = controls.model ?? {};
  if (kind) newcomer = false;
  if (kind && !prompts) state.set({ prompt: '', n: width <= TINY ? controls.variations : 1 });
  else if (state.get('prompt') === '') state.set({ prompt: controls.examples[0] }, { by: 'welcome' }); // most models take prompts
  $('prompt').select();
}

onKey(async (wrong) => {
  $('key-text').textContent = wrong ? 'The server refused this key. Enter another one.' : 'This server requires an API key. The key is kept until you close this tab.';
  $('key').value = '';
  const done = await ask($('key-dialog'));
  if (done && $('key').value.trim()) return $('key').value.trim();
  throw new ApiError('This server requires an API key: press Enter in the prompt to enter one.', { status: 401 });
});

// --- What the user does ---

state.addEventListener('change', ({ detail: { names, by, quiet } }) => {
  if (names.includes('smooth')) stage.smooth = state.get('smooth');
  if (names.includes('prompt') && by !== 'welcome' && by !== 'model') newcomer = false;
  if (names.some((name) => PACED.includes(name))) pace.reset();
  if (quiet) return;
  changed = true;
  const typed = names.length === 1 && ['prompt', 'negative'].includes(names[0]) && by === 'control';
  if (follows() || !typed || !$('classes').hidden) latest.ask({ now: by === 'dice' });
});

const PACED = ['model', 'steps', 'n', 'width', 'height', 'sampler', 'init', 'mask', 'live']; // settings with which images take another time

function stop() {
  changed = true;
  latest.stop();
  showProgress(null);
}

let stopping = 0; // the timer until the button that generates stops

/** The button generates, and stops what takes a while. */
function showBusy(busy) {
  if (busy && !stopping) stopping = setTimeout(() => label('Stop'), STOPPABLE);
  if (busy) return;
  clearTimeout(stopping);
  stopping = 0;
  label('Generate');
}

function label(text) {
  $('generate').textContent = text;
  $('generate').classList.toggle('primary', text === 'Generate');
}

$('generate').addEventListener('click', () => {
  if ($('generate').textContent !== 'Stop') {
    enter();
    return;
  }
  stop();
  tell('Stopped.');
});

/** Enter makes the image; if it is there already, another one. */
function enter() {
  if (latest.busy || changed) latest.ask({ now: true });
  else state.set({ seed: newSeed() }, { by: 'dice' });
}

$('compose').addEventListener('submit', (e) => {
  e.preventDefault();
  enter();
});
$('prompt').addEventListener('keydown', (e) => {
  if (e.key !== 'Enter' || e.shiftKey || e.isComposing) return;
  e.preventDefault();
  enter();
});
addEventListener('keydown', (e) => {
  if (e.key !== 'Escape' || document.querySelector('dialog[open]')) return;
  if (latest.busy) {
    stop();
    tell('Stopped.');
  } else if (!$('settings').hidden && $('settings').contains(document.activeElement)) {
    toggleSettings(false);
  }
});

/** A variation becomes the image. */
function choose(index) {
  const it = stage.image(index);
  if (!it || it.preview) return;
  keep();
  stop();
  state.set({ n: 1, seed: it.seed }, { quiet: true });
  stage.places(1, describe(state.values));
  stage.show({ ...it, index: 0 });
  onStage(state.settings(), describe(state.values));
  const { width, height } = stage.size;
  tell(`${width} × ${height} · seed ${it.seed}`);
  $('variations').focus();
}

let restoring = null; // the entry that was asked for last

/** An entry of the history comes back: its settings and its images, without the server. */
async function restore(entry) {
  restoring = entry;
  const images = await Promise.all(entry.images.map(async (it, index) => ({ ...it, index, bytes: new Uint8Array(await it.blob.arrayBuffer()) })));
  if (restoring !== entry) return;
  keep();
  stop();
  state.restore(entry.settings, controls.kindOf(entry.settings.model), { quiet: true });
  stage.places(images.length, entry.about);
  for (const { blob, ...it } of images) stage.show(it);
  const { width, height } = stage.size;
  tell(`${width} × ${height} · seed ${entry.settings.seed} · ${new Date(entry.at).toLocaleString()}`);
  showNotices([]);
  onStage(entry.settings, entry.about, entry.id);
  $('status').textContent = `Restored: ${entry.about}`;
}

$('save').addEventListener('click', () => keep());
$('use').addEventListener('click', async () => {
  keep();
  await input.use(stage.images[0].blob);
});
$('chip-open').addEventListener('click', () => {
  toggleSettings(true);
  $('input-field').scrollIntoView({ block: 'nearest' });
  $('mask-open').focus();
});

function toggleSettings(open) {
  $('settings').hidden = !open;
  $('settings-button').setAttribute('aria-expanded', open);
  if (open) $('settings').focus();
  else $('settings-button').focus();
}
$('settings-button').addEventListener('click', () => toggleSettings($('settings').hidden));
$('settings-close').addEventListener('click', () => toggleSettings(false));

/** The button of the variations shows what it leads to. */
state.addEventListener('change', showVariations);
function showVariations() {
  const many = state.get('n') > 1;
  $('variations').replaceChildren(icon(many ? 'one' : 'grid'), element('span', { className: 'hidden', textContent: 'Nine variations' }));
  $('variations').title = many ? 'One image' : 'Nine variations';
}

// --- Start ---

stage.smooth = state.get('smooth');
showVariations();
$('prompt').focus();
await history.open();
if (!history.lasting) say('This browser does not store data for this page: the history is lost when you close it.');
try {
  await learn();
  const from = history.last;
  if (from && from.settings.prompt === state.get('prompt') && from.settings.seed === state.get('seed') && from.settings.n === state.get('n')) await restore(from);
  else latest.ask({ now: true });
} catch (e) {
  failed(e);
}
