"""The page at `/docs`: what there is to call, and a form to try it, with no file from anywhere else.

Decides how the OpenAPI document is shown to people. Leaves its content to `openapi`. Invariant: text of the document
reaches the page as text only, and the page's policy allows no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --accent: #2a6df4; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } summary code { font-weight: 600; } summary span { opacity: .75; margin-left: .6rem; }
pre, textarea, input { font: 13px/1.4 ui-monospace, monospace; background: var(--soft); border: 1px solid var(--line);
  border-radius: 4px; padding: .5rem; width: 100%; box-sizing: border-box; overflow: auto; }
textarea { min-height: 6rem; resize: vertical; } label { display: block; margin: .6rem 0 .2rem; font-size: .85rem; }
button { background: var(--accent); color: #fff; border: 0; border-radius: 4px; padding: .4rem 1rem; margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; vertical-align: top; }
.bad { color: #c22; }
"""

_SCRIPT: Final = """
'use strict';
const make = (tag, text, attributes) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  return element;
};
let schemas = {};
const resolve = schema => schema && schema.$ref ? schemas[schema.$ref.split('/').pop()] || {} : schema || {};
const nameOf = schema => {
  if (!schema) return 'anything';
  if (schema.$ref) return schema.$ref.split('/').pop();
  if (schema.anyOf) return schema.anyOf.map(nameOf).join(' or ');
  if (schema.enum) return schema.enum.map(value => JSON.stringify(value)).join(' or ');
  if (schema.type === 'array') return 'array of ' + nameOf(schema.items);
  return [schema.type || 'anything', schema.format ? '(' + schema.format + ')' : ''].join(' ').trim();
};
const example = (schema, depth) => {
  const found = resolve(schema);
  if ('default' in found) return found.default;
  if (found.anyOf) return example(found.anyOf[0], depth);
  if (found.enum) return found.enum[0];
  if (found.type === 'object') {
    const result = {};
    const fields = found.properties || {};
    if (depth < 3) for (const name of found.required || []) result[name] = example(fields[name], depth + 1);
    return result;
  }
  const samples = { string: '', integer: 0, number: 0, boolean: false, array: [] };
  if (found.format === 'date-time') return new Date().toISOString();
  return found.type in samples ? samples[found.type] : null;
};
const fieldTable = schema => {
  const table = make('table');
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const row = make('tr');
    const required = (schema.required || []).includes(name);
    const cells = [name, nameOf(field), required ? 'required' : '', field.description || ''];
    row.append(...cells.map(text => make('td', text)));
    table.append(row);
  }
  return table;
};
const tryForm = (path, operation, body) => {
  const form = make('form');
  const payload = make('textarea', JSON.stringify(example(body, 0), null, 2), { spellcheck: 'false' });
  const token = make('input', undefined, { placeholder: 'Bearer …', autocomplete: 'off' });
  const key = make('input', undefined, { placeholder: 'none', autocomplete: 'off' });
  const answer = make('pre', '');
  form.append(make('label', 'Payload'), payload, make('label', 'Authorization'), token);
  if ((operation.parameters || []).length) form.append(make('label', 'Idempotency-Key'), key);
  form.append(make('button', 'Send'), answer);
  form.addEventListener('submit', async event => {
    event.preventDefault();
    const headers = { 'Content-Type': 'application/json' };
    if (token.value) headers.Authorization = token.value;
    if (key.value) headers['Idempotency-Key'] = key.value;
    answer.className = '';
    try {
      const url = new URL('.' + path, document.baseURI);
      const response = await fetch(url, { method: 'POST', headers, body: payload.value });
      const text = await response.text();
      answer.className = response.ok ? '' : 'bad';
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch (error) { shown = text; }
      answer.textContent = response.status + '\\n' + shown;
    } catch (error) {
      answer.className = 'bad';
      answer.textContent = String(error);
    }
  });
  return form;
};
const showOperation = (path, operation) => {
  const details = make('details');
  const summary = make('summary');
  summary.append(make('code', 'POST ' + path), make('span', operation.summary || ''));
  details.append(summary);
  if (operation.description) details.append(make('p', operation.description));
  const taken = operation.requestBody.content['application/json'];
  details.append(make('label', 'Takes'));
  // Raw bytes with a signature, to a webhook: nothing that a form could send.
  details.append(taken ? fieldTable(taken.schema) : make('p', operation.requestBody.description));
  const result = operation.responses['200'].content['application/json'].schema;
  details.append(make('label', 'Gives'), make('pre', JSON.stringify(result, null, 2)));
  if (taken) details.append(tryForm(path, operation, taken.schema));
  return details;
};
const show = document_ => {
  schemas = document_.components.schemas;
  const main = document.querySelector('main');
  main.textContent = '';
  const groups = {};
  for (const [path, item] of Object.entries(document_.paths)) {
    const tag = item.post.tags[0];
    (groups[tag] = groups[tag] || []).push(showOperation(path, item.post));
  }
  for (const [tag, operations] of Object.entries(groups)) main.append(make('h2', tag), ...operations);
  main.append(make('h2', 'schemas'));
  for (const [name, schema] of Object.entries(schemas)) {
    const details = make('details');
    details.append(make('summary', name), fieldTable(schema));
    main.append(details);
  }
};
fetch('openapi.json').then(response => response.json().then(body => {
  if (!response.ok) throw new Error(body.error.message);
  show(body);
})).catch(error => { document.querySelector('main').textContent = String(error); });
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


DOCS_PAGE: Final = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
    f"<style>{_STYLE}</style></head><body><h1>API</h1>"
    '<p>The document behind this page: <a href="openapi.json">openapi.json</a></p><main>Loading…</main>'
    f"<script>{_SCRIPT}</script></body></html>"
)
DOCS_POLICY: Final = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
