// The number of steps on Train Erasure follows its preset, unless somebody typed another one.

import { app } from "../../../scripts/app.js";

const STEPS = { recommended: 100, "paper v2": 1000, "paper v3": 1000 };

app.registerExtension({
    name: "ConceptErasure.Steps",
    nodeCreated(node) {
        if ((node.comfyClass ?? node.type) !== "ErasureLearn") return;
        const [preset, steps] = ["preset", "steps"].map((name) => node.widgets?.find((widget) => widget.name === name));
        if (!preset || !steps) return;
        const before = preset.callback;
        preset.callback = function (value, ...more) {
            if (value in STEPS && Object.values(STEPS).includes(steps.value)) steps.value = STEPS[value];
            return before?.call(this, value, ...more);
        };
    },
});
