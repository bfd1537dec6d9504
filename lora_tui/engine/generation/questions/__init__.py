"""Questions about plain English text: what a sentence states, and the questions that it answers.

`passage_facts` is the way in. From below: `english` knows words, `verbs` and `phrases` find the parts of a clause,
`clauses` puts them together, `answer_spans` and `forms` know answers and questions, and the templates (`amounts`,
`places`, `things`, `reasons`) make one of the other. Nothing here knows a model; `completions` says what one is asked.
"""
