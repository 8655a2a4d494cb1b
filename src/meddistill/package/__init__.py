"""The one file that is shared: what is in it, how it is written, and how a stranger's file is read without trust.

Reading needs numpy, safetensors and the standard library, never torch. ``FORMAT.md`` beside this file is the
specification.
"""
