// Prompt, class and settings: controls that show the state and change it.

import { $, FEW, element, icon, offer, plural } from './dom.js';
import { newSeed } from './state.js';

const CHIPS = 24; // classes, at most, that are shown at once
const SCALE = 15; // the largest guidance scale of models that say none
const EDIT_STEPS = 50; // with a mask, of models that take few steps without

/** Kinds of Stable Diffusion in words; others say what they are. */
const KINDS = {
  sd15: 'Stable Diffusion 1', 'sd15-inpaint': 'Stable Diffusion 1 for inpainting', lcm15: 'latent consistency model', sd2: 'Stable Diffusion 2',
  sdxl: 'Stable Diffusion XL', ssd1b: 'SSD-1B',
};

/** Prompts that a model generates well, the first of which a new user finds. */
const EXAMPLES = {
  'builtin-text': ['a smiling cat', 'pizza', 'rocket', 'a red heart', 'ghost', 'strawberry'],
  '': ['a cat', 'a lighthouse at sunset', 'a red vintage car', 'a bowl of fruit', 'snowy mountains'],
};

export class Controls {
  #state;
  #models = [];
  #limits = { steps: 50, pixels: 1024 * 1024, images: 16 };
  #adapters = [];
  #built = ''; // the model that the controls were built for, as JSON

  constructor(state) {
    this.#state = state;
    const range = (id, show) => $(id).addEventListener('input', () => this.#set({ [id]: show($(id).valueAsNumber) }));
    range('steps', (v) => v);
    range('guidance', (v) => v);
    range('strength', (v) => v);
    $('prompt').addEventListener('input', () => this.#set({ prompt: $('prompt').value }));
    $('negative').addEventListener('input', () => this.#set({ negative: $('negative').value }));
    $('seed').addEventListener('input', () => {
      const valid = $('seed').validity.valid && $('seed').value !== '';
      $('seed-error').hidden = valid;
      $('seed').setAttribute('aria-invalid', !valid);
      if (valid) this.#set({ seed: $('seed').valueAsNumber });
    });
    $('seed').addEventListener('blur', () => this.show());
    $('examples').addEventListener('click', (e) => {
      const button = e.target.closest('button');
      if (!button) return;
      this.#state.set({ prompt: button.textContent }, { by: 'example' });
      $('prompt').focus();
    });
    $('classes').addEventListener('change', (e) => this.#set({ prompt: e.target.value }));
    $('class').addEventListener('input', () => this.#typedClass());
    $('sampler').addEventListener('change', () => this.#set({ sampler: $('sampler').value }));
    $('size').addEventListener('change', () => {
      const [width, height] = $('size').value.split('x').map(Number);
      this.#set({ width, height });
    });
    $('model').addEventListener('change', () => this.#changeModel($('model').value));
    $('live').addEventListener('change', () => this.#set({ live: $('live').value }));
    $('smooth').addEventListener('change', () => this.#set({ smooth: $('smooth').checked }));
    for (const id of ['dice', 'seed-dice']) $(id).addEventListener('click', () => this.#state.set({ seed: newSeed() }, { by: 'dice' }));
    $('variations').addEventListener('click', () => this.#state.set({ n: this.#state.get('n') > 1 ? 1 : this.variations }, { by: 'variations' }));
    $('reset').addEventListener('click', () => this.#state.reset());
    $('adapter').addEventListener('change', () => {
      const name = $('adapter').value;
      if (name) this.#state.set({ loras: [...this.#state.get('loras'), { name, weight: 1 }] });
    });
    state.addEventListener('change', () => this.show());
  }

  /** The model of the state, or the first. */
  get model() { return this.#models.find(({ name }) => name === this.#state.get('model')) ?? this.#models[0]; }
  /** Whether the model takes input images, as far as is known. */
  get takesImages() { return !this.model?.kind || this.model.images; }

  /** Whether prompts say what a model generates, or classes: 'text' or 'class'. What is not known yet is taken for the first. */
  kindOf(name) {
    const model = this.#models.find((m) => m.name === name) ?? this.#models[0];
    return model?.kind && !model.prompts ? 'class' : 'text';
  }

  /** The prompts to start with. */
  get examples() { return EXAMPLES[this.model?.name] ?? EXAMPLES['']; }

  /** Whether there is nothing to generate an image of. */
  get nothing() {
    const s = this.#state.values;
    return Boolean(this.model) && this.kindOf(s.model) === 'text' && s.prompt.trim() === '' && !(s.init && this.takesImages);
  }

  /** The steps of the model by default, from a prompt, an input image, or one with a mask; 0: not known. */
  get steps() {
    const { steps, input_steps: input, mask_steps: mask } = this.model ?? {};
    return Math.min((this.#masked && mask) || (this.#input && input) || steps || 0, this.#limits.steps);
  }

  /** Whether the strength is used: models without prompts repaint a masked area completely. */
  get usesStrength() { return !this.model?.kind || this.model.prompts || !this.#masked; }

  get #input() { return Boolean(this.#state.get('init') && this.takesImages); }

  get #masked() { return Boolean(this.#input && this.#state.get('mask')); }

  get models() { return this.#models; }
  get limits() { return this.#limits; }
  get variations() { return Math.min(9, this.#limits.images); }

  /** Takes what the server said of its models and adapters. */
  know(models, limits, adapters) {
    this.#models = models;
    this.#limits = limits;
    this.#adapters = adapters;
    const turned = this.#state.turned(this.kindOf(this.#state.get('model')));
    this.#state.set(turned, { by: 'model', quiet: true });
    this.show();
  }

  /** Shows the state. What somebody is typing in is left alone. */
  show() {
    const model = this.model;
    if (!model) return;
    const of = JSON.stringify([model, this.#models.length, this.#adapters, this.#limits]);
    if (of !== this.#built) {
      this.#built = of;
      this.#build(model);
    }
    const s = this.#state.values;
    const write = (id, value) => { if ($(id).value !== String(value)) $(id).value = value; };
    write('model', model.name);
    write('prompt', s.prompt);
    write('negative', s.negative);
    if (document.activeElement !== $('seed')) {
      write('seed', s.seed);
      $('seed-error').hidden = true;
      $('seed').removeAttribute('aria-invalid');
    }
    const text = this.kindOf(s.model) === 'text';
    $('examples').hidden = !text || s.prompt.trim() !== '';
    $('generate').disabled = this.nothing;
    if (document.activeElement !== $('class')) write('class', s.prompt);
    for (const input of $('classes').querySelectorAll('input')) input.checked = input.value === (model.classes.includes(s.prompt) ? s.prompt : '');
    const few = model.steps > 0 && model.steps <= 8;
    $('steps').max = Math.min(this.#masked && !model.prompts ? EDIT_STEPS : few || !model.steps ? 8 : 50, this.#limits.steps);
    write('steps', s.steps || this.steps || 1);
    $('steps-value').value = s.steps ? plural(s.steps, 'step') : this.steps ? `${plural(this.steps, 'step')} (default)` : 'default';
    this.#showGuidance(model, s);
    $('strength-field').hidden = !this.usesStrength;
    write('strength', s.strength);
    $('strength-value').value = s.strength.toFixed(2);
    write('sampler', s.sampler);
    this.#showSize(model, s);
    $('variations').setAttribute('aria-pressed', s.n > 1);
    write('live', s.live);
    $('smooth').checked = s.smooth;
    this.#showAdapters(s.loras);
  }

  #set(changes) { this.#state.set(changes, { by: 'control' }); }

  /** Another model keeps prompts and adapters if it takes prompts, too; those of models with classes are kept aside meanwhile. The rest is its own. */
  #changeModel(name) {
    this.#state.set({ model: name, steps: 0, guidance: 0, width: 0, height: 0, sampler: '', ...this.#state.turned(this.kindOf(name)) });
  }

  /** The guidance scale, in the range that the model is for. Without guidance a negative prompt has no effect. */
  #showGuidance(model, s) {
    const slider = $('guidance');
    const own = !(model.negative && s.sampler) && model.max_guidance; // another sampler than the model's has another range
    slider.min = own && model.min_guidance ? model.min_guidance : 1;
    slider.max = Math.max(own || SCALE, s.guidance);
    slider.step = slider.max - slider.min <= 3 ? 0.1 : 0.5;
    const now = s.guidance || model.guidance || 0;
    slider.value = now || slider.min;
    const shown = now ? Number(now.toFixed(2)).toString() : '';
    $('guidance-value').value = s.guidance ? shown : shown ? `${shown} (default)` : 'default';
    slider.setAttribute('aria-valuetext', $('guidance-value').value);
    const without = now > 0 && now <= 1;
    $('negative').disabled = without;
    $('negative').placeholder = without ? 'Has no effect without guidance (1)' : '';
  }

  /** A name that is typed selects the first class that begins with it, or else has it somewhere. */
  #typedClass() {
    const typed = $('class').value.trim().toLowerCase();
    const names = this.model.classes;
    const name = typed && (names.find((n) => n.toLowerCase() === typed) ?? names.find((n) => n.toLowerCase().startsWith(typed)) ?? names.find((n) => n.toLowerCase().includes(typed)));
    if (name || !typed) this.#set({ prompt: name || '' });
  }

  /** Shows the controls that the model has. */
  #build(model) {
    const { classes } = model;
    const chips = classes.length > 0 && classes.length <= CHIPS;
    const labels = !model.prompts && (classes.length > 0 || model.kind !== '');
    $('prompt-field').hidden = labels;
    $('classes').hidden = !labels || !chips;
    $('class-field').hidden = !labels || chips || classes.length === 0;
    if (chips) {
      const chip = (value, text) => element('label', {}, element('input', { type: 'radio', name: 'class', value }), text);
      $('classes').replaceChildren($('classes').firstElementChild, chip('', 'Any'), ...classes.map((name) => chip(name, name)));
    }
    $('class-names').replaceChildren(...(chips ? [] : classes.map((value) => element('option', { value }))));

    $('model-field').hidden = this.#models.length < 2;
    offer($('model'), this.#models.map(({ name }) => [name, name]));
    const kind = KINDS[model.kind] ?? model.kind;
    const about = kind && model.width ? `${kind}, ${model.width} × ${model.height}` : kind;
    $('model-name').textContent = this.#models.length > 1 ? about : [model.name, about].filter(Boolean).join(' · ');

    $('guidance-field').hidden = model.kind !== '' && !model.guided;
    $('input-field').hidden = !this.takesImages;
    $('negative-field').hidden = labels || (model.kind !== '' && !model.negative);
    $('opened-input').hidden = !this.takesImages;
    $('examples').replaceChildren(element('span', { className: 'quiet', textContent: 'Try' }), ...this.examples.map((text) => element('button', { type: 'button', textContent: text })));
    $('sampler-field').hidden = model.samplers.length < 2;
    offer($('sampler'), [['', 'default'], ...model.samplers.map(({ name, title }) => [name, title])]);
    $('adapters-field').hidden = labels || this.#adapters.length === 0;
    $('smooth-field').hidden = model.width >= FEW;
    $('variations').hidden = this.variations < 2;
    $('prompt').setAttribute('aria-label', `Prompt for ${model.name}`);
  }

  /** Sizes of a few shapes, as many pixels as the model's own. */
  #showSize(model, s) {
    const base = model.width;
    $('size-field').hidden = !model.prompts || base < 256;
    if ($('size-field').hidden) return;
    const own = '0x0';
    const round = (v) => Math.round(v / 64) * 64;
    const shapes = [[own, `${model.width} × ${model.height} (default)`]];
    for (const [w, h] of [[3, 4], [2, 3], [9, 16], [4, 3], [3, 2], [16, 9]]) {
      const width = round(base * Math.sqrt(w / h));
      const height = round(base * Math.sqrt(h / w));
      if (width * height <= this.#limits.pixels) shapes.push([`${width}x${height}`, `${width} × ${height}`]);
    }
    const now = `${s.width}x${s.height}`;
    if (!shapes.some(([value]) => value === now)) shapes.push([now, `${s.width} × ${s.height}`]);
    offer($('size'), shapes);
    $('size').value = now;
  }

  #showAdapters(loras) {
    const list = $('adapters');
    if ([...list.children].map((li) => li.dataset.name).join('\n') !== loras.map((l) => l.name).join('\n')) {
      list.replaceChildren(...loras.map(({ name }) => this.#adapterRow(name)));
    }
    const left = this.#adapters.filter((name) => !loras.some((l) => l.name === name));
    offer($('adapter'), [['', 'Add an adapter…'], ...left.map((name) => [name, name])]);
    $('adapter').value = '';
    $('adapter').disabled = left.length === 0;
    loras.forEach(({ weight }, i) => {
      const input = list.children[i].querySelector('input');
      if (input.valueAsNumber !== weight) input.value = weight;
      list.children[i].querySelector('output').value = weight.toFixed(2);
    });
  }

  #adapterRow(name) {
    const id = `adapter-${name}`;
    const change = (to) => this.#state.set({ loras: this.#state.get('loras').flatMap((l) => l.name !== name ? [l] : to === null ? [] : [{ name, weight: to }]) });
    const input = element('input', { type: 'range', id, min: -1, max: 2, step: 0.05, value: 1 });
    input.addEventListener('input', () => change(input.valueAsNumber));
    const remove = element('button', { type: 'button', className: 'icon', 'aria-label': `Remove ${name}` }, icon('close'));
    remove.addEventListener('click', () => {
      change(null);
      $('adapter').focus();
    });
    const li = element('li', {}, element('div', { className: 'row' }, element('label', { htmlFor: id, textContent: name }), element('span', { className: 'row' }, element('output', { htmlFor: id }), remove)), input);
    li.dataset.name = name;
    return li;
  }
}
