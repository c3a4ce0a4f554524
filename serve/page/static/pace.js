// Whether images come fast enough to be made while somebody types.

const PATIENCE = 5000; // ms

/** Counts images that take long: the first one of a model, which has to be read from disk, and one alone say little. */
export class Pace {
  #slow = 0;

  /** Takes the time that a request took, without waiting for others; true if typing should no longer make images. */
  slow(ms) {
    this.#slow = ms > PATIENCE ? this.#slow + 1 : 0;
    if (this.#slow < 2) return false;
    this.#slow = 0;
    return true;
  }
}
