"""Text in, speech out: the text box, Speak and Stop, the player and the table of sentences."""

import gradio as gr

from tools.webui.form import Form


def build_text_panel(form: Form, i18n: gr.I18n) -> None:
    """What to say, and the two buttons."""
    form.add(
        "text",
        gr.Textbox(
            "",
            label=i18n("speech.text"),
            placeholder=i18n("speech.text_hint"),
            lines=6,
            max_lines=20,
            elem_id="text",
        ),
    )
    with gr.Row():
        form.add("speak", gr.Button(i18n("speech.speak"), variant="primary", min_width=120, scale=3, elem_id="speak"))
        form.add("stop", gr.Button(i18n("speech.stop"), variant="stop", min_width=80, scale=1, elem_id="stop"))
    form.add("play_live", gr.Checkbox(True, label=i18n("speech.play_live"), container=False, elem_id="play-live"))
    # Only carries the server's word to the player's script; what is not drawn at all would not be told to it.
    form.add("live_token", gr.Textbox("", visible="hidden", elem_id="live-token"))


def build_output_panel(form: Form, i18n: gr.I18n) -> None:
    """What came out."""
    gr.Markdown(i18n("speech.live"), elem_id="live")  # seen while `assets/live.js` plays
    form.add(
        "player",
        gr.Audio(
            type="filepath",
            interactive=False,
            label=i18n("speech.player"),
            buttons=["download"],
            elem_id="player",
        ),
    )
    form.add("status", gr.Markdown(i18n("speech.nothing_yet"), elem_classes="status", elem_id="status"))
    form.add(
        "table",
        gr.Dataframe(
            headers=["#", "", "", ""],
            datatype=["number", "str", "number", "str"],
            column_count=4,
            column_widths=["10%", "52%", "14%", "24%"],
            type="array",
            interactive=False,
            show_label=False,
            wrap=True,
            buttons=[],
            max_height=320,
            visible=False,
            elem_id="sentences",
        ),
    )
    form.add("last_run", gr.State(None))
