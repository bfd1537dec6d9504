"""An OpenAI-compatible server of one base model and its adapters, for ``--run serve``.

`choice` says what is served, without torch; `decoding` is the thread that decodes; `api_requests`, `text_stream` and
`replies` are the two sides of a request; `http_app` joins them. `handover` names the servers for more than this.
"""
