"use strict";

const connection = document.getElementById("connection");
const report = document.getElementById("report");

const source = new EventSource("stream");
source.addEventListener("open", () => { connection.textContent = "Live"; });
source.addEventListener("error", () => {
  const over = source.readyState === EventSource.CLOSED;  // it was rejected: no browser tries that again
  connection.textContent = over ? "Not connected; reload the page" : "Not connected; trying again";
});
source.addEventListener("sections", (event) => {
  for (const [id, html] of Object.entries(JSON.parse(event.data))) {
    document.getElementById(id).innerHTML = html;
  }
});

for (const form of document.forms) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const reply = await fetch(form.action, {
        method: "POST",
        headers: { Accept: "application/json" },
        body: new URLSearchParams(new FormData(form)),
      });
      const { message, detail } = await reply.json();
      report.textContent = message ?? detail;
    } catch {
      report.textContent = "The sandbox did not answer.";
    }
  });
}
