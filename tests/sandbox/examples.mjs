// The guide's Node examples, one after the other: URL, TOKEN and MERCHANT are from outside.
const { URL: url, TOKEN, MERCHANT } = process.env;
const headers = { "Authorization": `Bearer ${TOKEN}`, "Content-Type": "application/json" };

async function call(method, path, body) {
  const response = await fetch(`${url}${path}`, { method, headers, body: body && JSON.stringify(body) });
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
  return response.json();
}

const webhook = await call("POST", "/webhooks/", { callback_url: "http://127.0.0.1:9/webhooks/jetpay" });
const contact = await call("PUT", "/contact", { email: "ann@example.com", name: "Ann Payer", tags: [], language: "en" });

const form = await call("POST", `/contact/${contact.identifier}/creditcards/url`);
await fetch(form.url, { method: "POST", body: new URLSearchParams({ card_number: "4111111111111111" }) }); // the payer

const card = `/contact/${contact.identifier}/creditcards/${form.credit_card_id}`;
const reserved = await call("POST", `${card}/preauthorize`, {
  amount: 100.50, to_bank_account_id: MERCHANT, statement: "Test statement",
});
console.log("capture", (await call("POST", `/debit/${reserved.debit_id}/capture`)).state);
console.log("status", (await call("GET", `/transaction/${reserved.debit_id}/status`)).state);
const charged = await call("POST", `${card}/charge`, {
  amount: 12.50, to_bank_account_id: MERCHANT, statement: "Test statement",
});
console.log("charge", charged.transaction_state);

const other = await call("POST", `${card}/preauthorize`, {
  amount: 5, to_bank_account_id: MERCHANT, statement: "Test statement",
});
console.log("cancel", (await call("DELETE", `/transaction/${other.debit_id}`)).ok);

const account = await call("PUT", "/contact/bank_account", {
  institution: "A Bank", title: "Savings", holder_name: "Ann Payer", contact_id: contact.identifier,
  account_type: "chequing", transit_number: "00001", institution_number: "001", account_number: "1234567",
  holder_address: "1 Road", holder_address_postal_code: "A1A1A1", holder_address_city: "Town",
  holder_address_country: "CA", holder_email: "ann@example.com",
});

const { link } = await call("PUT", "/debit", {
  amount: 10000, statement: "Rent", note: "July", to_bank_account: MERCHANT,
  contact_email: "bob@example.com", contact_name: "Bob",
});
await fetch(link, { method: "POST" }); // Bob follows it
await call("PUT", "/debit", { amount: 80, statement: "Rent", to_bank_account: MERCHANT, contact_id: contact.identifier });
await call("PUT", "/credit", {
  amount: 10000, statement: "Refund", from_bank_account: MERCHANT, contact_id: contact.identifier,
});
await call("PUT", "/credit", {
  amount: 5, statement: "Refund", note: "July", from_bank_account: MERCHANT,
  to_bank_account: account.identifier, contact_id: contact.identifier,
});

console.log("webhook", (await call("GET", "/webhooks/")).length);
console.log("webhook", (await call("GET", `/webhooks/${webhook.identifier}`)).callback_url);
console.log("webhook", (await call("PATCH", `/webhooks/${webhook.identifier}`, { max_batch_size: 50 })).max_batch_size);
console.log("webhook", (await call("PATCH", `/webhooks/${webhook.identifier}`, { replay_from_event_id: 1 })).max_wait_seconds);
await call("DELETE", `/webhooks/${webhook.identifier}`);
console.log("keys", (await call("GET", "/.well-known/jwks.json")).keys.length);
