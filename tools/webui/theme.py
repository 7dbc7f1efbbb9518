"""Colours, fonts and the few rules of layout that Gradio's theme variables cannot say."""

import gradio as gr

FONTS = ("system-ui", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif")
"""Fonts of the reader's own system: nothing is fetched, and Chinese and Japanese are drawn in one style."""

CSS = """
.gradio-container { max-width: 1320px !important; margin: 0 auto !important; }
.page-head p { margin: 0.2rem 0; }
.page-head h1 { margin-bottom: 0; }
.quiet, .quiet p { color: var(--body-text-color-subdued); font-size: var(--text-sm); margin: 0; }
.warned { border-left: 4px solid var(--color-accent); padding: 0.4rem 0.8rem; }
.reference-row { border: 1px solid var(--border-color-primary); }
.reference-row .block { border-width: 0 !important; }
.reference-row .quiet { background: var(--block-background-fill); padding: 0.3rem 0.7rem !important; }
#sentences td, #sentences th, #history td, #history th { font-family: inherit; }
#device { margin-top: -0.6rem; }
.status p { font-size: var(--text-md); margin: 0.2rem 0; }
@media (max-width: 640px) { .gradio-container { padding: 0.4rem !important; } }
"""


def theme() -> gr.themes.Base:
    """The page's theme; light and dark follow the reader's system."""
    return gr.themes.Default(
        primary_hue="teal",
        secondary_hue="cyan",
        neutral_hue="slate",
        radius_size="md",
        font=list(FONTS),
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
