// Painting a mask: by mouse, pen, touch or keyboard. The image is repainted where it is painted.

import { $, FEW, showBlob } from './dom.js';

const UNDO = 12;

export class Mask {
  #state;
  #canvas = $('mask-canvas');
  #c = this.#canvas.getContext('2d', { willReadFrequently: true });
  #past = []; // ImageData before each stroke
  #erase = false;
  #at = { x: 0, y: 0 }; // of the keyboard's brush, in pixels of the canvas
  #last = null; // the stroke's last point
  #seen = null; // the image's blob that is in the dialog
  #current;

  /** current() is the image that is shown: {blob, size}, or null. */
  constructor(state, current) {
    this.#state = state;
    this.#current = current;
    const canvas = this.#canvas;
    canvas.addEventListener('pointerdown', (e) => {
      if (e.button !== 0) return;
      canvas.setPointerCapture(e.pointerId);
      this.#begin();
      this.#stroke(this.#point(e));
    });
    canvas.addEventListener('pointermove', (e) => {
      const point = this.#point(e);
      this.#showBrush(point);
      if (this.#last) for (const part of e.getCoalescedEvents?.() ?? [e]) this.#stroke(this.#point(part));
    });
    for (const kind of ['pointerup', 'pointercancel']) canvas.addEventListener(kind, () => { if (this.#last) this.#end(); });
    canvas.addEventListener('pointerleave', () => { if (document.activeElement !== canvas) $('mask-brush').hidden = true; });
    canvas.addEventListener('keydown', (e) => this.#key(e));
    canvas.addEventListener('keyup', (e) => { if (e.key === ' ' && this.#last) this.#end(); });
    canvas.addEventListener('focus', () => this.#showBrush(this.#at));
    canvas.addEventListener('blur', () => { if (this.#last) this.#end(); });

    $('brush-size').addEventListener('input', () => this.#showBrush(this.#at));
    $('mask-erase').addEventListener('click', () => this.#toggleErase());
    $('mask-undo').addEventListener('click', () => this.#undo());
    $('mask-invert').addEventListener('click', () => this.#invert());
    $('mask-clear').addEventListener('click', () => this.#clear());
    for (const id of ['mask-done', 'mask-close']) $(id).addEventListener('click', () => $('mask-dialog').close());
    $('mask-open').addEventListener('click', () => this.open());
  }

  async open() {
    const { init, mask } = this.#state.values;
    const image = await createImageBitmap(init);
    const { width, height } = image;
    image.close();
    if (this.#seen !== init) this.#past = [];
    this.#seen = init;
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#at = { x: width / 2, y: height / 2 };
    shape($('easel'), { width, height });
    showBlob($('mask-image'), init);
    if (mask) {
      const was = await createImageBitmap(mask);
      this.#c.drawImage(was, 0, 0, width, height);
      was.close();
      this.#swap();
    }
    $('mask-brush').hidden = true;
    $('mask-dialog').showModal();
    const shown = this.#current();
    $('mask-result').parentElement.hidden = !shown;
    if (shown) this.result(shown.blob, shown.size);
    this.#canvas.focus({ focusVisible: false });
  }

  /** Shows a result beside the mask. */
  result(blob, size) {
    if (!$('mask-dialog').open) return;
    $('mask-result').parentElement.hidden = false;
    shape($('mask-result').parentElement, size);
    showBlob($('mask-result'), blob);
  }

  get #radius() { return Math.max(0.5, Math.max(this.#canvas.width, this.#canvas.height) * $('brush-size').valueAsNumber / 200); }

  #point(e) {
    const box = this.#canvas.getBoundingClientRect();
    return { x: (e.clientX - box.x) * this.#canvas.width / box.width, y: (e.clientY - box.y) * this.#canvas.height / box.height };
  }

  #showBrush({ x, y }) {
    this.#at = { x, y };
    const box = this.#canvas.getBoundingClientRect();
    const by = box.width / this.#canvas.width;
    const brush = $('mask-brush');
    brush.hidden = false;
    const diameter = `${2 * this.#radius * by}px`;
    Object.assign(brush.style, { left: `${x * by}px`, top: `${y * by}px`, width: diameter, height: diameter });
  }

  #begin() {
    this.#past.push(this.#c.getImageData(0, 0, this.#canvas.width, this.#canvas.height));
    if (this.#past.length > UNDO) this.#past.shift();
  }

  #stroke(to) {
    const c = this.#c;
    const from = this.#last ?? to;
    c.globalCompositeOperation = this.#erase ? 'destination-out' : 'source-over';
    c.strokeStyle = this.#stripes();
    c.lineCap = c.lineJoin = 'round';
    c.lineWidth = 2 * this.#radius;
    c.beginPath();
    c.moveTo(from.x, from.y);
    c.lineTo(to.x + 0.01, to.y); // a point alone draws nothing
    c.stroke();
    c.globalCompositeOperation = 'source-over';
    this.#last = to;
  }

  #end() {
    this.#last = null;
    this.#changed();
  }

  /** Stripes of black and white, which show on an image of any colour. */
  #stripes() {
    const side = 2 * Math.max(1, Math.round(Math.max(this.#canvas.width, this.#canvas.height) / 64));
    const tile = new OffscreenCanvas(2 * side, 2 * side);
    const c = tile.getContext('2d');
    for (let x = 0; x < 2 * side; x++) {
      for (let y = 0; y < 2 * side; y++) {
        c.fillStyle = (x + y) % (2 * side) < side ? '#000' : '#fff';
        c.fillRect(x, y, 1, 1);
      }
    }
    return this.#c.createPattern(tile, 'repeat');
  }

  #key(e) {
    if (e.ctrlKey && e.key === 'z') this.#undo();
    else if (e.ctrlKey || e.metaKey || e.altKey) return;
    else if (e.key.startsWith('Arrow')) this.#move(e);
    else if (e.key === ' ') {
      if (!this.#last) {
        this.#begin();
        this.#stroke(this.#at);
      }
    } else if (e.key === '[' || e.key === ']') {
      if (e.key === ']') $('brush-size').stepUp(2);
      else $('brush-size').stepDown(2);
      this.#showBrush(this.#at);
    } else if (e.key === 'e') this.#toggleErase();
    else if (e.key === 'i') this.#invert();
    else if (e.key === 'z') this.#undo();
    else return;
    e.preventDefault();
  }

  #move(e) {
    const { width, height } = this.#canvas;
    const step = Math.max(1, Math.max(width, height) / (e.shiftKey ? 100 : 32));
    const within = (v, most) => Math.min(most, Math.max(0, v));
    this.#showBrush({
      x: within(this.#at.x + step * ({ ArrowLeft: -1, ArrowRight: 1 }[e.key] ?? 0), width),
      y: within(this.#at.y + step * ({ ArrowUp: -1, ArrowDown: 1 }[e.key] ?? 0), height),
    });
    if (this.#last) this.#stroke(this.#at);
  }

  #toggleErase() {
    this.#erase = !this.#erase;
    $('mask-erase').setAttribute('aria-pressed', this.#erase);
  }

  #undo() {
    const before = this.#past.pop();
    if (!before) return;
    this.#c.putImageData(before, 0, 0);
    this.#changed();
  }

  #invert() {
    this.#begin();
    this.#swap();
    this.#changed();
  }

  #clear() {
    this.#begin();
    this.#c.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#changed();
  }

  /** Swaps what is painted and what is not. */
  #swap() {
    this.#c.globalCompositeOperation = 'source-out';
    this.#c.fillStyle = this.#stripes();
    this.#c.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#c.globalCompositeOperation = 'source-over';
  }

  /** Hands the mask on: black, and transparent where the image is repainted; null if nothing is painted. */
  async #changed() {
    const { width, height } = this.#canvas;
    const painted = this.#c.getImageData(0, 0, width, height).data.some((v, i) => i % 4 === 3 && v > 127);
    if (!painted) {
      this.#state.set({ mask: null });
      return;
    }
    const out = new OffscreenCanvas(width, height);
    const c = out.getContext('2d');
    c.fillRect(0, 0, width, height);
    c.globalCompositeOperation = 'destination-out';
    c.drawImage(this.#canvas, 0, 0);
    this.#state.set({ mask: await out.convertToBlob({ type: 'image/png' }) });
  }
}

/** Gives an element the shape of an image, and its pixels their look. */
function shape(e, { width, height }) {
  e.style.setProperty('--w', width || 1);
  e.style.setProperty('--h', height || 1);
  e.classList.toggle('pixels', width < FEW);
}
