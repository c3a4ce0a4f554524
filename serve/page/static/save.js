// Saving: a link to a file with a name that says what it is.

import { $ } from './dom.js';
import { withTextsOf } from './png.js';

let saving = null; // the images that the link is for

/** Makes the link to save what is shown: the image, or a sheet of the variations, {blob, bytes} of a size. */
export async function offerSave(images, { width, height }, seed, about) {
  if (images.length === 0) return;
  saving = images;
  const blob = images.length === 1 ? images[0].blob : await sheet(images, width, height);
  if (saving !== images) return;
  const link = $('save');
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(blob);
  const words = about.toLowerCase().normalize('NFKD').replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-+|-+$/g, '').slice(0, 60);
  link.download = `${words || 'image'}-${seed}${images.length > 1 ? `-${images.length}` : ''}.png`;
  link.removeAttribute('aria-disabled');
}

/** All variations in one PNG, with the settings of the first. */
async function sheet(images, width, height) {
  const columns = Math.ceil(Math.sqrt(images.length));
  const canvas = new OffscreenCanvas(width * columns, height * Math.ceil(images.length / columns));
  const c = canvas.getContext('2d');
  for (const [i, { blob }] of images.entries()) {
    const bitmap = await createImageBitmap(blob);
    c.drawImage(bitmap, (i % columns) * width, Math.floor(i / columns) * height);
    bitmap.close();
  }
  const bytes = new Uint8Array(await (await canvas.convertToBlob({ type: 'image/png' })).arrayBuffer());
  return withTextsOf(bytes, images[0].bytes);
}
