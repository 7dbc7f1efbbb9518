"""Colours, fonts and the few rules of layout that Gradio's theme variables cannot say."""

import gradio as gr

FONTS = ("system-ui", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif")
"""Fonts of the reader's own system: nothing is fetched, and Chinese and Japanese are drawn in one style."""

CSS = """
.gradio-container { width: 100%; max-width: 1320px !important; margin: 0 auto !important;
                    overflow: clip !important; }
.options > .form { display: grid !important; gap: 0; background: var(--block-background-fill) !important;
                   grid-template-columns: repeat(auto-fill, minmax(min(100%, 14.5rem), 1fr)); }
.options > .form > * { min-width: 0 !important; }
.in-line { flex-wrap: nowrap !important; }
.in-line > button { min-width: 0 !important; padding-inline: 0.3rem; }
.beside { align-self: flex-end; }
.page-head p { margin: 0.2rem 0; }
.page-head h1 { margin-bottom: 0; }
.quiet, .quiet p { color: var(--body-text-color-subdued); font-size: var(--text-sm); margin: 0; }
.warned { border-left: 4px solid var(--color-accent); padding: 0.4rem 0.8rem; }
.reference-row { border: 1px solid var(--border-color-primary); }
.reference-row .block { border-width: 0 !important; }
.reference-row .quiet { background: var(--block-background-fill); padding: 0.3rem 0.7rem !important; }
#sentences td, #sentences th, #history td, #history th { font-family: inherit; }
#device { margin-top: -0.6rem; }
#live { display: none; }
#live.sounding { display: flex; align-items: baseline; gap: 0.6rem; }
#live p { margin: 0.2rem 0; color: var(--color-accent); font-weight: 600; }
#live p::before { content: "♪ "; animation: live-beat 1s ease-in-out infinite alternate; }
@keyframes live-beat { from { opacity: 1; } to { opacity: 0.25; } }
#live.sounding::after { content: attr(data-seconds); color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.status p { font-size: var(--text-md); margin: 0.2rem 0; }
#slice-preview { min-height: 4rem; }
.drawing-box { overflow-x: auto; }
.drawing { display: block; width: 100%; min-width: 54rem; height: auto; }
.job { border: 1px solid var(--border-color-primary); border-radius: var(--radius-md); padding: 0.4rem 0.7rem;
       margin: 0.3rem 0; }
.job .bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.job .bar > div { height: 100%; background: var(--color-accent); }
.job, #jobs-details code { overflow-wrap: anywhere; white-space: normal; }
.job.failed { border-left: 4px solid #dc2626; }
.flush > .html-container { padding: 0 !important; }
.facts { border-collapse: collapse; width: 100%; }
.facts, .facts tr { border: none !important; }
.facts th { width: 8rem; min-width: 5.5rem; font-weight: 600; }
.facts tr + tr { border-top: 1px solid var(--border-color-primary) !important; }
.facts td, .facts th { border: none !important; text-align: start; padding: 0.2rem 0.6rem 0.2rem 0;
                       vertical-align: top; overflow-wrap: anywhere; }
#edit-bar { background: var(--body-background-fill); gap: 0.4rem; padding: 0.3rem 0; }
@media (min-width: 900px) { #edit-bar { position: sticky; top: 0; z-index: 100; } }
.clip-row { border-bottom: 1px solid var(--border-color-primary); padding: 0.2rem 0; }
.dark audio { color-scheme: dark; }
.clip-row .quiet { overflow-wrap: anywhere; }
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
