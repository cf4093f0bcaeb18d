// The page of the links: #setup=TOKEN, #reset-password=TOKEN, #verify-email=TOKEN.
const done = {
  setup: "The administrator is made. Log in with POST /api/auth/login.",
  "reset-password": "The password is set, and every session is ended. Log in with the new one.",
  "verify-email": "The address is verified.",
};
const answer = document.getElementById("answer");
let token = "";

function say(text) {
  answer.textContent = text;
}

/** Shows the form of the link, whose token must not stay in the address bar or the history. */
function open() {
  const link = /^#(setup|reset-password|verify-email)=([\w-]+)$/.exec(location.hash);
  if (!link) return;
  history.replaceState(null, "", location.pathname + location.search);
  for (const other of document.forms) other.hidden = true;
  say("");
  token = link[2];
  const form = document.getElementById(link[1]);
  if (!form) {
    say("This server has no accounts: the link is of another one.");
    return;
  }
  form.hidden = false;
  (form.querySelector("input") ?? form.querySelector("button")).focus();
}

/** Each fault beside its field; what belongs to no field in the answer. */
function show(form, problem) {
  const others = [];
  let first = null;
  for (const { field, detail } of problem.errors ?? []) {
    const input = form.querySelector(`input[name="${field}"]`);
    if (!input) {
      others.push(`${field} ${detail}`);
      continue;
    }
    input.setAttribute("aria-invalid", "true");
    document.getElementById(`${input.id}-fault`).textContent = detail;
    first ??= input;
  }
  say([problem.detail, ...others].join(" "));
  (first ?? answer).focus();
}

async function send(form) {
  for (const input of form.querySelectorAll("input")) {
    input.removeAttribute("aria-invalid");
    document.getElementById(`${input.id}-fault`).textContent = "";
  }
  const button = form.querySelector("button");
  const sent = token;
  button.disabled = true;
  say("One moment.");
  try {
    const response = await fetch(form.getAttribute("action"), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token, ...Object.fromEntries(new FormData(form)) }),
    });
    if (response.ok) {
      say(done[form.id]);
      // Another link may have been opened meanwhile: its form and its token stay.
      if (token !== sent) return;
      form.hidden = true;
      form.reset();
      token = "";
      answer.focus();
    } else show(form, await response.json());
  } catch {
    say("The server cannot be reached. Try again.");
    answer.focus();
  } finally {
    button.disabled = false;
  }
}

for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void send(form);
  });
}
addEventListener("hashchange", open);
open();
