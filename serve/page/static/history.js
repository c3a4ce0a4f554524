// The history: a strip of what was made, which survives a reload.

import { $, FEW, element, icon, plural } from './dom.js';
import { size } from './png.js';
import { Store, surplus } from './store.js';

const THUMB = 128; // pixels

export class History {
  #store = new Store();
  #entries = []; // oldest first
  #strip = $('strip');
  #current = null;
  #say;
  #adding = Promise.resolve(); // entries are added one after the other

  /** restore(entry) is called when an entry is chosen, and say(text, error, undo) to tell what was deleted. */
  constructor(restore, say) {
    this.#say = say;
    this.#strip.addEventListener('click', (e) => {
      const item = e.target.closest('.past');
      if (!item) return;
      const entry = this.#entries.find(({ id }) => id === Number(item.dataset.id));
      if (e.target.closest('.delete')) this.#delete(entry);
      else restore(entry);
    });
    this.#strip.addEventListener('keydown', (e) => this.#key(e));
    $('history-clear').addEventListener('click', async () => {
      const all = this.#entries;
      await this.#store.clear();
      this.#entries = [];
      this.#show();
      this.#say(`${plural(all.length, 'image')} deleted from the history.`, false, () => this.#undelete(all));
      $('prompt').focus();
    });
  }

  /** Puts deleted entries back in their places. */
  async #undelete(entries) {
    for (const entry of entries) await this.#store.add(entry); // with the ids that they had
    this.#entries = [...entries, ...this.#entries].sort((a, b) => a.id - b.id);
    this.#show();
    this.current = this.#current;
  }

  #show() {
    for (const img of this.#strip.querySelectorAll('img')) URL.revokeObjectURL(img.src);
    this.#strip.replaceChildren(...this.#entries.map((e) => this.#item(e)).reverse());
    this.#update();
  }

  get lasting() { return this.#store.lasting; }
  get last() { return this.#entries.at(-1); }

  async open() {
    this.#entries = await this.#store.open();
    this.#show();
  }

  /** Adds what is shown, and returns its id: images are {blob, bytes, seed}. */
  add(settings, images, about) {
    this.#adding = this.#adding.catch(() => {}).then(async () => {
      const thumb = await thumbnail(images);
      const { width } = size(images[0].bytes);
      const entry = { settings, images: images.map(({ blob, seed, about: of }) => ({ blob, seed, about: of })), thumb, width, about, at: Date.now() };
      entry.id = await this.#store.add(entry);
      this.#entries.push(entry);
      this.#strip.prepend(this.#item(entry));
      for (const old of surplus(this.#entries)) await this.#delete(old, false);
      this.#update();
      return entry.id;
    });
    return this.#adding;
  }

  /** The entry that is shown; null if what is shown is none. */
  set current(id) {
    this.#current = id;
    for (const item of this.#strip.children) {
      const button = item.querySelector('.restore');
      if (Number(item.dataset.id) === id) button.setAttribute('aria-current', 'true');
      else button.removeAttribute('aria-current');
    }
  }

  async #delete(entry, follow = true) {
    const item = [...this.#strip.children].find((i) => Number(i.dataset.id) === entry.id);
    const next = item?.nextElementSibling ?? item?.previousElementSibling;
    const focused = item?.contains(document.activeElement);
    await this.#store.delete(entry.id);
    this.#entries = this.#entries.filter((e) => e !== entry);
    URL.revokeObjectURL(item?.querySelector('img').src);
    item?.remove();
    this.#update();
    if (follow) this.#say(`Deleted: ${entry.about}`, false, () => this.#undelete([entry]));
    if (follow && focused) (next?.querySelector('.restore') ?? $('prompt')).focus();
  }

  /** One stop for Tab: arrow keys go along. */
  #key(e) {
    const items = [...this.#strip.children];
    const at = items.findIndex((i) => i.contains(document.activeElement));
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1 }[e.key];
    if (e.key === 'Delete' || e.key === 'Backspace') this.#delete(this.#entries.find(({ id }) => id === Number(items[at].dataset.id)));
    else if (to === undefined || !items[to]) return;
    else {
      items.forEach((i) => { i.querySelector('.restore').tabIndex = -1; });
      items[to].querySelector('.restore').tabIndex = 0;
      items[to].querySelector('.restore').focus();
    }
    e.preventDefault();
  }

  #item(entry) {
    const img = element('img', { src: URL.createObjectURL(entry.thumb), alt: entry.about, width: 60, height: 60 });
    const restore = element('button', { type: 'button', className: 'restore', tabIndex: -1, title: entry.about }, img);
    const remove = element('button', { type: 'button', className: 'delete', tabIndex: -1, 'aria-label': `Delete ${entry.about}` }, icon('close'));
    const item = element('div', { className: entry.width < FEW && entry.images.length === 1 ? 'past pixels' : 'past' }, restore, remove);
    item.dataset.id = entry.id;
    return item;
  }

  #update() {
    $('history-clear').hidden = this.#entries.length === 0;
    const stops = [...this.#strip.querySelectorAll('.restore')];
    if (stops.length && !stops.some((b) => b.tabIndex === 0)) stops[0].tabIndex = 0;
  }
}

/** A small square of the image, or of the first variations. */
async function thumbnail(images) {
  const columns = Math.ceil(Math.sqrt(images.length));
  const canvas = new OffscreenCanvas(THUMB, THUMB);
  const c = canvas.getContext('2d');
  const side = THUMB / columns;
  for (const [i, { blob }] of images.entries()) {
    const bitmap = await createImageBitmap(blob);
    const cut = Math.min(bitmap.width, bitmap.height);
    c.imageSmoothingEnabled = bitmap.width >= FEW;
    c.imageSmoothingQuality = 'high';
    c.drawImage(bitmap, (bitmap.width - cut) / 2, (bitmap.height - cut) / 2, cut, cut, (i % columns) * side, Math.floor(i / columns) * side, side, side);
    bitmap.close();
  }
  return canvas.convertToBlob({ type: 'image/png' });
}
