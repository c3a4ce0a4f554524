// The image, or the grid of variations.

import { $, FEW, element, showBlob } from './dom.js';
import { isPNG, size } from './png.js';

export class Stage {
  #frame = $('frame');
  #shown = []; // {blob, bytes, seed, preview} by place
  #alt = '';

  /** choose(index) is called when one of several images is chosen. */
  constructor(choose) {
    this.#frame.addEventListener('click', (e) => {
      const button = e.target.closest('button');
      if (button) choose([...this.#frame.children].indexOf(button));
    });
  }

  /** The finished images in their places. */
  get images() { return this.#shown.filter((i) => i && !i.preview); }

  image(index) { return this.#shown[index]; }

  /** Makes n places. What was shown stays until it is replaced. */
  places(n, alt) {
    this.#alt = alt;
    if (this.#frame.childElementCount === n) return;
    this.#shown = this.#shown.slice(0, n);
    this.#frame.dataset.n = n;
    this.#frame.style.setProperty('--columns', Math.ceil(Math.sqrt(n)));
    const old = [...this.#frame.querySelectorAll('img')];
    const images = Array.from({ length: n }, (_, i) => old[i] ?? element('img', { alt: '' }));
    old.slice(n).forEach((img) => showBlob(img, null));
    this.#frame.replaceChildren(...(n === 1 ? images : images.map((img) => element('button', { type: 'button' }, img))));
    images.forEach((img, i) => this.#describe(img, i));
  }

  /** Shows an image in its place: {index, bytes, seed, preview, about}; about is for its class, if it was not asked for. */
  show(it) {
    const img = this.#frame.querySelectorAll('img')[it.index];
    if (!img) return;
    const blob = new Blob([it.bytes], { type: isPNG(it.bytes) ? 'image/png' : '' });
    this.#shown[it.index] = { ...it, blob };
    $('empty').hidden = true;
    if (isPNG(it.bytes)) this.#fit(size(it.bytes));
    else img.onload = () => this.#fit({ width: img.naturalWidth, height: img.naturalHeight });
    img.toggleAttribute('data-preview', Boolean(it.preview));
    showBlob(img, blob);
    this.#describe(img, it.index);
  }

  /** Shows few pixels as smooth or as squares. */
  set smooth(on) {
    this.#frame.dataset.smooth = on;
    this.#pixels();
  }

  get size() { return { width: Number(this.#frame.style.getPropertyValue('--w')) || 0, height: Number(this.#frame.style.getPropertyValue('--h')) || 0 }; }

  #fit({ width, height }) {
    this.#frame.style.setProperty('--w', width);
    this.#frame.style.setProperty('--h', height);
    this.#pixels();
  }

  #pixels() {
    const { width } = this.size;
    this.#frame.classList.toggle('pixels', width > 0 && width < FEW && this.#frame.dataset.smooth !== 'true');
  }

  #describe(img, index) {
    const of = this.#frame.childElementCount > 1 ? `Variation ${index + 1}: ` : 'Generated image: ';
    const seed = this.#shown[index]?.seed;
    img.alt = of + (this.#shown[index]?.about || this.#alt || 'no prompt') + (seed === undefined ? '' : `, seed ${seed}`);
  }
}
