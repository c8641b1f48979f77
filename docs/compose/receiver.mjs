// Receives Jetpay's webhooks with nothing but Node: verifies each delivery, and prints each event once.
import { createHash, createPublicKey, verify } from "node:crypto";
import { createServer } from "node:http";

const { KEYS_URL, PORT = "8000", HOST = "0.0.0.0" } = process.env;
const MOST_BYTES = 1_000_000;
const seen = new Set(); // a real receiver keeps this in a database

async function findKey(kid) {
  const { keys } = await (await fetch(KEYS_URL)).json();
  const jwk = keys.find((key) => key.kid === kid);
  if (!jwk) throw new Error("the key is not published");
  return createPublicKey({ key: jwk, format: "jwk" });
}

async function check(authorization, body) {
  const [head, claims, signature, ...rest] = (authorization ?? "").replace(/^Bearer /, "").split(".");
  if (!signature || rest.length) throw new Error("there is no token");
  const { alg, kid } = JSON.parse(Buffer.from(head, "base64url"));
  if (alg !== "RS256") throw new Error("the token is not signed with RS256");
  const signed = Buffer.from(`${head}.${claims}`);
  if (!verify("RSA-SHA256", signed, await findKey(kid), Buffer.from(signature, "base64url"))) {
    throw new Error("the signature is wrong");
  }
  const { iss, sub, exp, payload_hash: hash } = JSON.parse(Buffer.from(claims, "base64url"));
  if (iss !== "jetpay" || sub !== "webhook") throw new Error("the token is for something else");
  if (!(exp * 1000 > Date.now())) throw new Error("the token has expired");
  if (hash?.replace(/=+$/, "") !== createHash("sha256").update(body).digest("base64url")) {
    throw new Error("the body was changed");
  }
}

const server = createServer(async (request, response) => {
  try {
    const chunks = [];
    let size = 0;
    for await (const chunk of request) {
      size += chunk.length;
      if (size > MOST_BYTES) throw new Error("the body is too large");
      chunks.push(chunk);
    }
    const body = Buffer.concat(chunks);
    await check(request.headers.authorization, body);
    for (const event of JSON.parse(body).events) {
      if (seen.has(event.id)) continue;
      seen.add(event.id);
      console.log(JSON.stringify({ id: event.id, type: event.type, state: event.data.state }));
    }
    response.writeHead(204).end();
  } catch (error) {
    console.error(`not accepted: ${error.message}`);
    response.writeHead(401).end();
  }
});
server.listen(Number(PORT), HOST, () => console.log(`listening on ${server.address().port}`));
process.on("SIGTERM", () => { server.close(); server.closeAllConnections(); });
