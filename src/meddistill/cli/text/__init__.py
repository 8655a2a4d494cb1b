"""Results as text for an 80-column terminal. Every function takes the same document that ``--json`` prints."""
