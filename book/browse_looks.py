"""How the book looks with forced colors, with motion unwelcome, on a phone: a part of `python -m book.browse`."""

from pathlib import Path

from playwright.sync_api import Browser

READY = "() => document.querySelectorAll('.live').length === document.querySelectorAll('.live-picture').length"
PUSH = """end => document.querySelectorAll(".live-slider input").forEach(range => {
    range.value = range[end];
    range.dispatchEvent(new Event("input"));
})"""

# Texts that a picture cuts off. The same drawing may be seen through several windows: what lies outside of one is fine.
# On a phone, the dot of the first page shows one axis at first.
OUT_OF_PICTURE = """() => [...document.querySelectorAll("svg:not(#pad) text")].filter(text => {
    const [own, frame] = [text, text.ownerSVGElement].map(part => part.getBoundingClientRect());
    const meet = own.left < frame.right && frame.left < own.right && own.top < frame.bottom && frame.top < own.bottom;
    return meet && own.width && (own.left < frame.left - 1 || own.right > frame.right + 1);
}).map(text => `"${text.textContent}" leaves its picture`)"""

# In forced colors, backgrounds are not painted: what is drawn by them needs another ink. Returns what has none.
FORCED = """() => {
    const wrong = [], ink = element => getComputedStyle(element).backgroundColor;
    for (const range of document.querySelectorAll(".live-slider input"))
        if (getComputedStyle(range).appearance === "none") wrong.push("a slider has no track and no thumb");
    for (const chosen of document.querySelectorAll(".live-buttons input:checked + span")) {
        const other = chosen.closest(".live-buttons").querySelector("input:not(:checked) + span");
        if (other && ink(other) === ink(chosen)) wrong.push("no button looks chosen");
    }
    for (const icon of document.querySelectorAll(".fa-solid"))
        if (ink(icon) === ink(document.body)) wrong.push(`${icon.className} is gone`);
    return [...new Set(wrong)];
}"""


def looks(browser: Browser, folder: Path) -> list[str]:
    """What is wrong on the pages in `folder`, at both ends of every slider, on a desk and on a phone."""
    wrong = []
    for width, wish in ((1280, {"forced_colors": "active"}), (360, {"reduced_motion": "reduce"})):
        page = browser.new_page(viewport={"width": width, "height": 800}, **wish)
        for path in sorted(folder.glob("*.html")):
            page.goto(path.as_uri())
            page.wait_for_function(READY, timeout=20_000)
            for end in ("max", "min"):
                page.evaluate(PUSH, end)
                wrong += [f"{path.name} ({end}, {width} px): {finding}" for finding in page.evaluate(OUT_OF_PICTURE)]
            wrong += [f"{path.name} (forced colors): {finding}" for finding in page.evaluate(FORCED) if width == 1280]
        page.close()
    return wrong
