// The server: its models, and images as a stream. Every request carries the API key, if there is one.

const KEY = 'onestep.key';

/** An answer that is an error. */
export class ApiError extends Error {
  constructor(message, { status = 0, retryAfter = 0, param = '' } = {}) {
    super(message);
    Object.assign(this, { status, retryAfter, param });
  }
}

/** No answer, or one that ended early. */
export class Lost extends Error {}

/** Asks the user for a key; the page sets it. Its promise resolves when there is a new one. */
let askKey = async () => { throw new ApiError('The server requires an API key.', { status: 401 }); };
export function onKey(ask) { askKey = ask; }

let asking = null;

async function request(path, init = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...init.headers };
    if (key) headers.Authorization = `Bearer ${key}`;
    let answer;
    try {
      answer = await fetch(path, { ...init, headers });
    } catch (e) {
      throw e.name === 'AbortError' ? e : new Lost();
    }
    if (answer.ok) return answer;
    if (answer.status !== 401) throw await refusal(answer);
    if (key === sessionStorage.getItem(KEY)) { // no other request has asked meanwhile
      asking ??= askKey(Boolean(key)).finally(() => { asking = null; });
      sessionStorage.setItem(KEY, await asking);
    }
    init.signal?.throwIfAborted();
  }
}

/** The error of an answer, in OpenAI's form or in any other. */
async function refusal(answer) {
  let told = {};
  try {
    told = (await answer.json()).error ?? {};
  } catch { /* a proxy's page; its status has to do */ }
  return new ApiError(told.message || `The server answered ${answer.status} ${answer.statusText}.`, {
    status: answer.status, retryAfter: Number(answer.headers.get('Retry-After')) || 0, param: told.param || '',
  });
}

export async function models() { return (await request('/api/models')).json(); }
export async function adapters() { return (await (await request('/api/adapters')).json()).adapters; }

/** The text of an image file's settings, as the server reads it; '' if it has none. */
export async function pngInfo(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const answer = await request('/sdapi/v1/png-info', {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ image: toBase64(bytes) }),
  });
  return (await answer.json()).info ?? '';
}

/**
 * Generates images. on.image({index, bytes, seed, label}) is called for each, on.preview({index, bytes}) for unfinished ones, on.progress({queued, step, steps})
 * while it waits and works. It returns the server's notices and the number of steps.
 */
export async function generate(params, on, signal) {
  const fields = requestFields(params);
  const init = { method: 'POST', signal };
  if (params.init) {
    const form = new FormData();
    for (const [name, value] of Object.entries(fields)) if (value !== '') form.set(name, typeof value === 'object' ? JSON.stringify(value) : String(value));
    form.set('image', params.init, 'image.png');
    if (params.mask) form.set('mask', params.mask, 'mask.png');
    init.body = form;
  } else {
    init.headers = { 'Content-Type': 'application/json' };
    init.body = JSON.stringify(fields);
  }
  const path = !params.init ? 'generations' : params.prompt ? 'edits' : 'variations'; // an edit has to have a prompt
  const answer = await request(`/v1/images/${path}`, init);
  const notices = new Set();
  let images = 0;
  let steps = 0;
  const take = (it) => {
    for (const n of it.notices ?? []) notices.add(n);
    const index = it.index ?? images;
    images++;
    steps = it.steps ?? steps;
    on.image({ index, bytes: fromBase64(it.b64_json), seed: it.seed ?? params.seed + index, label: it.label });
  };
  if (!answer.headers.get('Content-Type')?.startsWith('text/event-stream')) {
    const whole = await answer.json();
    for (const n of whole.notices ?? []) notices.add(n);
    whole.data.forEach(take);
    return { notices: [...notices], steps: whole.steps ?? steps };
  }
  for await (const event of events(answer.body)) {
    signal?.throwIfAborted();
    const kind = event.type ?? '';
    if (kind === 'error' || event.error) throw new ApiError(event.error?.message ?? event.message ?? 'The server stopped with an error.', { status: event.error?.status, param: event.error?.param || '' });
    if (kind.endsWith('.completed')) take(event);
    else if (kind.endsWith('.partial_image')) on.preview({ index: event.index ?? 0, bytes: fromBase64(event.b64_json) });
    else if (event.comment !== undefined) on.progress(progress(event.comment));
    for (const n of event.notices ?? []) notices.add(n);
  }
  if (images === 0) throw new Lost();
  return { notices: [...notices], steps };
}

/** The fields of a request. What is left to the model is left out. */
function requestFields(p) {
  const fields = {
    prompt: p.prompt, n: p.n, seed: p.seed,
    response_format: 'b64_json', output_format: 'png', stream: true, partial_images: p.previews ?? 0,
  };
  if (p.model) fields.model = p.model;
  if (p.steps) fields.steps = p.steps;
  if (p.guidance) fields.guidance = p.guidance;
  if (p.negative) fields.negative_prompt = p.negative;
  if (p.sampler) fields.sampler = p.sampler;
  if (p.width && p.height) fields.size = `${p.width}x${p.height}`;
  if (p.loras?.length) fields.loras = p.loras;
  if (p.init && !p.whole) fields.strength = p.strength;
  return fields;
}

/** What the comments of a stream say: "queued 3", "started", "step 2/4". */
function progress(comment) {
  const [, queued] = /^queued (\d+)$/.exec(comment) ?? [];
  const [, step, steps] = /^step (\d+)\/(\d+)$/.exec(comment) ?? [];
  return { queued: Number(queued) || 0, step: Number(step) || 0, steps: Number(steps) || 0 };
}

/** The JSON of server-sent events, and the comments between them as {comment}. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const line of lines.map((l) => l.replace(/\r$/, ''))) {
        if (line.startsWith(':')) yield { comment: line.slice(1).trim() };
        if (line.startsWith('data:')) data.push(line.slice(5).trimStart());
        if (line !== '' || data.length === 0) continue;
        const text = data.join('\n');
        data = [];
        if (text !== '[DONE]') yield JSON.parse(text);
      }
    }
  } catch (e) {
    throw e instanceof TypeError ? new Lost() : e; // what fetch throws when the connection breaks
  } finally {
    reader.cancel().catch(() => {});
  }
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

function toBase64(bytes) {
  if (bytes.toBase64) return bytes.toBase64();
  let text = '';
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
