// Tells the server which language the editor has, so that what our nodes say is in it, too.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const SETTING = "Comfy.Locale";

function tell() {
    const client = api.clientId ?? api.initialClientId;
    const language = app.extensionManager?.setting?.get?.(SETTING) ?? app.ui?.settings?.getSettingValue?.(SETTING);
    if (!client || !language) return;
    api.fetchApi("/concept_erasure/language", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ client, language }),
    }).catch(() => {}); // without it, nodes speak English
}

app.registerExtension({
    name: "ConceptErasure.Language",
    setup() {
        tell();
        api.addEventListener("status", tell, { once: true }); // the first word of the server, with our number
        api.addEventListener("reconnected", tell);
        app.ui?.settings?.addEventListener?.(`${SETTING}.change`, () => setTimeout(tell));
    },
});
