// The page: what the server says, drawn; what the user does, asked for. No count is kept here: they all come from the server.

import { Connection } from "./connection.js";

const TOTALS = ["users", "channels", "messages", "hidden", "unread"];
const TOTALS_PAUSE_MS = 250;
const TOKEN = "channels-token";
const FAREWELL = "channels-farewell"; // why one has to log in again
const STATES = { connecting: "connecting …", open: "connected", lost: "connection lost, trying again …" };

const $ = (selector) => document.querySelector(selector);
const shown = { me: null, mine: [], channels: [], visible: [], hidden: [], pushed: [], streams: [] };
let connection = null;
let current = null; // the id of the channel that is open
let endings = []; // what ends the subscriptions of that channel
let unsent = null; // the message that was not answered, under its key

// --- Coming and going ---------------------------------------------------------------------------------------------

async function call(path, payload) {
  const body = JSON.stringify(payload);
  const response = await fetch(`/api/integrations/${path}`, { method: "POST", body, headers: { "content-type": "application/json" } });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

function logOut() {
  sessionStorage.removeItem(TOKEN);
  connection?.close();
  location.reload();
}

function start(token) {
  $("#login").hidden = true;
  $("#chat").hidden = false;
  connection = new Connection(token, { onState: showState, onPush: take });
  connection.subscribe("Me", {}, ([me]) => (me ? ((shown.me = me), moved()) : logOut()));
  connection.subscribe("MyChannels", {}, (records) => ((shown.mine = records), moved()));
  connection.subscribe("AllChannels", {}, (records) => ((shown.channels = records), moved()));
  connection.subscribe("MyStreams", {}, (records) => ((shown.streams = records), moved()));
  connection.connect();
}

function showState(state) {
  if (state === "logged out") {
    sessionStorage.setItem(FAREWELL, "Your session has ended. Log in again.");
    return logOut();
  }
  $("#state").dataset.state = state;
  $("#state").textContent = STATES[state];
}

// Messages of all the user's channels, those included that were missed while the connection was lost; what a `gap` tells to
// be missing the subscriptions bring anyway.
function take(push) {
  if (push.type !== "message" || push.channel !== current) return;
  shown.pushed.push(push.message);
  drawMessages();
}

// --- Drawing ------------------------------------------------------------------------------------------------------

function moved() {
  draw();
  askTotals();
}

function draw() {
  const { me, mine, channels } = shown;
  const ids = new Map(mine.map((membership) => [membership.channel.id, membership]));
  if (current === null && me && mine.length) return openChannel(mine[0].channel.id);
  if (me) {
    const unread = mine.reduce((sum, membership) => sum + membership.unread, 0);
    fill($("#me"), [
      element("strong", me.name),
      me.moderator && element("span", "moderator", "tag"),
      unread > 0 && element("span", `${unread}`, "badge"),
      element("span", `${counted(me.message_count, "message")} in ${counted(me.channel_count, "channel")}, ${me.hidden_count} hidden`, "small soft"),
    ]);
    document.title = `${unread ? `(${unread}) ` : ""}${me.name} · Channels`;
  }
  const listed = [...channels].sort((a, b) => a.name.localeCompare(b.name));
  fill($("#mine"), listed.filter(({ id }) => ids.has(id)).map((channel) => entry(channel, ids.get(channel.id).unread)));
  fill($("#others"), listed.filter(({ id }) => !ids.has(id)).map((channel) => entry(channel, null)));
  $("#others-part").hidden = channels.length === mine.length;
  drawChannel(channels.find(({ id }) => id === current), ids.get(current));
}

function entry(channel, unread) {
  const button = element("button");
  fill(button, [
    element("span", `# ${channel.name}`, "name"),
    unread === null ? element("span", counted(channel.member_count, "member"), "small soft") : unread > 0 && element("span", `${unread}`, "badge"),
  ]);
  button.ariaCurrent = channel.id === current;
  button.dataset.channel = channel.name;
  button.dataset.key = channel.id;
  button.onclick = () => (unread === null ? join(channel.id) : openChannel(channel.id));
  const item = element("li");
  item.append(button);
  return item;
}

function drawChannel(channel, membership) {
  const there = Boolean(channel && membership);
  $("#empty").hidden = there;
  for (const part of ["#facts", "#messages", "#compose"]) $(part).hidden = !there;
  if (!there) return;
  const last = channel.last_activity ? new Date(channel.last_activity).toLocaleTimeString() : "never";
  const live = element("button", "Go live");
  live.dataset.key = "live";
  live.onclick = () => tell(connection.interact("StartStream", { channel: current }));
  const stream = shown.streams.find((item) => item.channel.id === current);
  const address = element("span", "Push your video to ", "small soft");
  if (stream) {
    address.id = "stream";
    address.append(element("code", stream.url));
  }
  fill($("#facts"), [
    element("h2", `# ${channel.name}`),
    fact("members", channel.member_count),
    fact("messages", channel.message_count),
    fact("hidden", channel.hidden_count),
    fact("last activity", last),
    live,
    stream && address,
  ]);
  if (membership.unread > 0 && document.visibilityState === "visible") {
    connection.interact("MarkRead", { membership: membership.id, count: channel.message_count }).catch(() => {});
  }
}

function drawMessages() {
  const byId = new Map();
  for (const message of [...shown.pushed, ...shown.visible, ...shown.hidden]) byId.set(message.id, message);
  const list = $("#messages");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  fill(list, [...byId.values()].sort((a, b) => a.id - b.id).map(line));
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function line(message) {
  const hidden = message.status === "hidden";
  const item = element("li", "", hidden ? "hidden" : "");
  const words = element("div");
  const head = element("span", `${message.sender.name} `, message.sender.id === shown.me?.id ? "mine" : "");
  head.style.fontWeight = "600";
  const note = `${new Date(message.at).toLocaleTimeString()}${message.status === "visible" ? "" : ` · ${message.status}`}`;
  fill(words, [head, element("span", note, "small soft"), element("p", message.text)]);
  item.append(words);
  if (shown.me?.moderator) {
    const button = element("button", hidden ? "Restore" : "Hide", hidden ? "" : "hide");
    button.dataset.key = message.id;
    button.onclick = () => tell(connection.interact(hidden ? "RestoreMessage" : "HideMessage", { message: message.id }));
    item.append(button);
  }
  return item;
}

let asking = false;
async function askTotals() {
  if (asking) return;
  asking = true;
  await new Promise((done) => setTimeout(done, TOTALS_PAUSE_MS));
  asking = false;
  const totals = await call("site/totals", {}).catch(() => null);
  if (totals) fill($("#totals"), TOTALS.map((name) => total(name, totals[name])));
}

function total(name, value) {
  const part = element("div");
  part.append(element("dt", name), flashing("dd", `total ${name}`, value));
  return part;
}

function fact(name, value) {
  const part = element("span", "", "small soft");
  part.append(flashing("b", `${current} ${name}`, value), ` ${value === 1 ? name.replace(/s$/, "") : name}`);
  return part;
}

const before = new Map();
function flashing(tag, key, value) {
  const found = element(tag, typeof value === "number" ? value.toLocaleString() : value);
  found.dataset.count = key;
  if (before.has(key) && before.get(key) !== value) found.className = "moved";
  before.set(key, value);
  return found;
}

function element(tag, text = "", className = "") {
  const found = document.createElement(tag);
  found.textContent = text;
  if (className) found.className = className;
  return found;
}

function fill(parent, children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children.filter(Boolean));
  // Else whoever uses the keyboard would lose the place with every message that comes.
  if (key) parent.querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
}

function counted(number, thing) {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}

// --- Doing --------------------------------------------------------------------------------------------------------

function openChannel(id) {
  for (const end of endings) end();
  current = id;
  Object.assign(shown, { visible: [], hidden: [], pushed: [] });
  // What was pushed is in the next read too, and that knows whether it has been hidden since.
  const keep = (where) => (records) => ((shown[where] = records), (shown.pushed = []), drawMessages());
  endings = [connection.subscribe("Timeline", { channel: id }, keep("visible"))];
  if (shown.me?.moderator) endings.push(connection.subscribe("HiddenMessages", { channel: id }, keep("hidden")));
  draw();
  drawMessages();
  $("#compose input").focus();
}

async function join(id) {
  if (await tell(connection.interact("JoinChannel", { channel: id }))) openChannel(id);
}

async function tell(request) {
  try {
    return await request;
  } catch (error) {
    $("#note").textContent = error.message;
    $("#note").hidden = false;
    setTimeout(() => ($("#note").hidden = true), 4000);
    return null;
  }
}

$("#login form").onsubmit = async (event) => {
  event.preventDefault();
  try {
    const { token } = await call("login/log_in", { name: $("#name").value });
    if (connection) return; // clicked twice
    sessionStorage.setItem(TOKEN, token); // of this tab: another one may be somebody else
    start(token);
  } catch (error) {
    complain(error.message);
  }
};

function complain(text) {
  $("#login .error").textContent = text;
  $("#login .error").hidden = false;
}

$("#open").onsubmit = async (event) => {
  event.preventDefault();
  const name = event.target.elements.name.value.trim();
  const answer = await tell(connection.interact("OpenChannel", { name }));
  if (!answer) return;
  event.target.reset();
  await join(answer.changes.find(({ record, type }) => record === "Channel" && type === "create").id);
};

$("#compose").onsubmit = async (event) => {
  event.preventDefault();
  const input = event.target.elements.text;
  const said = { channel: current, text: input.value };
  const again = unsent?.channel === said.channel && unsent.text === said.text;
  const key = again ? unsent.key : crypto.randomUUID?.(); // browsers have it where the page is safe: over TLS, and from this machine
  event.target.reset();
  if (await tell(connection.interact("SendMessage", said, key))) return;
  unsent = { ...said, key };
  input.value ||= said.text;
};

$("#leave").onclick = logOut;
document.onvisibilitychange = () => shown.me && draw();

const token = sessionStorage.getItem(TOKEN);
if (token) start(token);
else {
  $("#login").hidden = false;
  const farewell = sessionStorage.getItem(FAREWELL);
  sessionStorage.removeItem(FAREWELL);
  if (farewell) complain(farewell);
}
