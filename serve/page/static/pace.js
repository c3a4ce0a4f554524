// Whether images come fast enough to be made while somebody types.

const PATIENCE = 5000; // ms

/** Judges by the images that were made last: two slow ones in a row are too slow, since one alone may have waited for the disk; a quick one is enough to be quick again. */
export class Pace {
  #slow = 0;

  get slow() { return this.#slow >= 2; }

  /** Takes the time that a request took, without waiting for others. */
  take(ms) { this.#slow = ms > PATIENCE ? this.#slow + 1 : 0; }

  /** Forgets the times: other settings take other ones. */
  reset() { this.#slow = 0; }
}
