// Newest wins: at most one request runs, and what it shows is never older than what was shown before.

/**
 * Runs run(signal) for the newest wish. While somebody types, the image follows: a running request may end if it is quick, up to `grace` ms, if it is
 * in the second half of the time that the last one took, or if one was aborted before it; otherwise it is aborted for the newer one. So an image
 * comes at least every other time. Where no time is known, each request may take twice as long as the one that was aborted before. Requests
 * wait `pause` ms for more to be typed. watch(busy) is called when requests begin and end.
 */
export class Latest {
  #run; #pause; #grace; #watch;
  #took = 0; // ms of the last request that ended by itself; 0: none has
  #aborted = 0; // requests for newer ones, since one ended by itself
  #job = null; // the running request; null when none runs, or when it was aborted
  #timer = 0; // of the pause
  #limit = 0; // of the grace
  #due = false; // the pause is over, and a newer request waits for the job's end

  constructor(run, { pause = 80, grace = 400, watch = () => {} } = {}) {
    this.#run = run;
    this.#pause = pause;
    this.#grace = grace;
    this.#watch = watch;
  }

  get busy() { return this.#job !== null || this.#due || this.#timer !== 0; }

  /** Wishes for a new run: soon, or at once. */
  ask({ now = false } = {}) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#start(), now ? 0 : this.#pause);
    this.#watch(true);
    if (!this.#job) return;
    clearTimeout(this.#limit);
    const elapsed = performance.now() - this.#job.started;
    this.#limit = setTimeout(() => this.#supersede(), now ? 0 : Math.max(0, this.#allowance(elapsed) - elapsed));
  }

  /** How long a request that has run for a time may take in all while a newer one waits. */
  #allowance(elapsed) {
    const least = this.#grace * 2 ** Math.min(this.#aborted, 10);
    return this.#aborted > 0 || elapsed >= this.#took / 2 ? Math.max(least, 2 * this.#took) : least;
  }

  #supersede() {
    this.#aborted++;
    this.#abort();
  }

  /** Ends what runs and what waits. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#due = false;
    this.#aborted = 0;
    this.#abort();
    this.#watch(false);
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
        this.#took = performance.now() - job.started;
        this.#aborted = 0;
        clearTimeout(this.#limit);
        this.#limit = 0;
        this.#next();
        this.#watch(this.busy);
      }
    }
  }
}
