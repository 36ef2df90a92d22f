"""A page to type prompts into (extra ``app``): a queue of ``threedistill generate`` processes behind a browser.

asked.py   what a browser may ask for, and the command line that it becomes
jobs.py    the queue: children, their progress, and what is kept of them on disk
files.py   what may be downloaded of a job
doors.py   who is let in, to which addresses, with which headers
page.py    the page itself (gradio)
serve.py   the server
"""
