"""What pictures and pages of every system have in common: theme, SVG, numbers as people read them, templates, whole files.

What is drawn, and in which words, is the system's own; nothing here knows a domain.
"""
