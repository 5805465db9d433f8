"""What people see: views over the JSON lines that a session emits. `plain` writes text lines into a pipe; `render` draws on a terminal.

The views take decoded JSON objects (docs/json.md) and nothing else, so that whatever a program can read, a person can see.
rich is imported by what draws, never by what writes plain text: a pipe should not wait for it.
"""
