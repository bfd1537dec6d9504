"""Widgets that draw what they are given; they read neither the store nor the settings.

`top_bar` and `key_hints` are the first and last line of every screen, `panel` is static text with or without a border,
`row_list` a table of any length, `line_plot` a plot, `chat_columns` a conversation, `chat_input` its prompt.
"""
