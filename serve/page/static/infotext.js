// Settings as image files hold them: A1111's "parameters", and onestep's own JSON of models with classes.

/** The settings in an image's texts, as far as this server can have them; null if it has none. notices says what could not be taken over. */
export function fromTexts(texts, models) {
  if (texts.parameters) return fromParameters(texts.parameters, models);
  if (texts.onestep) return fromJSON(texts.onestep, models);
  return null;
}

/** Splits A1111's format: the prompt, "Negative prompt: …", and a line "Steps: 4, Sampler: LCM, …". */
export function parse(text) {
  const lines = text.trim().split('\n');
  const last = lines.findLastIndex((line) => /^Steps: \d/.test(line));
  const fields = last >= 0 ? settingsIn(lines.splice(last).join('\n')) : {};
  const at = lines.findIndex((line) => line.startsWith('Negative prompt:'));
  const negative = at < 0 ? '' : lines.splice(at).join('\n').slice('Negative prompt:'.length).trim();
  return { prompt: lines.join('\n').trim(), negative, fields };
}

/** The settings "name: value, name: "value, quoted"". Each character is looked at a few times at most, since images of strangers are dropped on the page. */
function settingsIn(text) {
  const fields = {};
  const quoted = /"(?:\\.|[^\\"])*"/y;
  for (let at = 0; at < text.length;) {
    const colon = text.indexOf(':', at);
    if (colon < 0) break;
    let from = colon;
    while (from > at && /[\w /-]/.test(text[from - 1])) from--;
    const name = text.slice(from, colon).trim();
    let start = colon + 1;
    while (start < text.length && /\s/.test(text[start])) start++;
    quoted.lastIndex = start;
    let end = quoted.test(text) ? quoted.lastIndex : -1;
    if (end < 0 || (end < text.length && text[end] !== ',')) end = text.indexOf(',', start);
    if (end < 0) end = text.length;
    if (name) fields[name] ??= unquote(text.slice(start, end));
    at = end + 1;
  }
  return fields;
}

function unquote(value) {
  try {
    return value.startsWith('"') ? String(JSON.parse(value)) : value.trim();
  } catch {
    return value;
  }
}

function fromParameters(text, models) {
  const { prompt, negative, fields } = parse(text);
  if (!prompt && Object.keys(fields).length === 0) return null;
  const settings = { prompt, negative };
  const notices = [];
  const number = (name, to, least) => {
    const value = Number(fields[name]);
    if (fields[name] !== undefined && Number.isFinite(value) && value >= least) settings[to] = value;
  };
  number('Steps', 'steps', 1);
  number('CFG scale', 'guidance', 0);
  number('Seed', 'seed', 0);
  number('Denoising strength', 'strength', 0.01);
  const size = /^(\d+)x(\d+)$/.exec(fields.Size ?? '');
  if (size) Object.assign(settings, { width: Number(size[1]), height: Number(size[2]) });

  const { model, notice } = modelOf(fields.Model, models, ({ prompts }) => prompts, fields['Model hash']);
  if (model) {
    settings.model = model.name;
    if (notice) notices.push(notice);
    if (fields.Sampler) {
      const wanted = [fields.Sampler, `${fields.Sampler} ${fields['Schedule type'] ?? ''}`].map(plain).reverse();
      const sampler = wanted.map((w) => model.samplers.find((s) => plain(s.name) === w || plain(s.title) === w)).find(Boolean);
      if (sampler) settings.sampler = sampler.name;
      else if (model.samplers.length) notices.push(`The image was made with the sampler ${fields.Sampler}, which the model does not have.`);
    }
    if (settings.width === model.width && settings.height === model.height) settings.width = settings.height = 0;
  }
  return { settings, notices };
}

/**
 * The model of an image: by the name that the server gives it, or by that of its file, with or without the hash behind it; else the first one that
 * fits, and a notice that says so.
 */
function modelOf(name, models, fits, hash = '') {
  if (!name) return { model: models.find(fits) };
  const file = name.replace(/\.(safetensors|ckpt)$/, '');
  const [, bare, tail] = HASHED.exec(file) ?? [];
  const model = [name, file, bare].map((n) => n && models.find((m) => m.name === n || m.file === n)).find(Boolean);
  if (!model) return { model: models.find(fits), notice: `The image was made with the model ${name}, which this server does not have.` };
  const [, , mine] = HASHED.exec(model.file ?? '') ?? [];
  const theirs = hash || tail;
  return { model, notice: mine && theirs && mine !== theirs ? `The image was made with another version of the model ${model.name}.` : '' };
}

const HASHED = /^(.+)-([0-9a-f]{8})$/;

function plain(name) { return name.toLowerCase().replaceAll('+', 'p').replace(/[^a-z0-9]/g, ''); }

function fromJSON(text, models) {
  let has;
  try {
    has = JSON.parse(text);
  } catch {
    return null;
  }
  if (has === null || typeof has !== 'object') return null;
  const settings = {};
  const notices = [];
  const { model, notice } = modelOf(typeof has.model === 'string' ? has.model : '', models, ({ classes, prompts }) => classes.length > 0 || !prompts);
  if (model) {
    settings.model = model.name;
    if (notice) notices.push(notice);
    settings.prompt = (Number.isInteger(has.label) && model.classes[has.label]) || '';
    if (model.samplers.some((s) => s.name === has.sampler)) settings.sampler = has.sampler;
  } else {
    notices.push('The image was made by a model with classes, which this server does not have.');
  }
  for (const [name, least] of [['steps', 1], ['guidance', 0], ['seed', 0]]) if (Number.isFinite(has[name]) && has[name] >= least) settings[name] = has[name];
  if (has.task) notices.push('The image was made from an input image, which is not in the file.');
  return { settings, notices };
}
