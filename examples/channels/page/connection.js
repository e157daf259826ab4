// One WebSocket to the server: questions with answers, subscriptions that outlive a lost connection, and what is pushed:
// the messages of channels, which are numbered, so that what was missed while there was no connection is asked for.

const RETRY_FIRST_MS = 250;
const RETRY_MS_MAX = 8_000;
const NOT_AUTHENTICATED = 4401;

export class ServerError extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

export class Connection {
  #token;
  #socket = null;
  #number = 0;
  #waiting = new Map();
  #subscriptions = new Map();
  #places = new Map(); // of each channel: the epoch and offset of the last message that was pushed on
  #recovering = new Map(); // of each channel whose missed messages were asked for: what came meanwhile
  #attempts = 0;
  #closed = false;

  // `onState("connecting" | "open" | "lost" | "logged out")`; `onPush(message)` for what nobody asked for: of each channel
  // every message once and in order, or `{type: "gap", channels}` where some are lost.
  constructor(token, { onState, onPush }) {
    this.#token = token;
    this.onState = onState;
    this.onPush = onPush;
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.onState(this.#attempts ? "lost" : "connecting");
    const socket = new WebSocket(`${scheme}//${location.host}/ws?token=${encodeURIComponent(this.#token)}`);
    this.#socket = socket;
    socket.onmessage = (event) => this.#take(JSON.parse(event.data));
    socket.onclose = (event) => this.#lost(event.code);
    socket.onopen = () => {
      for (const id of this.#subscriptions.keys()) this.#subscribe(id);
      this.onState("open");
    };
  }

  close() {
    this.#closed = true;
    this.#socket?.close();
  }

  // With a `key`, a repeat of what was done already, but whose answer got lost, does nothing and is answered the same.
  interact(name, payload = {}, key = undefined) {
    return this.ask({ type: "interaction", name, payload, idempotency_key: key });
  }

  ask(request) {
    return new Promise((resolve, reject) => {
      if (this.#socket?.readyState !== WebSocket.OPEN) {
        reject(new ServerError({ code: "offline", message: "There is no connection just now. Try again in a moment." }));
        return;
      }
      const id = ++this.#number;
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ id, ...request }));
    });
  }

  // Calls `onData(records)` with what the interaction `read` gives, now and after every change. Gives a function that ends it.
  subscribe(read, payload, onData) {
    const id = `s${++this.#number}`;
    this.#subscriptions.set(id, { read, payload, onData });
    if (this.#socket?.readyState === WebSocket.OPEN) this.#subscribe(id);
    return () => {
      this.#subscriptions.delete(id);
      this.ask({ type: "unsubscribe", subscription: id }).catch(() => {});
    };
  }

  #subscribe(id) {
    const { read, payload } = this.#subscriptions.get(id);
    this.#socket.send(JSON.stringify({ id, type: "subscribe", read, payload }));
  }

  // What can't be read just now can be later; what one may not read is given up.
  #unread(id, { code }) {
    if (code !== "unavailable") this.#subscriptions.delete(id);
    const open = () => this.#subscriptions.has(id) && this.#socket?.readyState === WebSocket.OPEN;
    setTimeout(() => open() && this.#subscribe(id), RETRY_MS_MAX * Math.random());
  }

  #take(message) {
    this.#attempts = 0;
    const subscription = this.#subscriptions.get(message.id ?? message.subscription);
    if (message.type === "ping") this.#socket.send('{"type":"pong"}');
    else if (subscription && (message.type === "result" || message.type === "change")) {
      subscription.onData(message.data.records);
    } else if (subscription && (message.type === "error" || message.type === "end")) {
      this.#unread(message.id ?? message.subscription, message.error);
    } else if (message.type === "result") this.#settle(message.id, "resolve", message.data);
    else if (message.type === "error") this.#settle(message.id, "reject", new ServerError(message.error));
    else if (message.type === "message") this.#pushed(message);
    else if (message.type === "joined") this.#joined(message.channels);
    else {
      for (const place of message.type === "gap" ? message.channels : []) this.#places.set(place.channel, place);
      for (const channel of message.type === "left" ? message.channels : []) this.#places.delete(channel);
      this.onPush(message);
    }
  }

  #pushed(message) {
    const { channel, epoch, offset } = message;
    const held = this.#recovering.get(channel);
    if (held) return void held.push(message);
    const place = this.#places.get(channel);
    if (place && place.epoch === epoch && offset <= place.offset) return; // had it already
    this.#places.set(channel, { channel, epoch, offset });
    this.onPush(message);
  }

  // The channels are live from these places on. Whoever was at another place before has missed something.
  #joined(places) {
    const missed = places.filter(({ channel, epoch, offset }) => {
      const before = this.#places.get(channel);
      return before && (before.epoch !== epoch || before.offset !== offset);
    });
    for (const place of places) if (!this.#places.has(place.channel)) this.#places.set(place.channel, place);
    for (const { channel } of missed) this.#recovering.set(channel, []);
    if (missed.length) this.#resume(missed.map(({ channel }) => this.#places.get(channel)));
  }

  async #resume(places) {
    let answers;
    try {
      answers = await this.ask({ type: "api", namespace: "channels", name: "resume", payload: { channels: places } });
    } catch {
      for (const { channel } of places) this.#recovering.delete(channel);
      return; // the connection is lost again: the next one begins from the same places
    }
    const more = [];
    for (const { channel, epoch, offset, member, recovered, more: unfinished, messages } of answers) {
      if (member && !recovered) this.onPush({ type: "gap", channels: [{ channel, epoch, offset }] });
      for (const message of messages) this.onPush(message);
      if (member) this.#places.set(channel, { channel, epoch, offset });
      if (unfinished) more.push(this.#places.get(channel));
      else {
        const held = this.#recovering.get(channel) ?? [];
        this.#recovering.delete(channel);
        for (const message of held) this.#pushed(message);
      }
    }
    if (more.length) await this.#resume(more);
  }

  #settle(id, how, value) {
    this.#waiting.get(id)?.[how](value);
    this.#waiting.delete(id);
  }

  #lost(code) {
    for (const { reject } of this.#waiting.values()) {
      reject(new ServerError({ code: "offline", message: "The connection was lost before the answer came." }));
    }
    this.#waiting.clear();
    this.#recovering.clear();
    if (this.#closed) return;
    if (code === NOT_AUTHENTICATED) {
      this.onState("logged out");
      return;
    }
    this.onState("lost");
    // Full jitter: all clients of a server lose it at the same instant.
    const pause = Math.random() * Math.min(RETRY_MS_MAX, RETRY_FIRST_MS * 2 ** this.#attempts++);
    setTimeout(() => this.#closed || this.connect(), pause);
  }
}
