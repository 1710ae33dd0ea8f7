"""Tables to what is read: terminal, Markdown, pictures, JSON, YAML."""
