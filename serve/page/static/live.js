// Newest wins: at most one request runs, and what it shows is never older than what was shown before.

/**
 * Runs run(signal) for the newest wish. While somebody types, a running request may end if it is quick, so that the image follows; after
 * `grace` ms it is aborted for the newer one. Requests wait `pause` ms for more to be typed.
 */
export class Latest {
  #run; #pause; #grace;
  #job = null; // the running request; null when none runs, or when it was aborted
  #timer = 0; // of the pause
  #limit = 0; // of the grace
  #due = false; // the pause is over, and a newer request waits for the job's end

  constructor(run, { pause = 80, grace = 400 } = {}) {
    this.#run = run;
    this.#pause = pause;
    this.#grace = grace;
  }

  get busy() { return this.#job !== null || this.#due || this.#timer !== 0; }

  /** Wishes for a new run: soon, or at once. */
  ask({ now = false } = {}) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#start(), now ? 0 : this.#pause);
    if (!this.#job) return;
    clearTimeout(this.#limit);
    const left = now ? 0 : this.#grace - (performance.now() - this.#job.started);
    this.#limit = setTimeout(() => this.#abort(), Math.max(0, left));
  }

  /** Ends what runs and what waits. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#due = false;
    this.#abort();
  }

  #abort() {
    clearTimeout(this.#limit);
    this.#limit = 0;
    const job = this.#job;
    this.#job = null;
    job?.controller.abort();
    this.#next();
  }

  #next() {
    if (!this.#due) return;
    this.#due = false;
    this.#start();
  }

  async #start() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#job) {
      this.#due = true;
      return;
    }
    const job = { controller: new AbortController(), started: performance.now() };
    this.#job = job;
    try {
      await this.#run(job.controller.signal);
    } finally {
      if (this.#job === job) {
        this.#job = null;
        clearTimeout(this.#limit);
        this.#limit = 0;
        this.#next();
      }
    }
  }
}
