"""Text out of files that are more than text: HTML, DOCX, PPTX, EPUB, PDF, each read in bounded time and memory.

`worker` reads them in a process of its own, which is given neither keys nor more than its share of memory, and which
is ended when a file takes too long. The formats' readers, `html`, `docx`, `pptx`, `epub` and `pdf`, are functions from
bytes to text: blocks with a blank line between them, a table's rows one below the other, headings as Markdown headings,
so that all formats are treated alike afterwards.
Nothing is fetched: links, images and external entities stay where they are.
"""
