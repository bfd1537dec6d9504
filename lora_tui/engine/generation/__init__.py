"""Generation: from a folder of text to judged question-answer pairs.

`documents` reads, `chunks` cuts, `slots` and `prompts` decide what is asked, a `GenerationModel` answers, `gates`
and `judging` decide what is kept, `analysis` steers what follows, and `pipeline` joins them. `job` begins it.
"""
