"""The live viewer: a local web page that follows runs from their folders and shows packages beside them.

It reads files alone, draws its charts as the report does, and needs neither torch nor a network.
"""
