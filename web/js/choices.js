// A menu of the editor's own kind below an element, by mouse and by keyboard.

/**
 * @param {HTMLElement} below
 * @param {({text: string, chosen?: boolean, choose: () => void} | null)[]} choices null for a line between them.
 */
export function openMenu(below, choices) {
    const { left, bottom } = below.getBoundingClientRect();
    const event = new MouseEvent("click", { clientX: left + 10, clientY: bottom + 12 }); // it opens 10 pixels off
    const items = choices.map((choice) => choice && {
        content: choice.text,
        title: `${choice.chosen ? "✓ " : ""}${choice.text}`,
        callback: () => choice.choose(),
    });
    const menu = new LiteGraph.ContextMenu(items, { event });
    const entries = [...menu.root.querySelectorAll(".litemenu-entry:not(.separator)")];
    for (const entry of entries) entry.tabIndex = -1;
    menu.root.setAttribute("role", "menu");
    menu.root.addEventListener("keydown", (pressed) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[pressed.key], at = entries.indexOf(document.activeElement);
        if (step) entries.at((at + step) % entries.length).focus();
        else if (pressed.key === "Enter" || pressed.key === " ") document.activeElement.click();
        else if (pressed.key === "Escape" || pressed.key === "Tab") close();
        pressed.preventDefault();
        pressed.stopPropagation();
    });
    const close = () => {
        menu.close();
        below.focus();
    };
    (entries[choices.filter(Boolean).findIndex(({ chosen }) => chosen)] ?? entries[0])?.focus();
}
