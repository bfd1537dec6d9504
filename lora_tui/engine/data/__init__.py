"""Training data: files of many formats in, typed examples out.

`read` opens any training file, with `text_lines`, `records`, `forms` and `training_text` for the formats, and returns
`examples`. `holdout` splits off validation examples, `chat_template` tokenises conversations, `survey` counts a file
for the forecast. `formatting` turns `raw_lines` into training text.
"""
