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
export function showNotices(notices) { write([...lately(), ...notices.map((text) => ({ text }))]); }

function write(list) {
  $('notices').replaceChildren(...list.map(({ text, error }) => element('li', { textContent: text, className: error ? 'error' : '' })));
}

let said = []; // what was said of late: {text, error, at}

/** Says something, long enough to be read even if images come meanwhile. */
export function say(text, error = false) {
  said = [...lately(), { text, error, at: performance.now() }];
  write(said);
  $('status').textContent = text;
}

function lately() { return said.filter(({ at }) => performance.now() - at < READ); }

/** Says why there is no image, until there is one. */
export function refused(text, error = true) {
  write([...lately(), { text, error }]);
  $('status').textContent = text;
}
