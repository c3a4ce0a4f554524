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

  const model = models.find(({ name }) => name === fields.Model) ?? models.find(({ prompts }) => prompts);
  if (model) {
    settings.model = model.name;
    if (fields.Model && fields.Model !== model.name) notices.push(`The image was made with the model ${fields.Model}, which this server does not have.`);
    if (fields.Sampler) {
      const sampler = model.samplers.find((s) => plain(s) === plain(fields.Sampler));
      if (sampler) settings.sampler = sampler;
      else if (model.samplers.length) notices.push(`The image was made with the sampler ${fields.Sampler}, which the model does not have.`);
    }
    if (settings.width === model.width && settings.height === model.height) settings.width = settings.height = 0;
  }
  return { settings, notices };
}

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
  const model = models.find(({ classes, prompts }) => classes.length > 0 || !prompts);
  if (model) {
    settings.model = model.name;
    settings.prompt = (Number.isInteger(has.label) && model.classes[has.label]) || '';
    if (model.samplers.includes(has.sampler)) settings.sampler = has.sampler;
  } else {
    notices.push('The image was made by a model with classes, which this server does not have.');
  }
  for (const [name, least] of [['steps', 1], ['guidance', 0], ['seed', 0]]) if (Number.isFinite(has[name]) && has[name] >= least) settings[name] = has[name];
  if (has.task) notices.push('The image was made from an input image, which is not in the file.');
  return { settings, notices };
}
