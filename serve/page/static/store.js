// The history in IndexedDB: bounded, newest last. Where a browser has none (private windows), it is kept until the page is closed.

const MOST = 200; // entries
const BYTES = 256 << 20; // of all images

export class Store {
  #db = null;
  #memory = new Map();
  #next = 1;

  /** Opens the database and returns its entries, oldest first. */
  async open() {
    try {
      this.#db = await opened();
      return await done(this.#db.transaction('images').objectStore('images').getAll());
    } catch {
      this.#db = null;
      return [];
    }
  }

  /** Whether entries survive a reload. */
  get lasting() { return this.#db !== null; }

  /** Adds an entry, and returns its id. */
  async add(entry) {
    if (!this.#db) {
      entry.id ??= this.#next++;
      this.#memory.set(entry.id, entry);
      return entry.id;
    }
    return done(this.#write().add(entry));
  }

  async delete(id) {
    if (!this.#db) this.#memory.delete(id);
    else await done(this.#write().delete(id));
  }

  async clear() {
    this.#memory.clear();
    if (this.#db) await done(this.#write().clear());
  }

  #write() { return this.#db.transaction('images', 'readwrite').objectStore('images'); }
}

/** The entries, oldest first, that are too many. */
export function surplus(entries) {
  let bytes = entries.reduce((sum, e) => sum + weight(e), 0);
  let drop = 0;
  while (drop < entries.length - 1 && (entries.length - drop > MOST || bytes > BYTES)) bytes -= weight(entries[drop++]);
  return entries.slice(0, drop);
}

function weight(entry) {
  return entry.images.reduce((sum, i) => sum + i.blob.size, 0) + entry.thumb.size + (entry.settings.init?.size ?? 0) + (entry.settings.mask?.size ?? 0);
}

function opened() {
  return new Promise((resolve, reject) => {
    const ask = indexedDB.open('onestep', 1);
    ask.onupgradeneeded = () => ask.result.createObjectStore('images', { keyPath: 'id', autoIncrement: true });
    ask.onsuccess = () => resolve(ask.result);
    ask.onerror = ask.onblocked = () => reject(ask.error);
  });
}

function done(ask) {
  return new Promise((resolve, reject) => {
    ask.onsuccess = () => resolve(ask.result);
    ask.onerror = () => reject(ask.error);
  });
}
