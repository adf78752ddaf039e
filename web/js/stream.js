// A shot's events out of a body that is still arriving: one JSON object a line.

export class Lines {
  #taken = 0;

  // The events in `text` (all that has arrived so far) that were not told before.
  read(text) {
    const events = [];
    for (let end = text.indexOf("\n", this.#taken); end >= 0; end = text.indexOf("\n", this.#taken)) {
      const line = text.slice(this.#taken, end);
      this.#taken = end + 1;
      if (line.trim()) events.push(JSON.parse(line));
    }
    return events;
  }
}
