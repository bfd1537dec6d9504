"""Questions about plain English text: what a sentence states, and the questions that it answers.

`passage_facts` is the way in. From below: `english` knows words, `verbs` and `phrases` find the parts of a clause,
`clauses` puts them together, `answer_spans` and `forms` know answers and questions, and the templates (`amounts`,
`identities`, `things`, `places`, `reasons`) make one of the other. `references` and `signs` tell what
a subject stands for and how a pair came about. Nothing here knows a model; `completions` says what one is asked.
"""
