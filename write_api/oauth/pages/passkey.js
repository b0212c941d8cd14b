// Hands a passkey's answer over in the form that asked for it. Where the browser knows no passkeys the form stays hidden.
"use strict";

for (const form of document.querySelectorAll("form.passkey")) {
  const parse = window.PublicKeyCredential && PublicKeyCredential.parseRequestOptionsFromJSON;
  if (!parse) {
    continue;
  }
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    if (form.elements.passkey.value) {
      return;
    }
    event.preventDefault();
    const problem = form.querySelector(".problem");
    problem.hidden = true;
    try {
      const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(JSON.parse(form.dataset.options));
      const credential = await navigator.credentials.get({ publicKey });
      form.elements.passkey.value = JSON.stringify(credential.toJSON());
      form.submit();
    } catch {
      problem.hidden = false;
    }
  });
}
