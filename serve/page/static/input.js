// Images that come in, by dropping, pasting or choosing: as input image, or for the settings in them.

import { $, FEW, ask, plural, showBlob } from './dom.js';
import { pngInfo } from './api.js';
import { fromTexts } from './infotext.js';
import { isPNG, texts } from './png.js';

const SIDE = 1024; // pixels of an input image, at most

export class Input {
  #state; #controls; #say;

  /** say(text, error) tells the user something. */
  constructor(state, controls, say) {
    this.#state = state;
    this.#controls = controls;
    this.#say = say;
    for (const id of ['open-image', 'input-choose', 'input-replace']) $(id).addEventListener('click', () => $('file').click());
    $('file').addEventListener('change', () => {
      const [file] = $('file').files;
      $('file').value = ''; // so that the same file can be chosen again
      if (file) this.open(file);
    });
    for (const [id, next] of [['input-remove', 'input-choose'], ['chip-remove', 'prompt']]) $(id).addEventListener('click', () => {
      state.set({ init: null, mask: null });
      $(next).focus();
    });
    this.#dropping();
    document.addEventListener('paste', (e) => {
      const file = [...e.clipboardData.files].find(({ type }) => type.startsWith('image/'));
      if (!file || document.querySelector('dialog[open]')) return;
      e.preventDefault();
      this.open(file);
    });
    state.addEventListener('change', (e) => { if (e.detail.names.some((n) => ['init', 'mask', 'model'].includes(n))) this.show(); });
    this.show();
  }

  #dropping() {
    let depth = 0; // of the elements that are dragged over
    const over = (by) => {
      depth = Math.max(0, depth + by);
      $('drop').hidden = depth === 0;
    };
    const files = (e) => e.dataTransfer?.types.includes('Files') && !document.querySelector('dialog[open]');
    addEventListener('dragenter', (e) => { if (files(e)) over(1); });
    addEventListener('dragleave', (e) => { if (files(e)) over(-1); });
    addEventListener('dragover', (e) => { if (e.dataTransfer) e.preventDefault(); });
    addEventListener('drop', (e) => {
      e.preventDefault(); // the browser would leave the page for the file
      over(-depth);
      const file = files(e) && [...e.dataTransfer.files].find(({ type }) => type.startsWith('image/'));
      if (file) this.open(file);
      else if (files(e)) this.#say('That is not an image: drop a PNG, JPEG or WebP file.', true);
    });
  }

  /** Takes an image file. One with settings may be wanted for these. */
  async open(file) {
    const found = await this.#settings(file);
    if (!found) {
      await this.use(file);
      return;
    }
    showBlob($('opened-image'), file);
    const { prompt, seed, steps } = found.settings;
    $('opened-text').textContent = [prompt || 'no prompt', [steps && plural(steps, 'step'), seed !== undefined && `seed ${seed}`].filter(Boolean).join(', ')].filter(Boolean).join('\n');
    const wish = await ask($('opened-dialog'));
    showBlob($('opened-image'), null);
    if (wish === 'restore') {
      this.#state.restore(found.settings, this.#controls.kindOf(found.settings.model ?? this.#state.get('model')));
      found.notices.forEach((n) => this.#say(n));
    } else if (wish === 'input') {
      await this.use(file);
    }
  }

  /** The settings in a file; null if it has none, or if they cannot be read. */
  async #settings(file) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    try {
      const other = /^\xff\xd8\xff|^RIFF....WEBP/s.test(String.fromCharCode(...bytes.subarray(0, 12))); // JPEG or WebP, whose texts the server reads
      const found = isPNG(bytes) ? await texts(bytes) : other ? { parameters: await pngInfo(file) } : {};
      return fromTexts(found, this.#controls.models);
    } catch {
      return null;
    }
  }

  /** Makes a file the input image. */
  async use(file) {
    if (!this.#controls.takesImages) {
      this.#say(`${this.#controls.model.name} takes no input images.`, true);
      return;
    }
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      this.#say('The image cannot be read: it is damaged, or in a format that this browser does not support.', true);
      return;
    }
    const by = Math.min(1, SIDE / bitmap.width, SIDE / bitmap.height, Math.sqrt(this.#controls.limits.pixels / (bitmap.width * bitmap.height)));
    const canvas = new OffscreenCanvas(Math.max(1, Math.floor(bitmap.width * by)), Math.max(1, Math.floor(bitmap.height * by)));
    const c = canvas.getContext('2d');
    c.imageSmoothingQuality = 'high';
    c.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    this.#state.set({ init: await canvas.convertToBlob({ type: 'image/png' }), mask: null });
    this.#say('Input image set. Strength and a mask are in the settings.');
  }

  show() {
    const { init, mask } = this.#state.values;
    $('chip').hidden = !init || !this.#controls.takesImages;
    showBlob($('chip-image'), init);
    $('chip-open').title = mask ? 'Input image with a mask: settings' : 'Input image: settings';
    $('input-none').hidden = Boolean(init);
    $('input-some').hidden = !init;
    showBlob($('input-image'), init);
    showBlob($('input-mask'), mask);
    $('input-mask').hidden = !mask;
    $('mask-open-text').textContent = mask ? 'Edit the mask' : 'Paint a mask';
    $('input-image').onload = ({ target }) => { target.style.imageRendering = target.naturalWidth < FEW ? 'pixelated' : ''; };
  }
}
