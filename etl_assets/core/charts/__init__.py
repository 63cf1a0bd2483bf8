"""What pages with charts are made of in every system: axes, numbers as people read them, templates, and files that appear whole.

What is drawn and said is the system's own; nothing here knows a domain.
"""
