// The page's connection against a server of this file: prints what the page would be pushed, one JSON line.

import { pathToFileURL } from "node:url";

const sockets = [];
globalThis.location = { protocol: "http:", host: "test" };
globalThis.WebSocket = class {
  static OPEN = 1;
  constructor() {
    this.readyState = 0;
    this.sent = [];
    sockets.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  open() {
    this.readyState = 1;
    this.onopen();
  }
  say(message) {
    this.onmessage({ data: JSON.stringify(message) });
  }
  close() {}
  lose() {
    this.readyState = 3;
    this.onclose({ code: 1006 });
  }
};

const { Connection } = await import(pathToFileURL(process.argv[2]));
const pushed = [];
const connection = new Connection("t", { onState: () => {}, onPush: (push) => pushed.push(push) });
const message = (offset, epoch = "e") => ({ type: "message", channel: 7, epoch, offset, message: { id: offset } });
const joined = (offset, epoch = "e") => ({ type: "joined", channels: [{ channel: 7, epoch, offset }] });
const settled = () => new Promise((done) => setTimeout(done, 5));
const answer = (socket, entry) => {
  const { id } = socket.sent.findLast(({ name }) => name === "resume");
  socket.say({ id, type: "result", data: [{ channel: 7, member: true, recovered: true, more: false, ...entry }] });
};
const again = async () => {
  const before = sockets.length;
  sockets.at(-1).lose();
  while (sockets.length === before) await settled();
  sockets.at(-1).open();
  return sockets.at(-1);
};

connection.connect();
sockets[0].open();
sockets[0].say(joined(1));
for (const offset of [2, 2, 3]) sockets[0].say(message(offset)); // one comes twice

const second = await again();
second.say(joined(6));
second.say(message(7)); // before the answer
answer(second, { epoch: "e", offset: 5, more: true, messages: [message(4), message(5)] });
await settled();
answer(second, { epoch: "e", offset: 7, messages: [message(6), message(7)] });
second.say(message(8));
await settled();

const third = await again(); // lost again while it resumes
third.say(joined(9));
const fourth = await again();
fourth.say(joined(9));
answer(fourth, { epoch: "e", offset: 9, messages: [message(9)] });
await settled();

const fifth = await again(); // nothing was missed: nothing is asked
fifth.say(joined(9));
const asked = fifth.sent.length;

const sixth = await again(); // a log that was lost
sixth.say(joined(2, "f"));
answer(sixth, { recovered: false, epoch: "f", offset: 2, messages: [] });
await settled();
sixth.say(message(3, "f"));

Math.random = () => 0; // no pauses
connection.subscribe("Later", {}, () => {});
connection.subscribe("Never", {}, () => {});
const begun = () => sixth.sent.filter(({ type }) => type === "subscribe");
const [later, never] = begun();
sixth.say({ id: later.id, type: "error", error: { code: "unavailable", message: "" } });
sixth.say({ id: never.id, type: "error", error: { code: "not_allowed", message: "" } });
await settled();
sixth.say({ subscription: later.id, type: "end", error: { code: "unavailable", message: "" } });
await settled();
const subscribed = begun().map(({ read }) => read);
connection.interact("Say", {}, "k");
const keyed = sixth.sent.at(-1).idempotency_key;
connection.close();

const places = sockets.map(({ sent }) => sent.filter(({ name }) => name === "resume").map(({ payload }) => payload.channels[0].offset));
console.log(JSON.stringify({ pushed: pushed.map((push) => (push.type === "gap" ? "gap" : push.offset)), asked, places, subscribed, keyed }));
