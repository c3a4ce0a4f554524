// What the page says: the line below the image, the bar of progress, the lines below the prompt, and the line for screen readers.

import { $, element } from './dom.js';

const READ = 6000; // ms in which a line is read

let showing = 0; // of the progress bar: quick requests have none

export function tell(text, working = false) {
  $('meta').textContent = text;
  if (working && $('progress').hidden && !showing) showing = setTimeout(() => { $('progress').hidden = false; }, 150);
}

export function showProgress(part) {
  if (part === null) {
    clearTimeout(showing);
    showing = 0;
    $('progress').hidden = true;
    $('progress').removeAttribute('value');
  } else {
    $('progress').value = part;
  }
}

/** Shows the notices of the server, with what was said of late. */
export function showNotices(notices) { write([...lately(), ...notices.map((text) => ({ text: sentence(text) }))]); }

function write(list) {
  $('notices').replaceChildren(...list.map((one) => {
    const li = element('li', { textContent: one.text, className: one.error ? 'error' : '' });
    if (!one.undo) return li;
    const button = element('button', { type: 'button', className: 'link', textContent: 'Undo' });
    button.addEventListener('click', () => {
      said = said.filter((other) => other !== one);
      one.undo();
      li.remove();
    });
    li.append(' ', button);
    return li;
  }));
}

/** What the server says begins in lower case, and what the page says with a capital letter. */
export function sentence(text) { return text.slice(0, 1).toUpperCase() + text.slice(1); }

let said = []; // what was said of late: {text, error, at, undo}

/** Says something, long enough to be read even if images come meanwhile. With undo it has a button, which calls it. */
export function say(text, error = false, undo = null) {
  said = [...lately(), { text, error, at: performance.now(), undo }];
  write(said);
  $('status').textContent = text;
}

function lately() { return said.filter(({ at }) => performance.now() - at < READ); }

/** Says why there is no image, until there is one. */
export function refused(text, error = true) {
  write([...lately(), { text: sentence(text), error }]);
  $('status').textContent = text;
}
