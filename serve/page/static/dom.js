// Small things that every module needs of the document.

export const $ = (id) => document.getElementById(id);

/** An element with properties; those with a hyphen are attributes. */
export function element(tag, properties = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') e.setAttribute(name, value);
    else e[name] = value;
  }
  e.append(...children);
  return e;
}

/** Gives a select its options, [value, text] each; the same ones are left alone. */
export function offer(select, options) {
  const same = select.options.length === options.length && options.every(([value, text], i) => select.options[i].value === value && select.options[i].textContent === text);
  if (!same) select.replaceChildren(...options.map(([value, textContent]) => element('option', { value, textContent })));
}

const SVG = 'http://www.w3.org/2000/svg';

export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Shows a dialog, and returns what it was closed with; '' when it was dismissed. */
export function ask(dialog) {
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener('close', () => resolve(dialog.returnValue), { once: true }));
}

/** Shows a blob in an image, and frees what it showed before. */
export function showBlob(img, blob) {
  if (img.src.startsWith('blob:')) URL.revokeObjectURL(img.src);
  if (blob) img.src = URL.createObjectURL(blob);
  else img.removeAttribute('src');
}

/** Few pixels are shown as squares, unless somebody wants them smooth. */
export const FEW = 64;

export function seconds(ms) {
  const s = ms / 1000;
  return `${s < 10 ? s.toFixed(2) : s.toFixed(s < 100 ? 1 : 0)} s`;
}

export function plural(n, one, more = `${one}s`) { return `${n} ${n === 1 ? one : more}`; }
